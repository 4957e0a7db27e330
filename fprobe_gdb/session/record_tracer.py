"""``fprobe-gdb trace`` in record mode: turns records into events, or only into the figures of the summary."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain

from fprobe_gdb.dispatch.trampoline.pad_expr import Asked
from fprobe_gdb.dispatch.trampoline.record_format import FENTRY_BYTES, Record, RecordKind, record_ip
from fprobe_gdb.dispatch.trampoline.recorder import RecordProbe
from fprobe_gdb.dispatch.trampoline.ring import Batch
from fprobe_gdb.dispatch.trampoline.tsc_clock import TscClock
from fprobe_gdb.dispatch.trampoline.zone import MAX_PROBES
from fprobe_gdb.events import (
    Aggregate,
    ConsoleEvent,
    EntryEvent,
    ExitEvent,
    LostEvent,
    MissedEvent,
    MissReason,
    SummaryEvent,
)
from fprobe_gdb.output.aggregate_count_by import OTHER
from fprobe_gdb.output.base import EventSink
from fprobe_gdb.output.summary import CallCounters, Durations, SummaryBuilder
from fprobe_gdb.session.calls_in_flight import CallsInFlight
from fprobe_gdb.session.guest import Kernel
from fprobe_gdb.session.judge import Judge
from fprobe_gdb.session.pad_sums import PadSums
from fprobe_gdb.session.record_counts import RecordCounts
from fprobe_gdb.session.record_events import RecordEvents
from fprobe_gdb.session.record_sums import RecordHit
from fprobe_gdb.session.recorded_events import RecordedEvent
from fprobe_gdb.session.recorded_names import recorded_names, with_names

__all__ = ["RecordTracer"]

# A record, and whose it is: of functions if of no event.
_Seen = tuple[Record, RecordedEvent | None]


class RecordTracer:
    """Records functions, and writes what they do to a sink. See :class:`~fprobe_gdb.session.tracer.Tracer`.

    :param sink: gets all events, and the summary at last.
    :param quiet: no event of a call: only the summary, for which much less is recorded.
    :param block: let the guest wait instead of losing records.
    :param asked: what is asked of each call, by location; see :func:`~fprobe_gdb.session.pad_questions.asked_by`.
    :param tracefs: also tell what only lines in tracefs' form have.
    :param sums: what pads add up, with all that is asked: then nothing is recorded at all.
    :param judge: has what is to be added up of records that are shown; see :mod:`.record_sums`.
    :param events: probe events that are recorded too.
    :param names: show the names behind arguments of functions, if these are few.
    """

    def __init__(
        self,
        k: Kernel,
        sink: EventSink,
        *,
        entry_only: bool = False,
        nr_maxactive: int = 0,
        max_hits: int | None = None,
        quiet: bool = False,
        block: bool = False,
        asked: Mapping[int, Asked] | None = None,
        tracefs: bool = False,
        sums: PadSums | None = None,
        judge: Judge | None = None,
        events: Sequence[RecordedEvent] = (),
        names: bool = False,
    ) -> None:
        self._k = k
        self._sink = sink
        self._entry_only = entry_only
        self._nr_maxactive = nr_maxactive
        self._max_hits = max_hits
        self._quiet = quiet
        self._block = block
        self._is_tracefs = tracefs
        self._make = RecordEvents(k, tracefs=tracefs)
        self._asked = sums.asked if sums else asked
        self._sums = sums
        self._judge = judge
        self._shown = 0
        self._line = ""
        self._summary = SummaryBuilder()
        # In a quiet trace.
        self._counts = RecordCounts()
        self._in_flight = CallsInFlight()
        # Of the time in which the guest has not measured its counter.
        self._early: list[_Seen] = []
        self._wants_names = names and not (quiet or tracefs)
        self._probe: RecordProbe | None = None
        self._events = events
        # Those of events, and what they record, by their numbers.
        self._event_probes: dict[int, tuple[RecordProbe, RecordedEvent]] = {}
        self._host_ns = 0

    @property
    def full(self) -> bool:
        """Whether ``max_hits`` is reached."""
        return self._max_hits is not None and self._shown >= self._max_hits

    @property
    def probe(self) -> RecordProbe:
        """The recording probe, with its counters."""
        assert self._probe is not None
        return self._probe

    def register(self, ips: Sequence[int]) -> None:
        """Start to record these locations, and the events.

        :raise PlantRefused, ZoneError: when they cannot be.
        """
        every = {*ips, *chain.from_iterable(event.ips for event in self._events)}
        self._make.names = {ip: self._k.records.name_at(ip) for ip in every}
        self._k.on_console = lambda line: self._console(line, "console")
        if ips:
            self._record_functions(ips)
        for event in self._events:
            probe = self._record_event(event)
            self._event_probes[probe.number] = probe, event

    def _record_functions(self, ips: Sequence[int]) -> None:
        asked = self._asked or {}
        if self._wants_names:
            self._make.fetched = recorded_names(self._k, ips, asked)
        self._probe = self._k.record(
            ips,
            self._consume,
            entry_only=self._entry_only,
            args=not self._quiet,
            names=not self._quiet,
            flags=self._is_tracefs,
            nr_maxactive=self._nr_maxactive,
            block=self._block,
            ordered=not self._quiet,
            asked=with_names(ips, asked, self._make.fetched) if self._make.fetched else self._asked,
            tables=self._sums.tables if self._sums else None,
        )

    def _record_event(self, event: RecordedEvent) -> RecordProbe:
        definition, asked = event.definition, event.asked
        if self._quiet:
            asked = {ip: replace(of, payload=None) for ip, of in asked.items()}
        return self._k.record(
            event.ips,
            self._consume,
            entry_only=not definition.is_return,
            args=not (self._quiet or definition.is_return),
            names=not self._quiet,
            nr_maxactive=definition.nr_maxactive,
            block=self._block,
            ordered=not self._quiet,
            asked=asked,
            by_function=False,
        )

    @property
    def _probes(self) -> list[RecordProbe]:
        return [*([self._probe] if self._probe else []), *(probe for probe, _ in self._event_probes.values())]

    def unregister(self) -> None:
        """Stop to record, as if nothing had been; the guest is stopped."""
        self._k.stop_recording(*self._probes, settle=False)
        self._probe, self._event_probes = None, {}

    def output(self, data: bytes) -> None:
        """Pass on output of the traced command, line by line."""
        *lines, self._line = (self._line + data.decode(errors="replace")).split("\n")
        for line in lines:
            self._console(line, "command")

    def finish(self, ended: str, command_status: int | None) -> SummaryEvent:
        """Write what is left of the command's output, what was lost, and the summary."""
        self._k.stop_recording(*self._probes)
        if self._early:
            (oldest, _), (newest, _) = self._early[0], self._early[-1]
            self._show_all(self._early, self._k.estimated_times(oldest.tsc, newest.tsc))
        if self._line:
            self._console(self._line, "command")
            self._line = ""
        self._add_counted()
        aggregates = self._add_sums()
        self._count_events()
        self._tell_losses()
        summary = self._summary.build(
            host_ns=self._host_ns,
            ended=ended,
            command_status=command_status,
            dispatch="trampoline (record)",
            cpus=len(self._k.target.vcpus),
        )
        if self._sums:
            # The host had nothing to do with them.
            summary = replace(summary, host_ns_per_hit=None)
        summary = replace(
            summary,
            kept_out=sum(it.kept_out for it in self._probes),
            faults=sum(it.faults for it in self._probes),
            undecided=sum(it.undecided for it in self._probes),
            aggregates=aggregates,
        )
        self._sink.write(summary)
        return summary

    # Each event has a row; and of a call with a return probe no entry is shown, but it is a hit.
    def _count_events(self) -> None:
        for event in self._events:
            self._summary.counters(event.name).hits = 0
        for probe, event in self._event_probes.values():
            self._summary.counters(event.name).hits += probe.hits

    def _console(self, line: str, source: str) -> None:
        self._sink.write(ConsoleEvent(line, self._k.last_time_ns, source))

    # Section: records

    def _consume(self, batch: Batch) -> None:
        started_ns = time.monotonic_ns()
        try:
            if self._quiet:
                self._counts.add(batch, self._recorded_by(batch.probe)[0].form)
            else:
                probe, event = self._recorded_by(batch.probe)
                self._take([(record, event) for record in probe.form.decode(batch.data)])
        finally:
            self._host_ns += time.monotonic_ns() - started_ns

    # A probe's number is in each of its records' first word, too.
    def _recorded_by(self, number: int) -> tuple[RecordProbe, RecordedEvent | None]:
        return self._event_probes.get(number) or (self.probe, None)

    def _add_counted(self) -> None:
        if not self._counts:
            return
        for row in self._counts.rows(self._row, self._is_decided, self._k.tsc_khz):
            self._summary.add(*row)

    def _row(self, word: int) -> str:
        _, event = self._recorded_by(word >> 2 & MAX_PROBES - 1)
        return event.name if event else self._make.name(record_ip(word))

    def _is_decided(self, word: int) -> bool:
        return self._recorded_by(word >> 2 & MAX_PROBES - 1)[0].form.decided

    # What pads have added up: the figures of the functions, and what was asked for.
    def _add_sums(self) -> tuple[Aggregate, ...]:
        if self._judge:
            return tuple(self._judge.aggregates)
        if self._sums is None or self._probe is None:
            return ()
        counts, khz = self._probe.counts, self._k.tsc_khz
        rows = [(self._func_at(site)[0], of) for site, of in counts.functions.items()]
        for func, of in (*rows, (OTHER, counts.others)):
            if of.hits or of.missed:
                times = Durations(of.times.count, of.times.total, of.times.least, of.times.greatest)
                calls = CallCounters(hits=of.hits, missed=of.missed, exits=of.exits)
                self._summary.add(func, calls, times.scaled(1_000_000, khz) if khz else None)
        self._sums.read(counts, self._func_at, self._k.function_name)
        return self._sums.aggregates

    # Name and location of a function, by where its location ends as pads see it.
    def _func_at(self, site: int) -> tuple[str, int]:
        ip = self._k.recorded_ip(site - FENTRY_BYTES)
        return self._make.name(ip), ip

    def _take(self, records: Sequence[_Seen]) -> None:
        clock = self._k.record_times(records[-1][0].tsc)
        if clock is None:
            self._early += records
            return
        if self._early:
            early, self._early = self._early, []
            self._show_all(early, clock)
        self._show_all(records, clock)

    def _show_all(self, records: Sequence[_Seen], clock: TscClock) -> None:
        for record, event in records:
            if self.full:
                return
            record = record._replace(ip=self._k.recorded_ip(record.ip))
            if event:
                self._show_event(event, record, clock)
            else:
                self._show(record, clock)
            if self.full:
                self._k.stop()

    def _show_event(self, event: RecordedEvent, record: Record, clock: TscClock) -> None:
        depth = self._in_flight.depth(record.task)
        match record.kind:
            case RecordKind.ENTRY:
                self._write(self._make.entry(record, clock.at_ns(record.tsc), depth, event))
                self._shown += 1
            case RecordKind.EXIT:
                self._write(self._make.exit(record, clock, depth, event))
                self._shown += 1
            case RecordKind.MISSED:
                self._write(self._make.missed(record, clock, depth, event))

    def _show(self, record: Record, clock: TscClock) -> None:
        match record.kind:
            case RecordKind.ENTRY:
                self._write(self._make.entry(record, clock.at_ns(record.tsc), self._in_flight.entry(record)))
                self._add(record)
                self._shown += 1
            case RecordKind.EXIT if self.probe.form.decided:
                # Which calls are around it is not known: they have not been decided.
                self._write(self._make.entry(record, clock.at_ns(record.entered_tsc), 0))
                self._write(leave := self._make.exit(record, clock, 0))
                self._add(record, leave.duration_ns)
                self._shown += 1
            case RecordKind.EXIT:
                self._write(leave := self._make.exit(record, clock, self._in_flight.exit(record)))
                self._add(record, leave.duration_ns)
            case RecordKind.MISSED:
                self._write(self._make.missed(record, clock, self._in_flight.depth(record.task)))
            case RecordKind.TASK_DEAD:
                self._in_flight.task_dead(record.task)
                return
        if record.ip == self._k.task_dead_ip:
            self._in_flight.task_dead(record.task)

    def _write(self, event: EntryEvent | ExitEvent | MissedEvent) -> None:
        self._summary.write(event)
        self._sink.write(event)

    # To be added up, once the call is shown.
    def _add(self, record: Record, duration_ns: int | None = None) -> None:
        if self._judge:
            self._judge.add(RecordHit(self._k, record, self._make.name(record.ip), duration_ns))

    # What the ring had no room for, by function as far as that is known, and by event.
    def _tell_losses(self) -> None:
        losses: list[tuple[str, str | None, int]] = []
        if self._probe:
            by_function = {self._make.name(ip): count for ip, count in self._probe.losses.items()}
            by_function["(any)"] = self._probe.lost - sum(by_function.values())
            losses += [(func, None, count) for func, count in sorted(by_function.items())]
        losses += [(event.definition.function, event.name, probe.lost) for probe, event in self._event_probes.values()]
        for func, probe_event, count in losses:
            if not count:
                continue
            lost = LostEvent(
                func, 0, 0, 0, 0, self._k.last_time_ns,
                reason=MissReason.RING_FULL, count=count, probe_event=probe_event,
            )  # fmt: skip
            self._summary.write(lost)
            if not self._quiet:
                self._sink.write(lost)
