"""Events out of records: with names of functions and callers, and arguments and results as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from fprobe_gdb.dispatch.trampoline.record_flags import flags_of
from fprobe_gdb.dispatch.trampoline.record_format import Record
from fprobe_gdb.dispatch.trampoline.tsc_clock import TscClock
from fprobe_gdb.events import CpuFlags, EntryEvent, EventField, ExitEvent, MissedEvent, MissReason
from fprobe_gdb.kernel.values import arguments, return_value
from fprobe_gdb.session.describe import describe_arguments, describe_result
from fprobe_gdb.session.guest import Kernel
from fprobe_gdb.session.record_values import NO_MEMORY, argument_registers, entry_registers, exit_registers
from fprobe_gdb.session.recorded_events import RecordedEvent
from fprobe_gdb.session.recorded_names import NamesPlan
from fprobe_gdb.session.tracefs_text import entry_text, return_text

__all__ = ["RecordEvents"]


# What only events of functions have, and what only probe events have.
class _Told(TypedDict, total=False):
    text: str
    flags: CpuFlags
    fields: tuple[EventField, ...]
    probe_event: str


class RecordEvents:
    """Makes events of records, at the guest's addresses.

    :param tracefs: also tell what only lines in tracefs' form have.
    """

    def __init__(self, k: Kernel, *, tracefs: bool = False) -> None:
        self._k = k
        self._is_tracefs = tracefs
        self._typed = k.has_types
        self._has_count = k.knowledge.percpu.preempt_count is not None
        #: Names of functions, by location.
        self.names: dict[int, str] = {}
        #: What is fetched with arguments, by location.
        self.fetched: Mapping[int, NamesPlan] = {}
        self._callers: dict[int, str] = {}
        # What lines about returns begin with, by function and caller.
        self._returns: dict[tuple[int, int], str] = {}

    def name(self, ip: int) -> str:
        """The name of a function, by its location or by what a record has in its place."""
        return self.names.get(ip) or self._k.records.name_at(self._k.recorded_ip(ip))

    def entry(self, record: Record, time_ns: int, depth: int, of: RecordedEvent | None = None) -> EntryEvent:
        """A call.

        :param depth: recorded calls of functions that are in flight around this one.
        :param of: the probe event that was recorded; None for a function.
        """
        name, caller = self.name(record.ip), self._caller(record.ret_ip)
        return EntryEvent(
            name, record.ip, record.ret_ip, record.cpu, record.task, time_ns,
            args=argument_registers(record),
            caller=caller,
            depth=depth,
            comm=record.comm,
            pid=record.pid,
            params=None if of else self._params(name, record),
            **self._told(record, of, entry_text(name, caller) if self._is_tracefs else ""),
        )  # fmt: skip

    def exit(self, record: Record, clock: TscClock, depth: int, of: RecordedEvent | None = None) -> ExitEvent:
        """A return. See :meth:`entry`."""
        name = self.name(record.ip)
        return ExitEvent(
            name, record.ip, record.ret_ip, record.cpu, record.task, clock.at_ns(record.tsc),
            retval=record.retval,
            duration_ns=(record.left_tsc - record.entered_tsc) * 1_000_000 // clock.khz,
            caller=self._caller(record.ret_ip),
            depth=depth,
            comm=record.comm,
            pid=record.pid,
            result=None if of else self._result(name, record),
            **self._told(record, of, self._return_text(name, record) if self._is_tracefs else ""),
        )  # fmt: skip

    def missed(self, record: Record, clock: TscClock, depth: int, of: RecordedEvent | None = None) -> MissedEvent:
        """A call for which there was no node. See :meth:`entry`."""
        return MissedEvent(
            self.name(record.ip), record.ip, record.ret_ip, record.cpu, record.task, clock.at_ns(record.tsc),
            reason=MissReason.POOL,
            depth=depth,
            probe_event=of.name if of else None,
        )  # fmt: skip

    def _told(self, record: Record, of: RecordedEvent | None, text: str) -> _Told:
        if of:
            return {"fields": of.fields(self._k, record), "probe_event": of.name}
        return {"text": text, "flags": flags_of(record.flags, has_count=self._has_count)} if self._is_tracefs else {}

    def _return_text(self, name: str, record: Record) -> str:
        key = record.ip, record.ret_ip
        if key not in self._returns:
            self._returns[key] = return_text(self._k, name, record.ret_ip)
        return f"{self._returns[key]}{record.retval:#x}"

    def _caller(self, ret_ip: int) -> str:
        if ret_ip not in self._callers:
            self._callers[ret_ip] = self._k.symbolize(ret_ip)
        return self._callers[ret_ip]

    def _params(self, name: str, record: Record) -> tuple[tuple[str, str], ...] | None:
        proto = self._k.prototype(name) if self._typed else None
        if proto is None:
            return None
        plan = self.fetched.get(record.ip)
        names = plan.names(record.payload) if plan else {}
        return describe_arguments(arguments(self._k.btf, proto, entry_registers(record), NO_MEMORY), names)

    def _result(self, name: str, record: Record) -> str | None:
        proto = self._k.prototype(name) if self._typed else None
        if proto is None:
            return None
        return describe_result(return_value(self._k.btf, proto, exit_registers(record), NO_MEMORY))
