"""The trampoline dispatch: probed functions call a pad of ours, which asks the host and goes on, or records.

The guest runs on while a handler runs; only the vCPU of the hit waits. Text is only written while the guest is stopped.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Collection, Mapping, Sequence, Set

from emu.deadline import Deadline
from fprobe_gdb.dispatch.base import RunEnd
from fprobe_gdb.dispatch.clock import GuestClock
from fprobe_gdb.dispatch.cpu_state import CpuState, PerCpuOffsets
from fprobe_gdb.dispatch.trampoline.early_pokes import EarlyPokes
from fprobe_gdb.dispatch.trampoline.guest_calls import GuestCalls
from fprobe_gdb.dispatch.trampoline.guest_unwinder import GuestUnwinder, UnwinderPads
from fprobe_gdb.dispatch.trampoline.hit_clock import HitClock
from fprobe_gdb.dispatch.trampoline.hits import Hits
from fprobe_gdb.dispatch.trampoline.journal import OwnBytes
from fprobe_gdb.dispatch.trampoline.lost import LostCalls
from fprobe_gdb.dispatch.trampoline.outcome import Outcome
from fprobe_gdb.dispatch.trampoline.pad_expr import Asked
from fprobe_gdb.dispatch.trampoline.pads import CallPads, call_pads
from fprobe_gdb.dispatch.trampoline.plans import Planner
from fprobe_gdb.dispatch.trampoline.planter import Planter
from fprobe_gdb.dispatch.trampoline.record_format import RecordForm
from fprobe_gdb.dispatch.trampoline.record_pads import PadPlace
from fprobe_gdb.dispatch.trampoline.recorder import Recorder, RecordProbe
from fprobe_gdb.dispatch.trampoline.returns import Returns
from fprobe_gdb.dispatch.trampoline.ring import Batch
from fprobe_gdb.dispatch.trampoline.run_state import RunState
from fprobe_gdb.dispatch.trampoline.serving import Serving
from fprobe_gdb.dispatch.trampoline.shared_words import SharedWords
from fprobe_gdb.dispatch.trampoline.site_stubs import SiteStubs
from fprobe_gdb.dispatch.trampoline.sites import Sites
from fprobe_gdb.dispatch.trampoline.slots import Slots
from fprobe_gdb.dispatch.trampoline.tables import TableForm
from fprobe_gdb.dispatch.trampoline.text_filter import TextFilters
from fprobe_gdb.dispatch.trampoline.text_guard import TextGuard, filtered, phase_of
from fprobe_gdb.dispatch.trampoline.tsc_clock import TscClock
from fprobe_gdb.dispatch.trampoline.zone import Zone
from fprobe_gdb.errors import MemoryFault
from fprobe_gdb.probe.core import ProbeCore
from fprobe_gdb.target.base import Target
from fprobe_gdb.target.guest_ram import GuestRam

__all__ = ["DEFAULT_ANSWER_SEC", "TrampolineDispatch"]

#: How long a pad waits for the host to begin with its hit before it lets the call through.
DEFAULT_ANSWER_SEC = 10.0
# More than any counter of a real machine.
_FASTEST_KHZ = 8_000_000
_PAD_ALIGN = 64

Read = Callable[[int, int], bytes]


class TrampolineDispatch:
    """Feeds the hits of one guest to one probe core.

    :param target: the guest, stopped: for planting, stopping and resuming.
    :param ram: its memory, shared.
    :param zone: mapped, blank, and not used by anybody else.
    :param doorbell: what the guest's writes to the doorbell port come out of; None where there is no such port.
    :param journal: see :class:`.planter.Planter`.
    :param standing: at which of some addresses somebody goes on; None looks for them in all of the memory.
    :param kernel_cr3: physical address of a page table root that stays and maps the kernel.
    :param read_khz: how fast the time stamp counter runs, given a page table root; 0 as long as that is not known.
    :param make_planner: given how to read the kernel's memory, and the pad.
    :param guarded: locations of :data:`.text_guard.GUARDED`.
    :param unwinder: locations of :data:`.guest_unwinder.UNWINDER`.
    :param text: where kernel text begins.
    """

    name = "trampoline"

    def __init__(
        self,
        target: Target,
        core: ProbeCore,
        ram: GuestRam,
        zone: Zone,
        doorbell: socket.socket | None,
        *,
        kernel_cr3: int,
        offsets: PerCpuOffsets,
        cpu_number: int | None,
        make_planner: Callable[[Read, int], Planner],
        guarded: Mapping[str, int],
        unwinder: Mapping[str, int],
        read_khz: Callable[[int], int],
        text: int = 0,
        task_dead_ip: int | None = None,
        answer_sec: float = DEFAULT_ANSWER_SEC,
        journal: OwnBytes | None = None,
        standing: Callable[[Set[int]], set[int]] | None = None,
    ) -> None:
        self.target = target
        self.core = core
        self.ram = ram
        self.zone = zone
        self.clock = GuestClock(target)
        #: See the parameter.
        self.kernel_cr3 = kernel_cr3
        self._time = HitClock(self.clock, lambda: read_khz(self.kernel_cr3))
        self.pads: CallPads = call_pads(zone, offsets, cpu_number)
        self.planner = make_planner(lambda *where: ram.read(self.kernel_cr3, *where), self.pads.entry)
        self._filters = TextFilters.make(zone, self.pads.entry, phase_of(guarded), self.planner.fentry_addr)
        self._filtered = filtered(self._filters, guarded)
        self.recorder = Recorder(
            target,
            ram,
            PadPlace(zone, offsets, cpu_number, text),
            zone.code + (len(self.pads.code) | _PAD_ALIGN - 1) + 1,
        )

        start = zone.site_stubs + len(self._filters.code)
        self._unwinder_pads = UnwinderPads.make(zone, start)
        helper = GuestUnwinder(self._unwinder_pads, unwinder)

        def pad_of(ip: int) -> int:
            if ip in self._sites.helped:
                return helper.pads[ip]
            asking = self._asking(ip)
            return self.recorder.pad_of(ip, asking if ip in self._sites.asked else None) or asking

        self._stubs = SiteStubs(ram, zone, pad_of, start + len(self._unwinder_pads.code))
        #: What pads of a booting guest do by themselves.
        self.early = EarlyPokes(ram, zone)
        self.planter = Planter(
            target, self.planner, self._stubs, pad_of, standing or ram.find_words, journal, self.early.take
        )
        self._words = SharedWords(ram, zone)
        self._run_state = RunState(target, self._time, self.planter, self._words)
        guard = TextGuard(self.planter, ram, zone, self.early, guarded, self._run_state.halt)
        self.returns = Returns(ram, zone)
        self._sites = Sites(
            core,
            self.planter,
            guard,
            self.recorder,
            self.returns,
            self._stubs,
            helping=lambda: helper.ips(self.planner),
        )
        self._sites.task_dead_ip = task_dead_ip
        self._slots = Slots(ram, zone)
        self._outcome = Outcome(target, core)
        self._lost = LostCalls(core, self._slots, self._words, ram, zone, self.returns, self._stubs, self.clock)
        self._hits = Hits(
            core, self._slots, self.returns, self.planter, self._sites, guard, self._time,
            self._run_state, self._outcome,
        )  # fmt: skip
        self._handled = self._hits.handled
        self._calls = GuestCalls(self._slots, self._hits, self._sites, self._run_state, self._outcome)
        self._serving = Serving(
            self._slots, self._hits, self.recorder, self._run_state, self._outcome, self._words, doorbell
        )
        self._furnish(answer_sec)

    # The pad that asks us.
    def _asking(self, ip: int) -> int:
        return self._filtered.get(ip, self.pads.entry)

    # Write code and words into the zone. Nobody has executed anything there.
    def _furnish(self, answer_sec: float) -> None:
        zone, ram = self.zone, self.ram
        ram.write_physical(zone.physical_of(zone.code), self.pads.code)
        ram.write_physical(zone.physical_of(zone.stubs), self.pads.stubs(zone))
        ram.write_physical(zone.physical_of(zone.site_stubs), self._filters.code + self._unwinder_pads.code)
        self.recorder.furnish()
        self._answer_ns = int(answer_sec * 1e9)
        self._set_bound()

    def _set_bound(self) -> None:
        self._words[Zone.BOUND_TSC] = self._answer_ns * (self._time.tsc.khz or _FASTEST_KHZ) // 1_000_000

    def settle(self, kernel_cr3: int) -> None:
        """The guest has booted with us in it and is stopped: what can only be known now, and better ways to plant.

        :param kernel_cr3: as for a dispatch of a guest that is up.
        """
        self.kernel_cr3 = kernel_cr3
        self._time.settle()
        self._set_bound()
        self.planner.may_move = True
        slow = self.planter.slow
        self.planter.change(slow, slow)

    def forget(self, start: int, stop: int) -> None:
        """The guest is about to free this memory: nothing is planted in it any more, ever."""
        self._run_state.halt()
        self._sites.forget(start, stop)

    # Section: running the guest

    def run(self, deadline: Deadline, done: Callable[[], bool], wake: Sequence[int] = ()) -> RunEnd:
        """See :meth:`.base.Dispatch.run`."""
        self._outcome.begin()
        try:
            return self._run(deadline, done, wake)
        finally:
            if self._run_state.stopped:
                self._lost.settle()
            if failure := self._outcome.take_failure():
                raise failure

    def _run(self, deadline: Deadline, done: Callable[[], bool], wake: Sequence[int]) -> RunEnd:
        self.sync()
        self._serving.drain()
        while not self._outcome.ends and not done():
            if deadline.expired:
                return RunEnd.TIMEOUT
            self._run_state.resume()
            end = self._serving.serve(deadline, done, wake)
            if self._run_state.running:
                self._run_state.halt()
                self._serving.drain()
            while self._serving.take_records():
                pass
            if end is not None:
                return end
        return RunEnd.DONE

    def stop(self) -> None:
        """See :meth:`.base.Dispatch.stop`."""
        self._outcome.stop()

    def sync(self) -> None:
        """Plant what the core asks for now, and remove what it does not. The guest is stopped.

        :raise PlantRefused: when a location cannot be planted.
        """
        self._sites.sync()

    def admit(self, ips: Collection[int], planted: Collection[int] = ()) -> None:
        """See :meth:`.base.Dispatch.admit`."""
        self.planter.check(ips, planted)
        for ip in self.recorder.ips.intersection(ips):
            self.recorder.pad_of(ip, self._asking(ip))

    def withdraw(self) -> None:
        """Take everything out of the stopped guest: sites get their bytes back, return slots their addresses."""
        self._sites.clear()
        # Before those of record mode: their stubs may be what comes to light.
        for call in self.returns.all():
            stub = self.zone.stub(call.node).to_bytes(8, "little")
            with contextlib.suppress(MemoryFault):
                # The stack of a task that is gone may be, too.
                if self.ram.read(self.kernel_cr3, call.frame, 8) == stub:
                    self.ram.write(self.kernel_cr3, call.frame, call.slot_word.to_bytes(8, "little"))
            self.returns.free(call)
        self.recorder.withdraw()

    def unplant(self) -> None:
        """Give sites of the stopped guest their bytes back, and leave calls in flight to others."""
        self.recorder.withdraw()
        self._sites.clear()

    def close(self) -> None:
        """Let go of the guest's memory. May be called twice."""
        self.recorder.close()
        self._slots.close()
        self.early.close()
        self.ram.close()

    # Section: recording

    def record(
        self,
        ips: Collection[int],
        form: RecordForm,
        consume: Callable[[Batch], None],
        *,
        nr_maxactive: int,
        block: bool = False,
        ordered: bool = True,
        asked: Mapping[int, Asked] | None = None,
        by_function: bool = True,
        tables: Sequence[TableForm] | None = None,
    ) -> RecordProbe:
        """Record functions, without handlers, from now on. The guest is stopped. See :meth:`.recorder.Recorder.add`."""
        self.recorder.task_dead_ip = self.task_dead_ip
        probe = self.recorder.add(
            ips,
            form,
            consume,
            nr_maxactive=nr_maxactive,
            block=block,
            ordered=ordered,
            asked=asked,
            by_function=by_function,
            tables=tables,
        )
        try:
            self.sync()
        except BaseException:
            self.recorder.remove(probe)
            self.sync()
            raise
        return probe

    def recorded_ip(self, ip: int) -> int:
        """The location that a record is about, given what the record says: there may be a stub in between."""
        return self._stubs.ip_of(ip)

    def stop_recording(self, probe: RecordProbe) -> None:
        """Remove a recording probe, and take what it has recorded; of a guest that is gone, only that."""
        while self._serving.take_records():
            pass
        if self._run_state.stopped:
            self.recorder.remove(probe)
            self.sync()
        else:
            self.recorder.count_lost(probe)

    def switch_recording(self, probe: RecordProbe, *, enabled: bool) -> None:
        """Disable a recording probe or enable it; what it has recorded is taken first. The guest is stopped."""
        while self._serving.take_records():
            pass
        self.recorder.switch(probe, enabled=enabled)
        try:
            self.sync()
        except BaseException:
            self.recorder.switch(probe, enabled=not enabled)
            self.sync()
            raise

    def record_times(self, newest_tsc: int) -> TscClock | None:
        """See :meth:`.hit_clock.HitClock.records`."""
        return self._time.records(newest_tsc)

    @property
    def tsc_khz(self) -> int:
        """See :attr:`.hit_clock.HitClock.tsc_khz`."""
        return self._time.tsc_khz

    def estimated_times(self, oldest_tsc: int, newest_tsc: int) -> TscClock:
        """See :meth:`.hit_clock.HitClock.estimate`."""
        return self._time.estimate(oldest_tsc, newest_tsc)

    @property
    def waiting(self) -> list[int]:
        """Slots of hits that wait for us now, or for the handlers that are running."""
        return self._slots.waiting()

    # Section: what a dispatch tells and is told

    @property
    def epoch(self) -> int:
        """See :attr:`.base.Dispatch.epoch`."""
        return self._run_state.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._run_state.epoch = epoch

    @property
    def stopped_ns(self) -> int:
        """See :attr:`.base.Dispatch.stopped_ns`."""
        return self._hits.host_ns

    @stopped_ns.setter
    def stopped_ns(self, stopped_ns: int) -> None:
        self._hits.host_ns = stopped_ns

    @property
    def task_dead_ip(self) -> int | None:
        """See :attr:`.base.Dispatch.task_dead_ip`."""
        return self._sites.task_dead_ip

    @task_dead_ip.setter
    def task_dead_ip(self, ip: int | None) -> None:
        self._sites.task_dead_ip = ip

    @property
    def watches(self) -> Callable[[], Mapping[int, Callable[[CpuState], None]]]:
        """See :attr:`.base.Dispatch.watches`."""
        return self._sites.watches

    @watches.setter
    def watches(self, watches: Callable[[], Mapping[int, Callable[[CpuState], None]]]) -> None:
        self._sites.watches = watches

    # Section: for handlers

    @property
    def current(self) -> CpuState:
        """See :meth:`.base.Dispatch.current`."""
        return self._handled.current

    @property
    def in_handler(self) -> bool:
        """See :meth:`.base.Dispatch.in_handler`."""
        return bool(self._handled)

    def now_ns(self) -> int:
        """See :meth:`.base.Dispatch.now_ns`."""
        return self._handled[-1].time_ns if self._handled else self.clock.now_ns()

    def read_memory(self, addr: int, size_bytes: int) -> bytes:
        """See :meth:`.base.Dispatch.read_memory`."""
        if self._handled:
            data = self.ram.read(self._handled[-1].at.cr3, addr, size_bytes)
        else:
            data = self.target.read_memory(addr, size_bytes)
        return self.planter.as_guest_sees(addr, data)

    def write_memory(self, addr: int, data: bytes) -> None:
        """See :meth:`.base.Dispatch.write_memory`."""
        if self._handled:
            self.ram.write(self._handled[-1].at.cr3, addr, data)
        else:
            self.target.write_memory(addr, data)

    def waited_ns(self, task: int) -> int:
        """See :meth:`.base.Dispatch.waited_ns`."""
        return self._time.waited_ns(task)

    def recover_return(self, slot_addr: int, value: int) -> int | None:
        """See :meth:`.base.Dispatch.recover_return`."""
        call = self.returns.find(value)
        if call is None:
            return self.recorder.recover_return(slot_addr, value)
        return call.ret_addr if call.frame == slot_addr else None

    def call(self, addr: int, args: tuple[int, ...], deadline: Deadline) -> int:
        """See :meth:`.base.Dispatch.call`."""
        return self._calls.call(addr, args, deadline)
