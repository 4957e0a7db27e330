"""Which functions a trace is about: those that are there, and those of modules that are loaded later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from fprobe_gdb.errors import InvalidProbe
from fprobe_gdb.kernel.modules import GuestModule
from fprobe_gdb.probe.filters import match_filter
from fprobe_gdb.probe.glob import glob_match, matcher, parse_filter
from fprobe_gdb.probe.module_patterns import parse_module_pattern
from fprobe_gdb.probe.records import FtraceRecords

__all__ = ["Selection", "select"]


@dataclass(frozen=True)
class Selection:
    """What several patterns select together.

    :param include: names, globs of the kernel's, or patterns of :mod:`fprobe_gdb.probe.module_patterns`; the latter
        also stand for modules that are not loaded yet.
    """

    include: tuple[str, ...]
    exclude: tuple[str, ...] = ()

    @cached_property
    def waits(self) -> tuple[str, ...]:
        """The patterns that later loads of modules may add to."""
        return tuple(text for text in self.include if parse_module_pattern(text))

    def now(self, records: FtraceRecords) -> list[int]:
        """The locations that there are now, ascending. None where all that is asked for is in modules to come.

        A name without ``*?[`` may also be a function that ftrace cannot trace.

        :raise InvalidProbe: when one of the patterns matches nothing, or nothing is left.
        """
        ips: set[int] = set()
        for pattern in self.include:
            ips |= _match(records, pattern, "pattern")
        for pattern in self.exclude:
            try:
                ips -= _match(records, pattern, "exclusion")
            except InvalidProbe as unmatched:
                # It may be about what is yet to come.
                if not (self.waits and unmatched.no_match):
                    raise
        if not ips and not self.waits:
            what = f"{', '.join(self.exclude)} excludes everything that {', '.join(self.include)} matches"
            error = InvalidProbe(what)
            error.no_match = True
            raise error
        return sorted(ips)

    def of(self, module: GuestModule) -> set[int]:
        """The locations that the load of a module adds.

        :raise InvalidProbe: a pattern is for this module and it has no such function.
        """
        ips: set[int] = set()
        for text in self.waits:
            pattern = parse_module_pattern(text)
            assert pattern is not None
            ips |= pattern.match(module.locations)
        return {ip for ip in ips if not any(_excludes(text, module, ip) for text in self.exclude)}


def select(records: FtraceRecords, include: Sequence[str], exclude: Sequence[str] = ()) -> list[int]:
    """:meth:`Selection.now`."""
    return Selection(tuple(include), tuple(exclude)).now(records)


def _match(records: FtraceRecords, text: str, what: str) -> set[int]:
    pattern = parse_module_pattern(text)
    return pattern.match(records.records) if pattern else match_filter(records, text, what=what, any_function=True)


def _excludes(text: str, module: GuestModule, ip: int) -> bool:
    name = next(location.name for location in module.locations if location.ip == ip)
    pattern = parse_module_pattern(text)
    if pattern is None:
        return matcher(parse_filter(text))(name)
    return pattern.matches_module(module.name) and glob_match(pattern.func, name)
