"""The defined events, and the rules of tracefs' ``dynamic_events`` for adding and removing them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from fprobe_gdb.probe_events.catalog import ProbeCatalog
from fprobe_gdb.probe_events.definition import EventDefinition, parse_definition
from fprobe_gdb.probe_events.errors import ErrorLog, ProbeEventError, TracepointRefused
from fprobe_gdb.probe_events.numbers import NotANumber, kstrtol
from fprobe_gdb.probe_events.program import Op, OpKind

__all__ = ["ProbeEvents"]

#: WRITE_BUFSIZE less two: what the kernel takes as one line.
_MAX_LINE_BYTES = 4094
_MASK64 = (1 << 64) - 1
_SPACES = re.compile(r"[ \t\n\v\f\r]+")


class ProbeEvents:
    """What ``dynamic_events`` is to the kernel: a list of definitions, newest last.

    :param catalog: the kernel that they are for.
    """

    def __init__(self, catalog: ProbeCatalog) -> None:
        self._catalog = catalog
        self._definitions: list[EventDefinition] = []

    def __iter__(self) -> Iterator[EventDefinition]:
        return iter(self._definitions)

    def __len__(self) -> int:
        return len(self._definitions)

    def __str__(self) -> str:
        """The text of the file: one definition a line."""
        return "".join(f"{definition}\n" for definition in self._definitions)

    def add(self, line: str) -> EventDefinition | None:
        """Do what a line says: define an event, or remove some.

        :return: the new definition; None for a line that is empty, a comment, or removes.
        :raise ProbeEventError: the kernel would refuse the line; nothing has changed. Where that says no more
            than "Failed to register", the exception's cause tells why, and names close to the function's.
        :raise TracepointRefused: a correct ``t:`` definition for a kernel whose tracepoints cannot be probed.
        """
        words = _words(line)
        if not words:
            return None
        if words[0][0] in "-!":
            self._remove(words)
            return None
        definition, log = parse_definition(words, self._catalog)
        definition = self._checked(definition, log)
        self._definitions.append(definition)
        return definition

    def remove(self, line: str) -> None:
        """Remove events: ``-:GROUP/EVENT``, ``-:EVENT``, or ``!`` and the definition.

        :raise ProbeEventError: there is none (``ENOENT``), or the line is no such command.
        """
        self._remove(_words(line))

    def clear(self) -> None:
        """Remove all."""
        self._definitions.clear()

    def _checked(self, definition: EventDefinition, log: ErrorLog) -> EventDefinition:
        same = [it for it in self._definitions if (it.group, it.event) == (definition.group, definition.event)]
        if same:
            _check_sibling(definition, same, log)
        log.index = 1
        definition = self._resolved(definition, log)
        if definition.is_tracepoint:
            parts = (f"__{part}_{definition.symbol}" for part in ("tracepoint", "traceiter"))
            if not self._catalog.addresses(definition.function):
                raise _refusal(definition, log, any(map(self._catalog.addresses, parts)))
        refusal = self._catalog.refusal(definition.function)
        if refusal is not None:
            raise log.error(0, "FAIL_REG_PROBE") from refusal
        return definition

    # Put addresses where arguments have "@SYM". Their errors stand under the probed function, as in the kernel.
    def _resolved(self, definition: EventDefinition, log: ErrorLog) -> EventDefinition:
        arguments = []
        for argument in definition.arguments:
            source = argument.program.source
            if source.kind is OpKind.SYMBOL:
                address = self._symbol_address(source.text, log)
                program = replace(argument.program, source=Op(OpKind.IMM, address, source.text))
                argument = replace(argument, program=program)
            arguments.append(argument)
        return replace(definition, arguments=tuple(arguments))

    def _symbol_address(self, text: str, log: ErrorLog) -> int:
        name = re.split(r"[+-]", text, maxsplit=1)[0]
        try:
            offset = kstrtol(text[len(name) :]) if len(name) < len(text) else 0
        except NotANumber as error:
            raise log.error(0, "FAIL_REG_PROBE", error.errno_name) from error
        found = self._catalog.addresses(name)
        if not found:
            raise log.error(0, "BAD_PROBE_ADDR", "ENOENT")
        return (found[0] + offset) & _MASK64

    def _remove(self, words: Sequence[str]) -> None:
        log = ErrorLog(words)
        head = words[0] if words else ""
        colon = 1 if head.startswith("-") else head.find(":")
        if head[colon : colon + 1] != ":":
            raise log.unlogged("EINVAL", "events are removed by '-:GROUP/EVENT', '-:EVENT', or '!' and the definition")
        group, slash, event = head[colon + 1 :].partition("/")
        group, event = (group, event) if slash else ("", group)
        if not slash and not event:
            raise log.unlogged("EINVAL", "which event to remove is not said")
        gone = [it for it in self._definitions if _is_meant(it, group if slash else None, event, words[1:])]
        if not gone:
            raise log.unlogged("ENOENT", "there is no such event")
        self._definitions = [it for it in self._definitions if not any(it is one for one in gone)]


# Behind "#" there is a comment, whatever it stands in.
def _words(line: str) -> list[str]:
    if len(line.encode()) > _MAX_LINE_BYTES:
        shown = line[:40] + "..."
        raise ProbeEventError("EINVAL", "", f"a line has at most {_MAX_LINE_BYTES} bytes", shown)
    if "\0" in line:
        raise ProbeEventError("EINVAL", "", "a definition cannot have a NUL character", line.replace("\0", "\\0"))
    return [word for word in _SPACES.split(line.partition("#")[0]) if word]


# append_trace_fprobe()
def _check_sibling(new: EventDefinition, same: Sequence[EventDefinition], log: ErrorLog) -> None:
    old = same[0]
    log.index = 0
    if (new.is_return, new.is_tracepoint) != (old.is_return, old.is_tracepoint):
        raise log.error(0, "DIFF_PROBE_TYPE", "EEXIST")
    differing = _first_difference(new, old)
    if differing is not None:
        log.index = 2 + differing
        raise log.error(0, "DIFF_ARG_TYPE", "EEXIST")
    for one in same:
        if one.symbol == new.symbol and [it.body for it in one.arguments] == [it.body for it in new.arguments]:
            raise log.error(0, "SAME_PROBE", "EEXIST")


# trace_probe_compare_arg_type(): the number of arguments counts before what they are.
def _first_difference(new: EventDefinition, old: EventDefinition) -> int | None:
    ours = [(it.type.name, it.count, it.name) for it in new.arguments]
    theirs = [(it.type.name, it.count, it.name) for it in old.arguments]
    if len(ours) != len(theirs):
        return min(len(ours), len(theirs))
    return next((i for i, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]), None)


# trace_fprobe_match(): the target is compared without "%return", the arguments as dynamic_events shows them.
def _is_meant(it: EventDefinition, group: str | None, event: str, rest: Sequence[str]) -> bool:
    if event not in ("", it.event) or group not in (None, it.group):
        return False
    shown = [f"{arg.name}={arg.body}" for arg in it.arguments]
    return not rest or (rest[0] == it.symbol and list(rest[1:]) == shown[: len(rest) - 1])


# Without a probe of its own a tracepoint calls nothing: its call sites jump over the code that would make its
# arguments. Since Linux 6.5 there is a function to register and to probe, as the kernel's own "t:" events do it.
def _refusal(definition: EventDefinition, log: ErrorLog, exists: bool) -> TracepointRefused:
    name = definition.symbol
    if exists:
        why = (
            f"tracepoint {name!r} cannot be probed: this kernel has no {definition.function}() to hang on it, as Linux"
            " 6.5 and later have; probe the function around it with 'f', or use the guest's own tracefs"
        )
    else:
        why = f"this kernel has no tracepoint {name!r}; modules, which may bring it later, are not known here"
    return TracepointRefused("EOPNOTSUPP", "", why, log.command, len(definition.words[0]) + 1)
