"""The fprobe behind ``fprobe-gdb trace``: its handlers turn hits into events."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypedDict

from fprobe_gdb.errors import BtfError
from fprobe_gdb.events import (
    LOST_REASONS,
    ConsoleEvent,
    CpuFlags,
    EntryEvent,
    ExitEvent,
    LostEvent,
    MissedEvent,
    MissReason,
    SummaryEvent,
)
from fprobe_gdb.expr import Scope
from fprobe_gdb.output.base import EventSink
from fprobe_gdb.output.summary import SummaryBuilder
from fprobe_gdb.probe.fprobe import FPROBE_FL_ANY_FUNCTION, Fprobe
from fprobe_gdb.probe.hit import Hit
from fprobe_gdb.probe.regs import PtRegs
from fprobe_gdb.probe.rethook import EntryData
from fprobe_gdb.probe_events import EventDefinition
from fprobe_gdb.registers import ARGUMENT_REGISTERS
from fprobe_gdb.session.call_hit import TraceHit
from fprobe_gdb.session.describe import describe_arguments, describe_result
from fprobe_gdb.session.guest import Kernel
from fprobe_gdb.session.hit_context import FlagsReader, stack_lines
from fprobe_gdb.session.judge import Judge
from fprobe_gdb.session.module_watch import ModuleChange
from fprobe_gdb.session.probe_event_lines import event_of
from fprobe_gdb.session.probe_event_runner import ProbeEventHit, ProbeEventRunner
from fprobe_gdb.session.selection import Selection
from fprobe_gdb.session.tracefs_text import entry_text, return_text

__all__ = ["Tracer"]


class _Who(TypedDict, total=False):
    comm: str
    pid: int


class _Tracefs(TypedDict, total=False):
    text: str
    flags: CpuFlags


class Tracer:
    """Writes what the probed functions do to a sink.

    :param sink: gets all events, and the summary at last.
    :param max_hits: end the run after so many calls that are shown; None for no limit.
    :param judge: which calls are shown, and what is added up; None for all, and nothing.
    :param stack: frames of kernel stack to show with each entry, and with each hit of a probe event; 0 for none.
    :param tracefs: also tell what only lines in tracefs' form have.
    :param why_handlers: why calls are not recorded, as a clause, where that was wished for.
    """

    def __init__(
        self,
        k: Kernel,
        sink: EventSink,
        *,
        entry_only: bool = False,
        nr_maxactive: int = 0,
        max_hits: int | None = None,
        judge: Judge | None = None,
        stack: int = 0,
        tracefs: bool = False,
        why_handlers: str = "",
    ) -> None:
        self._k = k
        self._stack = stack
        self._flags = FlagsReader(k) if tracefs else None
        self._runner: ProbeEventRunner | None = None
        self._judge = judge
        self._why_handlers = f"; not recorded, since {why_handlers}" if why_handlers else ""
        self._shown = 0
        # Calls whose return will decide.
        self._undecided = 0
        self._sink = sink
        self._max_hits = max_hits
        self._summary = SummaryBuilder()
        self._names: dict[int, str] = {}
        self._line = ""
        self._typed = k.has_types
        self.fprobe = Fprobe(
            self._on_entry,
            None if entry_only else self._on_exit,
            entry_data_size=0 if entry_only else 24,
            nr_maxactive=nr_maxactive,
            flags=FPROBE_FL_ANY_FUNCTION,
            name="trace",
        )

    @property
    def full(self) -> bool:
        """Whether ``max_hits`` is reached."""
        return self._max_hits is not None and self._shown >= self._max_hits

    def register(
        self, ips: Sequence[int], definitions: Iterable[EventDefinition] = (), selection: Selection | None = None
    ) -> None:
        """Start to trace these locations, and these probe events.

        :param selection: what they were selected by, where modules may add to them.
        :raise TooManySites: more than breakpoints can serve.
        """
        self._names = {ip: self._k.records.name_at(ip) for ip in ips}
        if selection is not None and selection.waits:
            self._k.register_selection(self.fprobe, selection, ips)
        elif ips:
            self._k.register_fprobe_ips(self.fprobe, ips)
        self._runner = ProbeEventRunner(self._k, definitions, self._on_probe_event, flags=self._flags is not None)
        self._k.on_module = self._on_module
        self._k.on_missed = self._on_missed
        self._k.on_console = lambda line: self._console(line, "console")

    def unregister(self) -> None:
        """Stop to trace; the guest is stopped. What a handler that raised has removed already stays so."""
        if self._runner is not None:
            self._runner.unregister()
        if self.fprobe in self._k.fprobes:
            self._k.unregister_fprobe(self.fprobe)

    def output(self, data: bytes) -> None:
        """Pass on output of the traced command, line by line."""
        *lines, self._line = (self._line + data.decode(errors="replace")).split("\n")
        for line in lines:
            self._console(line, "command")

    def finish(self, ended: str, command_status: int | None) -> SummaryEvent:
        """Write what is left of the command's output, and the summary."""
        if self._line:
            self._console(self._line, "command")
            self._line = ""
        self._count_hits()
        summary = self._summary.build(
            host_ns=self._k.stopped_ns,
            ended=ended,
            command_status=command_status,
            dispatch=self._k.dispatch_name + self._why_handlers,
            cpus=len(self._k.target.vcpus),
        )
        if self._judge:
            kept_out, faults = self._judge.kept_out, self._judge.faults
            # Calls that are kept out cost the host as much as others.
            handled = self.fprobe.hits + self.fprobe.exits + self.fprobe.nmissed
            summary = replace(
                summary,
                aggregates=tuple(self._judge.aggregates),
                kept_out=kept_out,
                faults=faults,
                undecided=self._undecided,
                host_ns_per_hit=self._k.stopped_ns // handled if handled else None,
            )
        self._sink.write(summary)
        return summary

    # Of a call with a return probe no entry is shown, but it is a hit from its entry on.
    def _count_hits(self) -> None:
        fprobes = self._runner.fprobes if self._runner else ()
        for fprobe in fprobes:
            self._summary.counters(fprobe.name).hits = 0
        for fprobe in fprobes:
            self._summary.counters(fprobe.name).hits += fprobe.hits

    def _write(self, event: EntryEvent | ExitEvent | MissedEvent | LostEvent) -> None:
        self._summary.write(event)
        self._sink.write(event)

    def _console(self, line: str, source: str) -> None:
        self._sink.write(ConsoleEvent(line, self._k.last_time_ns, source))

    def _on_entry(self, fp: Fprobe, entry_ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> bool:
        k = self._k
        hit = None
        if self._judge:
            hit = TraceHit(k, entry_ip, self._names[entry_ip], ret_ip, regs.as_dict())
            if not self._judge.lets_in(hit):
                return True
        depth, time_ns, caller = k.depth_around(regs.sp, entry_ip), k.time_ns, k.symbolize(ret_ip)
        event = EntryEvent(
            self._names[entry_ip], entry_ip, ret_ip, k.cpu, k.task, time_ns,
            args=dict(zip(ARGUMENT_REGISTERS, regs.arguments, strict=True)),
            caller=caller,
            depth=depth,
            **self._who(),
            params=self._params(regs, entry_ip),
            stack=stack_lines(k, self._stack) if self._stack else None,
            **self._tracefs(regs, entry_text(self._names[entry_ip], caller)),
        )  # fmt: skip
        if data is not None:
            data[:] = struct.pack("<QQQ", time_ns, depth, k.waited_ns)
            data.entry_regs = regs.as_dict() if hit else None
            # Where the return decides, the entry waits for it.
            data.waiting = event if self._judge and self._judge.at_exit else None
            self._undecided += data.waiting is not None
        if data is None or data.waiting is None:
            self._show(event, hit)
        return False

    # Write an event of a call that passes, and add up what is asked of it.
    def _show(self, event: EntryEvent | ExitEvent, hit: TraceHit | None) -> None:
        self._write(event)
        if hit and self._judge:
            self._judge.add(hit)
        if isinstance(event, EntryEvent):
            self._count_shown()

    def _count_shown(self) -> None:
        self._shown += 1
        if self.full:
            self._k.stop()

    def _on_exit(self, fp: Fprobe, entry_ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
        k = self._k
        assert data is not None
        entered_ns, depth, waited_ns = struct.unpack("<QQQ", data)
        duration_ns = max(0, k.time_ns - entered_ns - (k.waited_ns - waited_ns))
        hit = None
        if self._judge:
            assert isinstance(data.entry_regs, dict)
            hit = TraceHit(k, entry_ip, self._names[entry_ip], ret_ip, data.entry_regs)
            hit.exit_regs, hit.duration_ns = regs.as_dict(), duration_ns
            self._undecided -= data.waiting is not None
            if not self._judge.lets_out(hit):
                return
            if isinstance(data.waiting, EntryEvent):
                self._show(data.waiting, None)
        event = ExitEvent(
            self._names[entry_ip], entry_ip, ret_ip, k.cpu, k.task, k.time_ns,
            retval=regs.return_value(),
            duration_ns=duration_ns,
            caller=k.symbolize(ret_ip),
            depth=depth,
            **self._who(),
            result=self._result(regs, entry_ip),
            **self._tracefs(regs, self._exit_text(entry_ip, ret_ip, regs) if self._flags else ""),
        )  # fmt: skip
        self._show(event, hit)

    # What a line in tracefs' form has beside what all have.
    def _tracefs(self, regs: PtRegs, text: str) -> _Tracefs:
        return {"text": text, "flags": self._flags.read(regs)} if self._flags else {}

    def _exit_text(self, entry_ip: int, ret_ip: int, regs: PtRegs) -> str:
        return f"{return_text(self._k, self._names[entry_ip], ret_ip)}{regs.return_value():#x}"

    def _on_probe_event(self, hit: ProbeEventHit) -> None:
        stack = stack_lines(self._k, self._stack) if self._stack else None
        self._write(event_of(self._k, hit, stack))
        self._count_shown()

    def _on_module(self, change: ModuleChange) -> None:
        if change.loaded:
            self._names |= {ip: self._k.records.name_at(ip) for ip in change.sites}
            if self._judge:
                self._judge.extend({ip: self._scope_at(ip) for ip in change.sites})
        now = "" if change.loaded else " no longer"
        line = f"{change.module.name} {change.step.value}, {len(change.sites)} functions{now} probed"
        self._sink.write(ConsoleEvent(line, self._k.time_ns, "module"))

    def _scope_at(self, ip: int) -> Scope:
        try:
            return Scope(self._names[ip], self._k.btf_at(ip), self._k.prototype_at(ip), is_exit=False)
        except BtfError:
            return Scope(self._names[ip], None, None, is_exit=False)

    # Name and pid of the task, where the kernel has types.
    def _who(self) -> _Who:
        if not self._typed:
            return {}
        task = self._k.current
        return {"comm": task.comm, "pid": task.pid}

    def _params(self, regs: PtRegs, entry_ip: int) -> tuple[tuple[str, str], ...] | None:
        if self._k.prototype_at(entry_ip) is None:
            return None
        return describe_arguments(self._k.args(regs, entry_ip))

    def _result(self, regs: PtRegs, entry_ip: int) -> str | None:
        if self._k.prototype_at(entry_ip) is None:
            return None
        return describe_result(self._k.retval(regs, entry_ip))

    def _on_missed(self, fp: Fprobe, entry_ip: int, hit: Hit, reason: MissReason) -> None:
        name = self._names.get(entry_ip) or self._k.records.name_at(entry_ip)
        # Of calls that went on without us nobody knows whose they were.
        depth = self._k.depth_around(hit.frame, entry_ip) if hit.task else 0
        event = None if fp is self.fprobe else fp.name
        place = (name, entry_ip, hit.ret_ip, hit.cpu, hit.task, hit.time_ns)
        if reason in LOST_REASONS:
            self._write(LostEvent(*place, reason=reason, count=hit.calls, depth=depth, probe_event=event))
        else:
            self._write(MissedEvent(*place, reason=reason, depth=depth, probe_event=event))
