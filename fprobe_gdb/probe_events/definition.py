"""A line of ``dynamic_events`` that defines a probe: text to :class:`EventDefinition`.

::

    f[MAXACTIVE][:[GROUP/][EVENT]] SYMBOL[%return] [[NAME=]BODY[:TYPE]]...
    t[:[GROUP/][EVENT]] TRACEPOINT [[NAME=]BODY[:TYPE]]...

Order of checks and carets are those of ``trace_fprobe_create()`` (kernel/trace/trace_fprobe.c, Linux 6.12).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fprobe_gdb.probe_events.argument import FetchArgument, parse_argument
from fprobe_gdb.probe_events.catalog import ProbeCatalog
from fprobe_gdb.probe_events.errors import ErrorLog
from fprobe_gdb.probe_events.expand import expand_arguments, expand_dentries
from fprobe_gdb.probe_events.names import auto_name, parse_names
from fprobe_gdb.probe_events.numbers import NotANumber, kstrtouint
from fprobe_gdb.probe_events.probe_point import ProbePoint

__all__ = ["EventDefinition", "parse_definition"]

_FPROBE_GROUP, _TRACEPOINT_GROUP = "fprobes", "tracepoints"
_RETURN = "%return"
# An empty function that exists for nothing but being registered with its tracepoint, and then probed
# (include/linux/tracepoint.h, Linux 6.5 and later).
_TRACEPOINT_STUB = "__probestub_{}"
#: RETHOOK_MAXACTIVE_MAX.
_MAX_MAXACTIVE = 4096
_MAX_NUMBER_CHARS = 63
#: MAX_TRACE_ARGS.
_MAX_ARGUMENTS = 128
_BAD_TRACEPOINT_CHAR = re.compile(r"[^A-Za-z0-9_]")
# "$retval" that no identifier goes on from.
_RETVAL = re.compile(r"\$retval(?![A-Za-z0-9_])")


@dataclass(frozen=True)
class EventDefinition:
    """A probe event, ready to be planted."""

    group: str
    event: str
    #: Pattern of functions, as ``register_fprobe()`` takes it; of a ``t:`` event, the tracepoint.
    symbol: str
    is_return: bool
    is_tracepoint: bool
    #: Calls that may be in flight at once; 0 leaves it to fprobe.
    nr_maxactive: int
    arguments: tuple[FetchArgument, ...]
    #: Arguments of the function, from 0, that a return probe needs from the entry, in the order of entry_data's words.
    entry_args: tuple[int, ...]
    #: The words that it was defined by.
    words: tuple[str, ...]

    @property
    def function(self) -> str:
        """What to give ``register_fprobe()``: :attr:`symbol`, or the function that stands for the tracepoint."""
        return _TRACEPOINT_STUB.format(self.symbol) if self.is_tracepoint else self.symbol

    def __str__(self) -> str:
        """As ``dynamic_events`` shows it."""
        maxactive = str(self.nr_maxactive) if self.is_return and self.nr_maxactive else ""
        head = f"{'t' if self.is_tracepoint else 'f'}{maxactive}:{self.group}/{self.event}"
        target = self.symbol + (_RETURN if self.is_return else "")
        return " ".join([head, target, *(f"{arg.name}={arg.body}" for arg in self.arguments)])


def parse_definition(words: Sequence[str], catalog: ProbeCatalog) -> tuple[EventDefinition, ErrorLog]:
    """Understand a definition, and check everything but its target and other events.

    :return: the definition, and where to report what is found out about it later.
    :raise ProbeEventError: the kernel would not accept it.
    """
    log = ErrorLog(words)
    if not words or words[0][0] not in "ft" or len(words) < 2:
        raise log.unlogged("EINVAL", "a probe event is 'f[:[GROUP/][EVENT]] FUNCTION[%return] [ARGUMENT]...'")
    is_tracepoint = words[0][0] == "t"
    head, colon, names = words[0].partition(":")
    maxactive = _maxactive(head[1:], log)
    log.index = 1
    symbol, is_return = _target(words, is_tracepoint, log)
    log.index = 0
    if maxactive and not is_return:
        raise log.error(1, "BAD_MAXACT_TYPE")
    group, event = parse_names(names, len(head) + 1, log) if colon else (None, None)
    at = _probe_point(catalog, log, symbol, is_return, is_tracepoint)
    arguments = _arguments(at, words[2:])
    return EventDefinition(
        group or (_TRACEPOINT_GROUP if is_tracepoint else _FPROBE_GROUP),
        event or auto_name(symbol, is_return=is_return, is_tracepoint=is_tracepoint),
        symbol, is_return, is_tracepoint, maxactive, arguments, tuple(at.entry_args), tuple(words),
    ), log  # fmt: skip


# Letters behind the first one are accepted and ignored, as in the kernel.
def _maxactive(text: str, log: ErrorLog) -> int:
    if text[:1] not in tuple("0123456789"):
        return 0
    try:
        number = kstrtouint(text) if len(text) <= _MAX_NUMBER_CHARS else 0
    except NotANumber:
        number = 0
    if not number:
        raise log.error(1, "BAD_MAXACT")
    if number > _MAX_MAXACTIVE:
        raise log.error(1, "MAXACT_TOO_BIG")
    return number


def _target(words: Sequence[str], is_tracepoint: bool, log: ErrorLog) -> tuple[str, bool]:
    symbol, percent, _ = words[1].partition("%")
    if percent:
        if is_tracepoint or words[1][len(symbol) :] != _RETURN:
            raise log.error(len(symbol), "BAD_ADDR_SUFFIX")
        return symbol, True
    if is_tracepoint and (bad := _BAD_TRACEPOINT_CHAR.search(symbol)):
        raise log.error(bad.start(), "BAD_TP_NAME")
    for index, word in enumerate(words[2:], 2):
        # The kernel looks at the first "$retval" of each word only.
        first = word.find("$retval")
        if first >= 0 and _RETVAL.match(word, first):
            if is_tracepoint:
                log.index = index
                raise log.error(first, "RETVAL_ON_PROBE")
            return symbol, True
    return symbol, False


# A tracepoint's arguments are those of the function that the kernel hangs on it, behind a data pointer. Linux 6.1 has
# no __probestub_NAME, but __traceiter_NAME has the same parameters.
def _probe_point(catalog: ProbeCatalog, log: ErrorLog, symbol: str, is_return: bool, is_tracepoint: bool) -> ProbePoint:
    if not is_tracepoint:
        return ProbePoint(catalog, log, symbol, is_return=is_return)
    stubs = (_TRACEPOINT_STUB.format(symbol), f"__traceiter_{symbol}")
    # A tracepoint that is not there may be a module's; the kernel then looks for a function of that name.
    function = next((stub for stub in stubs if catalog.addresses(stub)), symbol)
    return ProbePoint(catalog, log, function, is_return=False, hidden_params=1)


def _arguments(at: ProbePoint, words: Sequence[str]) -> tuple[FetchArgument, ...]:
    expanded = expand_arguments(at, words)
    if len(expanded) > _MAX_ARGUMENTS:
        raise at.log.unlogged("E2BIG", f"{len(expanded)} arguments; an event can have {_MAX_ARGUMENTS}")
    parsed: list[FetchArgument] = []
    for number, word in enumerate(expand_dentries(at, expanded)):
        at.log.index = number + 2
        parsed.append(parse_argument(at, word, number, parsed))
    return tuple(parsed)
