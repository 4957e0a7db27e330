"""What the names of an expression stand for, at the entry or the exit of one function."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

from fprobe_gdb.errors import TypeLookupError
from fprobe_gdb.expr.kinds import INT, LONG, TEXT, IntKind, Kind
from fprobe_gdb.kernel.btf import Btf, FuncProto, Param, PointerType
from fprobe_gdb.kernel.values import error_name

__all__ = ["EXIT_ONLY", "FIELDS", "SPECIAL", "WORDS", "Scope", "enumerator", "error_numbers", "near"]

_ADDRESS = IntKind(64, False, is_address=True)
#: Names that are plain attributes of a hit.
FIELDS: Mapping[str, Kind] = {
    "comm": TEXT,
    "pid": INT,
    "tgid": INT,
    "cpu": INT,
    "caller": TEXT,
    "caller_ip": _ADDRESS,
    "duration": LONG,
    "func": TEXT,
    "ip": _ADDRESS,
}
#: Names with rules of their own; ``args`` and ``reg`` only before a dot.
SPECIAL = ("retval", "task", "args", "reg")
#: Known only when a function returns.
EXIT_ONLY = frozenset(("retval", "duration"))
#: C's and the kernel's words for numbers.
WORDS = ("true", "false", "NULL")

_MAX_ERRNO = 4095
_MAX_NEAR = 3


@dataclass(frozen=True, eq=False)
class Scope:
    """Where an expression is evaluated: at the entry or exit of a function.

    :param proto: None where the function's prototype is not known: then ``retval`` is a ``long``, and arguments are
        ``$arg1`` to ``$arg6``, ``unsigned long`` each.
    :param btf: None for a kernel without type information.
    """

    func: str
    btf: Btf | None = None
    proto: FuncProto | None = None
    is_exit: bool = False

    @property
    def params(self) -> Iterator[tuple[str, Param]]:
        """Parameters by the names that :class:`~fprobe_gdb.kernel.values.Arguments` gives them."""
        for number, param in enumerate(self.proto.params if self.proto else (), 1):
            yield param.name or f"arg{number}", param

    @property
    def task_type(self) -> PointerType | None:
        """``struct task_struct *``, where the kernel's types have it."""
        return _task_type(self.btf) if self.btf is not None else None


# Asked for once for each probed function, and takes over a millisecond.
@lru_cache(maxsize=8)
def _task_type(btf: Btf) -> PointerType | None:
    try:
        return btf.pointer_to(btf.type("struct task_struct"))
    except TypeLookupError:
        return None


@cache
def error_numbers() -> Mapping[str, int]:
    """Positive error numbers by name (``ENOENT``), the kernel's own and libc's second names among them."""
    own = {name[1:]: code for code in range(1, _MAX_ERRNO + 1) if (name := error_name(-code)) is not None}
    return {name: getattr(errno, name) for name in dir(errno) if name.startswith("E")} | own


def enumerator(btf: Btf, name: str) -> tuple[int, ...]:
    """The different values of an enumerator's name in a kernel. Some 100 ms at the first use, none after that."""
    return tuple(dict.fromkeys(enum.values[name] for enum in btf.enumerators.get(name, ())))


def near(name: str, known: Iterable[str]) -> list[str]:
    """The names most like one that is unknown."""
    return difflib.get_close_matches(name, list(known), _MAX_NEAR)
