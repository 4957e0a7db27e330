"""Words of a definition that stand for others: ``$arg*``, ``$argN``, ``:%pd`` and ``:%pD``.

As ``traceprobe_expand_meta_args()`` and ``traceprobe_expand_dentry_args()`` (kernel/trace/trace_probe.c, Linux 6.12);
what they make is what ``dynamic_events`` shows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from fprobe_gdb.errors import TypeLookupError
from fprobe_gdb.kernel.btf import Btf
from fprobe_gdb.probe_events.probe_point import ProbePoint

__all__ = ["expand_arguments", "expand_dentries"]

# MAX_BTF_ARGS_LEN and MAX_DENTRY_ARGS_LEN: buffers for all words that are written anew, each with its NUL.
_ARGUMENTS_BYTES = 128
_DENTRIES_BYTES = 256
#: Index of the first argument among the words of a definition.
_FIRST_WORD = 2
_NUMBERED = re.compile(r"\$arg([0-9]*)(.*)", re.DOTALL)


def expand_arguments(at: ProbePoint, words: Sequence[str]) -> list[str]:
    """Write parameters' names for ``$arg*`` and for words that begin with ``$argN``.

    :raise ProbeEventError: there are not so many, or ``$arg*`` is given twice.
    """
    star: int | None = None
    found = False
    for index, word in enumerate(words):
        if word.startswith("$arg"):
            at.log.index = index + _FIRST_WORD
            found = True
            if word[4:5] and word[4] in "0123456789":
                continue
            if word[4:5] != "*":
                raise at.log.error(0, "BAD_VAR")
            if star is not None:
                raise at.log.error(0, "DOUBLE_ARGS")
            star = index
    if not found:
        return list(words)
    if not at.params:
        if star is not None:
            # The kernel goes on, and stumbles over "$arg*" as a variable.
            at.log.note(0, "NOSUP_BTFARG")
        return list(words)
    return _Expansion(at).expand(words, star)


class _Expansion:
    def __init__(self, at: ProbePoint) -> None:
        self._at = at
        self._left_bytes = _ARGUMENTS_BYTES

    def expand(self, words: Sequence[str], star: int | None) -> list[str]:
        made: list[str] = []
        for index, word in enumerate(words):
            self._at.log.index = index + _FIRST_WORD
            if index == star:
                made += [self._parameter(number, "") for number in range(len(self._at.params))]
                continue
            numbered = _NUMBERED.match(word)
            if numbered is None:
                made.append(word)
                continue
            number, suffix = numbered.groups()
            if suffix and not suffix.startswith(":"):
                raise self._at.log.error(0, "BAD_VAR", "ENOENT")
            # More digits than any 32-bit number has would cost time without end.
            made.append(self._parameter(int(number[:20]) - 1, suffix))
        return made

    def _parameter(self, number: int, suffix: str) -> str:
        if number >= len(self._at.params):
            raise self._at.log.error(0, "NO_BTFARG", "ENOENT")
        if number < 0:
            # DIFFERS: $arg0 makes the kernel read before its table of parameters.
            raise self._at.log.error(0, "NO_BTF_ENTRY", "ENOENT")
        text = self._at.params[number].name + suffix
        size_bytes = len(text.encode()) + 1
        if size_bytes > self._left_bytes:
            raise self._at.log.error(0, "ARGS_2LONG", "E2BIG")
        self._left_bytes -= size_bytes
        return text


def expand_dentries(at: ProbePoint, words: Sequence[str]) -> list[str]:
    """Write pointers to follow for ``:%pd`` (of a dentry, its name) and ``:%pD`` (of a file, its dentry's name).

    :raise ProbeEventError: too many of them (``-ENOMEM``), or there are no types that say where to go.
    """
    made: list[str] = []
    left_bytes = _DENTRIES_BYTES
    for word in words:
        if not word.endswith((":%pd", ":%pD")):
            made.append(word)
            continue
        name, equals, place = word[: -len(":%pd")].partition("=")
        if not equals:
            name, place = "", name
        if word.endswith("D"):
            place = f"+{_offset(at, 'file', 'f_path.dentry'):#x}({place})"
        text = f"{name}{equals}+0x0(+{_offset(at, 'dentry', 'd_name.name'):#x}({place})):string"
        size_bytes = len(text.encode()) + 1
        if size_bytes > left_bytes:
            raise at.log.unlogged("ENOMEM", f"too many :%pd and :%pD; they have room for {_DENTRIES_BYTES} characters")
        left_bytes -= size_bytes
        made.append(text)
    return made


def _offset(at: ProbePoint, struct: str, path: str) -> int:
    btf: Btf | None = at.catalog.btf
    if btf is None:
        raise at.log.unlogged("EOPNOTSUPP", f":%pd and :%pD need types (BTF), to know where struct {struct} has {path}")
    try:
        return btf.struct(struct).find_member(path).byte_offset
    except TypeLookupError as error:
        raise at.log.unlogged("EOPNOTSUPP", f":%pd and :%pD: {error}") from error
