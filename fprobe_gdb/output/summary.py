"""What each probed function did, counted while events go by; nothing is kept of the events themselves.

Rule 1: every call is in exactly one of hits, missed and lost. A refused exit handler (``MissReason.EXIT_RECURSION``) is
no call: it is in ``exits_missed``, beside them.
Rule 2: functions are told apart by name; several functions of one name (static ones) share a row. Probe events have
rows of their own, by their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from fprobe_gdb.errors import UsageError
from fprobe_gdb.events import (
    ConsoleEvent,
    EntryEvent,
    Event,
    ExitEvent,
    FunctionSummary,
    LostEvent,
    MissedEvent,
    MissReason,
    SummaryEvent,
)
from fprobe_gdb.output.base import AnyEvent

__all__ = ["CallCounters", "Durations", "SummaryBuilder"]


@dataclass(slots=True)
class CallCounters:
    """What happened to the calls of one function. See :class:`~fprobe_gdb.events.FunctionSummary`."""

    hits: int = 0
    missed: int = 0
    lost: int = 0
    exits: int = 0
    exits_missed: int = 0

    @property
    def handled(self) -> int:
        """How often the guest had the host's attention: entries and exits, handled or refused."""
        return self.hits + self.missed + self.exits + self.exits_missed


@dataclass(slots=True)
class Durations:
    """How long calls took: how many, and what their times add up to."""

    count: int = 0
    total_ns: int = 0
    min_ns: int = 0
    max_ns: int = 0

    def add(self, ns: int) -> None:
        """Count one call."""
        if not self.count or ns < self.min_ns:
            self.min_ns = ns
        if not self.count or ns > self.max_ns:
            self.max_ns = ns
        self.count += 1
        self.total_ns += ns

    def merge(self, other: Durations) -> None:
        """Count the calls of another one, too."""
        if not other.count:
            return
        self.min_ns = min(self.min_ns, other.min_ns) if self.count else other.min_ns
        self.max_ns = max(self.max_ns, other.max_ns) if self.count else other.max_ns
        self.count += other.count
        self.total_ns += other.total_ns

    def scaled(self, factor: int, divisor: int) -> Durations:
        """The same in another unit, rounded down."""
        times = (time * factor // divisor for time in (self.total_ns, self.min_ns, self.max_ns))
        return Durations(self.count, *times)

    def figures(self) -> tuple[int, int, int] | tuple[None, None, None]:
        """Minimum, mean (rounded to the nearest) and maximum."""
        if not self.count:
            return None, None, None
        return self.min_ns, (2 * self.total_ns + self.count) // (2 * self.count), self.max_ns


class SummaryBuilder:
    """An :class:`~fprobe_gdb.output.base.EventSink` that adds up."""

    def __init__(self) -> None:
        self._counters: dict[str, CallCounters] = {}
        self._durations: dict[str, Durations] = {}

    def write(self, event: AnyEvent) -> None:
        """Count one event."""
        match event:
            case EntryEvent():
                self.counters(_row_name(event)).hits += 1
            case ExitEvent():
                self.counters(_row_name(event)).exits += 1
                self._durations[_row_name(event)].add(event.duration_ns)
            case MissedEvent(reason=MissReason.EXIT_RECURSION):
                self.counters(_row_name(event)).exits_missed += 1
            case MissedEvent():
                self.counters(_row_name(event)).missed += 1
            case LostEvent():
                self.counters(_row_name(event)).lost += event.count
            case ConsoleEvent() | SummaryEvent():
                pass
            case _:
                assert_never(event)

    def close(self) -> None:
        """Nothing to do."""

    def add(self, func: str, counters: CallCounters, durations: Durations | None = None) -> None:
        """Count what somebody else has counted of a function, beside the events."""
        of = self.counters(func)
        of.hits += counters.hits
        of.missed += counters.missed
        of.lost += counters.lost
        of.exits += counters.exits
        of.exits_missed += counters.exits_missed
        if durations:
            self._durations[func].merge(durations)

    @property
    def hits(self) -> int:
        """Hits so far, of all functions (for ``--max-hits``)."""
        return sum(counters.hits for counters in self._counters.values())

    def build(
        self,
        *,
        host_ns: int,
        ended: str,
        command_status: int | None,
        dispatch: str,
        cpus: int = 1,
        counters: Mapping[str, CallCounters] | None = None,
    ) -> SummaryEvent:
        """The summary of all events so far; more may follow.

        :param host_ns: host time that went into handling entries and exits.
        :param ended: see :attr:`SummaryEvent.ended <fprobe_gdb.events.SummaryEvent.ended>`.
        :param dispatch: dispatch, target and breakpoint kind, for people.
        :param cpus: how many the guest has.
        :param counters: by function, what somebody counted who saw more than the events (say, a dispatch that counts in
            the guest); it stands in place of what the events say. Functions that were never called belong here too:
            they get a row of zeros.
        :raise UsageError: a negative time or counter.
        """
        merged = {**self._counters, **(counters or {})}
        if host_ns < 0 or any(min(_counts(of)) < 0 for of in merged.values()):
            raise UsageError("a summary cannot count below zero; are the counters differences taken the wrong way?")
        rows = [self._row(func, of) for func, of in merged.items()]
        rows.sort(key=lambda row: (-row.hits, row.func))
        handled = sum(of.handled for of in merged.values())
        return SummaryEvent(
            functions=tuple(rows),
            hits=sum(row.hits for row in rows),
            missed=sum(row.missed for row in rows),
            lost=sum(row.lost for row in rows),
            host_ns_per_hit=host_ns // handled if handled else None,
            ended=ended,
            command_status=command_status,
            dispatch=dispatch,
            exits=sum(row.exits for row in rows),
            exits_missed=sum(row.exits_missed for row in rows),
            cpus=cpus,
        )

    def counters(self, func: str) -> CallCounters:
        """The counters of a function or probe event, to be corrected by who knows better; a row of zeros at first."""
        counters = self._counters.get(func)
        if counters is None:
            counters = self._counters[func] = CallCounters()
            self._durations[func] = Durations()
        return counters

    def _row(self, func: str, counters: CallCounters) -> FunctionSummary:
        min_ns, mean_ns, max_ns = self._durations.get(func, Durations()).figures()
        return FunctionSummary(
            func=func,
            hits=counters.hits,
            missed=counters.missed,
            lost=counters.lost,
            exits=counters.exits,
            min_ns=min_ns,
            mean_ns=mean_ns,
            max_ns=max_ns,
            exits_missed=counters.exits_missed,
        )


def _row_name(event: Event) -> str:
    return event.probe_event or event.func


def _counts(counters: CallCounters) -> tuple[int, ...]:
    return counters.hits, counters.missed, counters.lost, counters.exits, counters.exits_missed
