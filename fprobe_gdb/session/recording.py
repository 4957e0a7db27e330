"""Recording calls inside the guest, without a handler: the part of :class:`~fprobe_gdb.Kernel` that does that."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence

from emu.deadline import Deadline
from emu.machine import Machine
from fprobe_gdb.dispatch.base import RunEnd
from fprobe_gdb.dispatch.trampoline.dispatch import TrampolineDispatch
from fprobe_gdb.dispatch.trampoline.pad_expr import ALWAYS, Asked
from fprobe_gdb.dispatch.trampoline.record_flags import TaskFlags
from fprobe_gdb.dispatch.trampoline.record_format import RecordForm, TaskNames
from fprobe_gdb.dispatch.trampoline.recorder import Recorder, RecordProbe
from fprobe_gdb.dispatch.trampoline.ring import Batch
from fprobe_gdb.dispatch.trampoline.tables import TableForm
from fprobe_gdb.dispatch.trampoline.tsc_clock import TscClock
from fprobe_gdb.errors import (
    MemberNotFound,
    RecordNoRing,
    RecordNoTrampolines,
    SiteNotRecorded,
    StateError,
    ZoneNotMapped,
)
from fprobe_gdb.session.attached import AttachedMachine
from fprobe_gdb.session.attached_zones import AttachedZones
from fprobe_gdb.session.options import BootOptions
from fprobe_gdb.session.pad_window import map_window
from fprobe_gdb.session.view import GuestView
from fprobe_gdb.target.base import TargetState

__all__ = ["GuestRecording"]

# A pad takes a microsecond, but its vCPU may have to be scheduled by the host first.
_SETTLE_SEC = 5.0


class GuestRecording(GuestView):
    """A guest whose functions can be recorded, if it has trampolines."""

    machine: Machine | AttachedMachine
    options: BootOptions
    # Of a guest of others.
    _zones: AttachedZones | None
    # Why it has none, where they were wished for.
    _why_breakpoints: str

    def num_possible_cpus(self) -> int:
        """``num_possible_cpus()`` of the guest."""
        raise NotImplementedError

    def _run(self, deadline: Deadline, until: Callable[[], bool]) -> RunEnd:
        raise NotImplementedError

    def record(
        self,
        ips: Collection[int],
        consume: Callable[[Batch], None],
        *,
        entry_only: bool = False,
        args: bool = False,
        names: bool = False,
        flags: bool = False,
        nr_maxactive: int = 0,
        block: bool = False,
        ordered: bool = True,
        asked: Mapping[int, Asked] | None = None,
        by_function: bool = True,
        tables: Sequence[TableForm] | None = None,
    ) -> RecordProbe:
        """Record calls of functions inside the guest, without a handler: a thousand times as cheap as a hit.

        The guest writes what happens into rings in its memory, one for each CPU; the host reads them while it runs.

        :param ips: ftrace locations.
        :param consume: gets the records in pieces, soon after they were written.
        :param entry_only: no returns.
        :param args: record the six argument registers.
        :param names: record the task's name and pid; left out where the kernel has no types.
        :param flags: with the names, record the state of the CPU (:func:`.record_flags.flags_of`).
        :param nr_maxactive: calls in flight at once; more are missed. 0 takes functions x possible CPUs x 2. In any
            case there are no more than a few thousand for all probes together.
        :param block: where the host is slow let the guest wait, up to a bound, instead of losing records.
        :param ordered: give records in the order in which things happened. Without it, which is cheaper, they come in
            the order of each CPU, one CPU after the other.
        :param asked: by location, what is asked of each call before it is recorded. If something is asked at returns,
            calls are recorded there, each as one record.
        :param by_function: count losses by function. A function can be in several recordings, in one of them so.
        :param tables: record nothing: calls are added up in the guest, by function, and in these tables as ``asked``
            says. ``counts`` of the probe has all that, once it is removed.
        :raise RecordRefused: without trampolines, or when there is no room for another probe.
        :raise PlantRefused: when one of the functions cannot be given a trampoline; then none is recorded.
        """
        dispatch = self._recording_dispatch
        if self.target.state is not TargetState.STOPPED or dispatch.in_handler:
            raise StateError("recording", "running", "stopped, outside handlers")
        if self.num_possible_cpus() > dispatch.zone.rings:
            raise self._no_ring()
        if (ip := self.records.without_fentry(ips)) is not None:
            raise SiteNotRecorded(ip)
        at_exit = [it.at_exit for it in (asked or {}).values()]
        decided, always = any(it is not None for it in at_exit), all(it == ALWAYS for it in at_exit)
        payload_bytes = max((it.payload.size_bytes for it in (asked or {}).values() if it.payload), default=0)
        form = RecordForm(
            not entry_only,
            args,
            self._task_names(flags) if names else None,
            decided=decided,
            always=decided and always,
            payload_bytes=payload_bytes,
        )
        wanted = nr_maxactive or len(ips) * self.num_possible_cpus() * 2
        return dispatch.record(
            ips,
            form,
            consume,
            nr_maxactive=wanted,
            block=block,
            ordered=ordered,
            asked=asked,
            by_function=by_function,
            tables=tables,
        )

    @property
    def can_record(self) -> bool:
        """Whether the guest has trampolines, which :meth:`record` needs."""
        return isinstance(self._dispatch, TrampolineDispatch)

    def stop_recording(self, *probes: RecordProbe, settle: bool = True) -> None:
        """Remove recording probes. The guest is stopped, or gone; calls in flight return by themselves.

        :param settle: let the guest run until no pad is about to record something, so that all figures are of the same
            calls. Without, the guest does nothing.
        """
        if isinstance(self._dispatch, TrampolineDispatch):
            dispatch = self._dispatch
            for probe in probes:
                dispatch.stop_recording(probe)
            deadline = Deadline(_SETTLE_SEC if settle else 0)
            while self.target.state is TargetState.STOPPED and dispatch.recorder.busy and not deadline.expired:
                # Stopped within a pad: let it come to its end.
                self._run_a_little(deadline, dispatch.recorder)
                for probe in probes:
                    dispatch.recorder.count_lost(probe)

    def _run_a_little(self, deadline: Deadline, recorder: Recorder) -> None:
        not_yet = iter([False])
        self._run(deadline, lambda: next(not_yet, True) and not recorder.waiting)

    def disable_recording(self, probe: RecordProbe) -> None:
        """Record nothing of a probe until :meth:`enable_recording`; its functions are as fast as without it meanwhile.

        As with :meth:`disable_fprobe`, neither calls nor returns count in between. The guest is stopped.
        """
        self._switch_recording(probe, enabled=False)

    def enable_recording(self, probe: RecordProbe) -> None:
        """Record again. The guest is stopped.

        :raise PlantRefused: when one of the functions cannot be planted any more; the probe stays disabled then.
        """
        self._switch_recording(probe, enabled=True)

    def _switch_recording(self, probe: RecordProbe, *, enabled: bool) -> None:
        if self.target.state is not TargetState.STOPPED or self._dispatch.in_handler:
            raise StateError("switching a recording", "running", "stopped, outside handlers")
        assert isinstance(self._dispatch, TrampolineDispatch)
        self._dispatch.switch_recording(probe, enabled=enabled)

    def recorded_ip(self, ip: int) -> int:
        """The location that a record is about, given its ``ip``: where the guest's own tracer has the location, too, a
        record has the address of a stub in its place."""
        assert isinstance(self._dispatch, TrampolineDispatch)
        return self._dispatch.recorded_ip(ip)

    def record_times(self, newest_tsc: int) -> TscClock | None:
        """Guest time of records, given the newest ``tsc`` of those that have just been taken.

        None early in boot: the guest has not measured its counter yet.
        """
        assert isinstance(self._dispatch, TrampolineDispatch)
        return self._dispatch.record_times(newest_tsc)

    @property
    def tsc_khz(self) -> int:
        """How many counts a millisecond of records' time stamps has, by the guest's measurement; 0 early in boot.

        :raise RecordNoTrampolines: the guest has none.
        """
        return self._recording_dispatch.tsc_khz

    def estimated_times(self, oldest_tsc: int, newest_tsc: int) -> TscClock:
        """The same for a guest that never came to measure it, by the host's clock."""
        assert isinstance(self._dispatch, TrampolineDispatch)
        return self._dispatch.estimated_times(oldest_tsc, newest_tsc)

    def open_window(self) -> bool:
        """Let recording pads follow pointers. Returns whether they can: not in a boot. The guest is stopped.

        In a guest of others the window is taken out with the zone.

        :raise RecordNoTrampolines: the guest has none.
        """
        dispatch = self._recording_dispatch
        # While it boots the kernel looks through its page tables for what can be written and executed (debug_checkwx()
        # in mark_rodata_ro()), and would look for the window's where it has mapped all memory, without the zone.
        if self._zones is not None or (isinstance(self.machine, Machine) and self.machine.agent.ready):
            with contextlib.suppress(ZoneNotMapped):
                map_window(dispatch, self.symbols)
        return dispatch.recorder.reaches_memory

    @property
    def _recording_dispatch(self) -> TrampolineDispatch:
        if not isinstance(self._dispatch, TrampolineDispatch):
            raise self._no_trampolines()
        return self._dispatch

    def _no_trampolines(self) -> RecordNoTrampolines:
        why = self._why_breakpoints
        if not isinstance(self.machine, AttachedMachine):
            why = why or "the guest has not booted, or was booted with breakpoints"
            return RecordNoTrampolines(why, "boot it with dispatch='trampoline'")
        if not why:
            return RecordNoTrampolines("breakpoints were asked for", "attach with dispatch='auto'")
        return RecordNoTrampolines(why, "let handlers do it (--no-record, Fprobe)")

    def _no_ring(self) -> RecordNoRing:
        cpus = self.num_possible_cpus()
        if self._zones is None:
            return RecordNoRing(cpus)
        if not self.options.recording:
            return RecordNoRing(cpus, "attach with recording=True")
        return RecordNoRing(cpus, "let handlers do it (--no-record, Fprobe)", self._zones.why_no_rings)

    def _task_names(self, flags: bool) -> TaskNames | None:
        if not self.has_types:
            return None
        task = self.knowledge.btf.struct("task_struct")

        def offset(path: str) -> int | None:
            with contextlib.suppress(MemberNotFound):
                return task.find_member(path).byte_offset
            return None

        fields = TaskFlags(offset("thread_info.flags"), offset("migration_disabled")) if flags else None
        return TaskNames(task.find_member("comm").byte_offset, task.find_member("pid").byte_offset, fields)
