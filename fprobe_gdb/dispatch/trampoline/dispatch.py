"""The trampoline dispatch: probed functions call a pad of ours, which asks the host and goes on, or records.""


The guest runs on while a handler runs; only the vCPU of the hit waits. The host looks for posted slots as long as hits
come close together, and sleeps until the guest rings otherwise.

Rule 1: text is only written while the guest is stopped.
Rule 2: an answer is the last thing that is done about a hit: what the handlers asked for (probes planted or removed, a
stop) is done by then, so that the vCPU runs into a world in which it holds.
Rule 3: a return belongs to the node whose stub it comes through. Frames are those of the probe core.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from emu.deadline import Deadline
from fprobe_gdb.dispatch.advance import skip_length
from fprobe_gdb.dispatch.base import RunEnd
from fprobe_gdb.dispatch.clock import GuestClock
from fprobe_gdb.dispatch.cpu_state import CpuState, PerCpuOffsets
from fprobe_gdb.dispatch.trampoline.guest_unwinder import GuestUnwinder, UnwinderPads
from fprobe_gdb.dispatch.trampoline.hit_clock import HitClock
from fprobe_gdb.dispatch.trampoline.pads import CallPads, Kind, call_pads
from fprobe_gdb.dispatch.trampoline.plans import Planner
from fprobe_gdb.dispatch.trampoline.planter import Planter
from fprobe_gdb.dispatch.trampoline.record_format import RecordForm
from fprobe_gdb.dispatch.trampoline.record_pads import PadPlace
from fprobe_gdb.dispatch.trampoline.recorder import Recorder, RecordProbe
from fprobe_gdb.dispatch.trampoline.returns import Returns
from fprobe_gdb.dispatch.trampoline.ring import Batch
from fprobe_gdb.dispatch.trampoline.shared_words import SharedWords
from fprobe_gdb.dispatch.trampoline.site_stubs import SiteStubs
from fprobe_gdb.dispatch.trampoline.sites import Sites
from fprobe_gdb.dispatch.trampoline.slots import Posted, Slots
from fprobe_gdb.dispatch.trampoline.text_filter import TextFilters
from fprobe_gdb.dispatch.trampoline.text_guard import TextGuard, filtered
from fprobe_gdb.dispatch.trampoline.tsc_clock import TscClock
from fprobe_gdb.dispatch.trampoline.zone import Zone
from fprobe_gdb.errors import GuestCallError, MemoryFault, PlantRefused, StateError, WaitTimeout
from fprobe_gdb.events import MissReason
from fprobe_gdb.probe.core import Hit, ProbeCore
from fprobe_gdb.probe.recursion import context_of
from fprobe_gdb.probe.regs import PtRegs, Side
from fprobe_gdb.registers import ARGUMENT_REGISTERS, MASK64, REGISTERS
from fprobe_gdb.target.base import Target, TargetState
from fprobe_gdb.target.guest_ram import GuestRam

__all__ = ["DEFAULT_ANSWER_SEC", "TrampolineDispatch"]

#: How long a pad waits for the host to begin with its hit before it lets the call through.
DEFAULT_ANSWER_SEC = 10.0
_STOP_SEC = 30.0
# How long to look for the next hit before going to sleep, and how often to look at everything else meanwhile.
_SPIN_NS = 30_000
_LOOK_ROUND_NS = 2_000_000
_NAP_SEC = 0.05
# Giving our turn away takes longer than this where somebody else has used it; for how long to believe that.
_YIELD_NS = 1_000_000
_CONTENDED_NS = 50_000_000
_STEP_SEC = 10.0
# More than any counter of a real machine.
_FASTEST_KHZ = 8_000_000
# How often to take records out of the ring; it holds what a busy guest records in ten times as long.
_RECORDS_SEC = 0.01
_FENTRY_BYTES = 5
_PAD_ALIGN = 64

Read = Callable[[int, int], bytes]


# A hit whose handlers are running. The function that a handler calls may end on another vCPU: then ``at`` is newer.
@dataclass(slots=True)
class _Handling:
    posted: Posted
    at: Posted
    ip: int
    hit: Hit
    state: CpuState | None = None


class TrampolineDispatch:
    """Feeds the hits of one guest to one probe core.

    :param target: the guest, stopped: for planting, stopping and resuming.
    :param ram: its memory, shared.
    :param zone: mapped, and not used by anybody else.
    :param doorbell: what the guest's writes to the doorbell port come out of.
    :param kernel_cr3: physical address of a page table root that stays and maps the kernel.
    :param tsc_khz: how fast the time stamp counter runs; 0 where that is not known yet.
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
        doorbell: socket.socket,
        *,
        kernel_cr3: int,
        offsets: PerCpuOffsets,
        cpu_number: int | None,
        make_planner: Callable[[Read, int], Planner],
        guarded: Mapping[str, int],
        unwinder: Mapping[str, int],
        tsc_khz: int,
        text: int = 0,
        task_dead_ip: int | None = None,
        answer_sec: float = DEFAULT_ANSWER_SEC,
    ) -> None:
        self.target = target
        self.core = core
        self.ram = ram
        self.zone = zone
        self.clock = GuestClock(target)
        self._time = HitClock(self.clock, tsc_khz)
        self.stopped_ns = 0
        self.epoch = 0
        self.task_dead_ip = task_dead_ip
        self.watches: Callable[[], Mapping[int, Callable[[CpuState], None]]] = dict
        self._watched: Mapping[int, Callable[[CpuState], None]] = {}
        self.pads: CallPads = call_pads(zone, offsets, cpu_number)
        #: See the parameter.
        self.kernel_cr3 = kernel_cr3
        self._filters = TextFilters.make(zone, self.pads.entry)
        pads = filtered(self._filters, guarded)
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
            asking = pads.get(ip, self.pads.entry)
            return self.recorder.pad_of(ip, asking if ip in self._sites.asked else None) or asking

        self._stubs = SiteStubs(ram, zone, pad_of, start + len(self._unwinder_pads.code))
        self.planner = make_planner(lambda *where: ram.read(self.kernel_cr3, *where), self.pads.entry)
        self.planter = Planter(target, self.planner, self._stubs, pad_of, ram.find_words)
        self._guard = TextGuard(self.planter, ram, zone, guarded, self._halt_if_running)
        self._sites = Sites(self.planter, self._guard, self.recorder, lambda: helper.ips(self.planner))
        self.returns = Returns(ram, zone)
        self._slots = Slots(ram, zone)
        self._words = SharedWords(ram, zone)
        self._doorbell = doorbell
        self._doorbell.setblocking(False)
        self._handling: list[_Handling] = []
        self._failure: BaseException | None = None
        self._stop_requested = False
        self._lost_seen = 0
        self._contended_until_ns = 0
        # When done() was asked last.
        self._asked_ns = 0
        self._furnish(answer_sec)

    # Write code and words into the zone. Nobody has executed anything there.
    def _furnish(self, answer_sec: float) -> None:
        zone, ram = self.zone, self.ram
        ram.write_physical(zone.physical, bytes(zone.size_bytes))
        ram.write_physical(zone.physical_of(zone.code), self.pads.code)
        ram.write_physical(zone.physical_of(zone.stubs), self.pads.stubs(zone))
        ram.write_physical(zone.physical_of(zone.site_stubs), self._filters.code + self._unwinder_pads.code)
        self.recorder.furnish()
        self._answer_ns = int(answer_sec * 1e9)
        self._set_bound()

    def _set_bound(self) -> None:
        self._words[Zone.BOUND_TSC] = self._answer_ns * (self._time.tsc.khz or _FASTEST_KHZ) // 1_000_000

    def settle(self, kernel_cr3: int, tsc_khz: int) -> None:
        """The guest has booted with us in it and is stopped: what can only be known now, and better ways to plant.

        :param kernel_cr3, tsc_khz: as for a dispatch of a guest that is up.
        """
        self.kernel_cr3, self._time.tsc.khz = kernel_cr3, tsc_khz
        self._set_bound()
        self._time.tsc.forget()
        self.planner.may_move = True
        slow = list(self.planter.slow)
        self.planter.unplant(slow)
        self.planter.plant(slow)

    def forget(self, start: int, stop: int) -> None:
        """The guest is about to free this memory: nothing is planted in it any more, ever."""
        self._halt_if_running()
        self._sites.forget(start, stop)

    # Section: running the guest

    def run(self, deadline: Deadline, done: Callable[[], bool], wake: Sequence[int] = ()) -> RunEnd:
        """See :meth:`.base.Dispatch.run`."""
        self._stop_requested = False
        try:
            return self._run(deadline, done, wake)
        finally:
            if self.target.state is TargetState.STOPPED:
                self._settle_lost()
            if failure := self._failure:
                self._failure = None
                raise failure

    def _run(self, deadline: Deadline, done: Callable[[], bool], wake: Sequence[int]) -> RunEnd:
        self.sync()
        self._drain()
        while self._failure is None and not self._stop_requested and not done():
            if deadline.expired:
                return RunEnd.TIMEOUT
            self._resume()
            end = self._serve(deadline, done, wake)
            if self.target.state is TargetState.RUNNING:
                self._halt()
                if not self._stop_requested and self._failure is None:
                    self._drain()
            while self._take_records():
                pass
            if end is not None:
                return end
        return RunEnd.DONE

    def stop(self) -> None:
        """See :meth:`.base.Dispatch.stop`."""
        self._stop_requested = True

    # Handle hits of the running guest. None: it is stopped, or to be stopped, and the caller has to see why.
    def _serve(self, deadline: Deadline, done: Callable[[], bool], wake: Sequence[int]) -> RunEnd | None:
        last_hit_ns = last_look_ns = time.monotonic_ns()
        while True:
            slot = self._slots.next_posted()
            if slot is not None:
                self._handle(slot)
                if self._ends_serving:
                    return None
            now_ns = time.monotonic_ns()
            if slot is not None:
                last_hit_ns = now_ns
            idle = slot is None and (now_ns - last_hit_ns >= _SPIN_NS or now_ns < self._contended_until_ns)
            if not idle and now_ns - last_look_ns < _LOOK_ROUND_NS:
                if slot is None:
                    self._yield(now_ns)
                continue
            more = self._take_records()
            stopped, end = self._look_round(deadline, done, wake, idle and not more)
            if stopped or end is not None or self._ends_serving:
                return end
            last_look_ns = time.monotonic_ns()
            if idle:
                last_hit_ns = last_look_ns

    # QEMU may be waiting for this very CPU. Where others do, looking on would only cost our turn when the guest rings.
    def _yield(self, now_ns: int) -> None:
        os.sched_yield()
        if time.monotonic_ns() - now_ns > _YIELD_NS:
            self._contended_until_ns = now_ns + _CONTENDED_NS

    @property
    def _ends_serving(self) -> bool:
        return self.target.state is not TargetState.RUNNING or self._failure is not None or self._stop_requested

    # See after everything but hits: whether the guest has stopped, and why else to end.
    def _look_round(
        self, deadline: Deadline, done: Callable[[], bool], wake: Sequence[int], idle: bool
    ) -> tuple[bool, RunEnd | None]:
        if self._words[Zone.HOST_AWAY]:
            self._words[Zone.HOST_AWAY] = 0
        if idle:
            self._words[Zone.HOST_SLEEPS] = 1
        try:
            sleeping = idle and self._slots.next_posted() is None
            # Not for long: our word that we sleep may become visible only after the pad has looked for it.
            limit = deadline.within(self._nap_sec) if sleeping else Deadline(0)
            stop = self.target.wait(limit, (*wake, self._doorbell.fileno()))
            if stop is not None:
                self._time.note_stop()
                return True, None
        except WaitTimeout:
            if deadline.expired:
                return False, RunEnd.TIMEOUT
        finally:
            if idle:
                self._words[Zone.HOST_SLEEPS] = 0
        if self._rang() and time.monotonic_ns() - self._asked_ns < _LOOK_ROUND_NS:
            # The guest has rung for a hit, most likely; whoever asks has work to do for his answer.
            return False, None
        is_done = done()
        self._asked_ns = time.monotonic_ns()
        return False, RunEnd.DONE if is_done else None

    @property
    def _nap_sec(self) -> float:
        return _RECORDS_SEC if self.recorder.active else _NAP_SEC

    def _resume(self) -> None:
        self._time.resuming()
        self._words[Zone.HOST_AWAY] = 0
        self.epoch += 1
        self._pass_breakpoints()
        self.target.resume()

    # No vCPU is resumed at a breakpoint: it is sent into the stub of its location, or past it.
    def _pass_breakpoints(self) -> None:
        moved = self.planter.has_breakpoints
        while moved:
            moved = False
            for vcpu, ip in enumerate(self.target.instruction_pointers()):
                if (where := self.planter.pass_on(ip)) is None:
                    continue
                to, steps = where
                self.target.write_registers(vcpu, {"ip": to})
                if steps:
                    self.target.step(vcpu, Deadline(_STEP_SEC))
                moved = True

    def _halt_if_running(self) -> None:
        if self.target.state is TargetState.RUNNING:
            self._halt()

    def _halt(self) -> None:
        self.target.interrupt()
        self.target.wait(Deadline(_STOP_SEC))
        self._time.note_stop()

    # Handle what has been posted in a stopped guest.
    def _drain(self) -> None:
        while not self._stop_requested and self._failure is None and (slot := self._slots.next_posted()) is not None:
            self._handle(slot)

    def sync(self) -> None:
        """Plant what the core asks for now, and remove what it does not. The guest is stopped.

        :raise PlantRefused: when a location cannot be planted.
        """
        changed = self._sites.change(*self.core.take_site_changes())
        self.core.take_return_changes()
        self._watched = self.watches()
        own = set(self._watched)
        if self.task_dead_ip is not None and (self._sites.wanted or len(self.returns)):
            own.add(self.task_dead_ip)
        self._sites.sync(own, changed=changed)

    def admit(self, ips: Collection[int]) -> None:
        """See :meth:`.base.Dispatch.admit`."""
        self.planter.check(ips)

    def withdraw(self) -> None:
        """Take everything out of the stopped guest: sites get their bytes back, return slots their addresses."""
        self.recorder.withdraw()
        self._sites.clear()
        for call in self.returns.all():
            stub = self.zone.stub(call.node).to_bytes(8, "little")
            with contextlib.suppress(MemoryFault):
                # The stack of a task that is gone may be, too.
                if self.ram.read(self.kernel_cr3, call.frame, 8) == stub:
                    self.ram.write(self.kernel_cr3, call.frame, call.ret_addr.to_bytes(8, "little"))
            self.returns.free(call)

    def close(self) -> None:
        """Let go of the guest's memory. May be called twice."""
        self.recorder.close()
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
    ) -> RecordProbe:
        """Record functions, without handlers, from now on. The guest is stopped. See :meth:`.recorder.Recorder.add`."""
        self.recorder.task_dead_ip = self.task_dead_ip
        probe = self.recorder.add(ips, form, consume, nr_maxactive=nr_maxactive, block=block)
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
        while self._take_records():
            pass
        if self.target.state is TargetState.STOPPED:
            self.recorder.remove(probe)
            self.sync()
        else:
            self.recorder.count_lost(probe)

    def record_times(self, newest_tsc: int) -> TscClock:
        """See :meth:`.hit_clock.HitClock.records`."""
        return self._time.records(newest_tsc)

    # Whether there may be more at once. What a consumer raises ends the run.
    def _take_records(self) -> bool:
        try:
            return self.recorder.drain()
        except BaseException as error:
            if self.target.state not in (TargetState.STOPPED, TargetState.RUNNING):
                raise
            self._fail(error)
            return False

    # Section: hits

    def _handle(self, slot: int) -> None:
        posted = self._slots.take(slot)
        if posted is None:
            return
        started_ns = time.monotonic_ns()
        self.epoch += 1
        if posted.kind == Kind.EXIT:
            self._exit(posted)
        else:
            self._entry(posted)
        if not self._handling:
            self.stopped_ns += time.monotonic_ns() - started_ns

    def _entry(self, posted: Posted) -> None:
        planted, frame, task, slot_word = posted.ip, posted.sp, posted.task, posted.ret_ip
        ip = self._stubs.ip_of(planted)
        behind = ip + (_FENTRY_BYTES if ip == planted else skip_length(self.planter.own(ip)))
        hooked = self.returns.find(slot_word)
        ret_ip = hooked.ret_addr if hooked else slot_word
        regs = PtRegs(posted.registers, Side.ENTRY, behind, ret_ip)
        hit = self._hit(posted, regs, ip, frame, ret_ip)
        if self.returns.full:
            self.core.lose(hit, MissReason.HOST_AWAY)
        else:
            self._give(self.core.entry, posted, hit)
        if ip == self.task_dead_ip:
            self._task_dead(task)
        if listener := self._watched.get(ip):
            self._give(lambda hit: listener(self.current), posted, hit)
        new_ret = to = sp = None
        if hooked is None and self.core.is_exit(task, frame, ret_ip):
            new_ret = self.returns.hook(ret_ip, frame, task)
        writes = regs.take_effective_writes()
        if writes:
            to, sp = writes.pop("ip", None), writes.pop("sp", None)
            if sp is not None:
                # The call is skipped: its return happens now, through the stub where somebody waits for it.
                to = new_ret or slot_word
        if to is None and ip in self._guard.ips and (result := self._guarded(ip, posted, writes)) is not None:
            writes, to, sp = {**writes, "ax": result}, new_ret or slot_word, frame + 8
        self._finish(posted, writes, to=to, new_ret=new_ret, sp=sp)

    def _task_dead(self, task: int) -> None:
        self.core.task_dead(task)
        self._time.forget_task(task)
        for call in self.returns.of_task(task):
            self.returns.free(call)

    # What a function that touches text has to return at once, as we have done its work.
    def _guarded(self, ip: int, posted: Posted, writes: dict[str, int]) -> int | None:
        try:
            return self._guard.entered(ip, posted, {**posted.registers, **writes})
        except PlantRefused as error:
            self._fail(error)
            return 0

    def _exit(self, posted: Posted) -> None:
        call = self.returns.find(posted.ip - _FENTRY_BYTES)
        if call is None:
            # Its node was given to nobody: the task was taken for dead. The pad knows the way.
            self._slots.go_on(posted.slot)
            return
        regs = PtRegs(posted.registers, Side.EXIT, call.ret_addr, call.ret_addr)
        hit = self._hit(posted, regs, call.ret_addr, call.frame, call.ret_addr)
        if self.core.is_exit(posted.task, call.frame, call.ret_addr):
            self._give(self.core.exit, posted, hit)
        writes = regs.take_effective_writes()
        self.returns.free(call)
        self._finish(posted, writes, to=call.ret_addr)

    def _hit(self, posted: Posted, regs: PtRegs, ip: int, frame: int, ret_ip: int) -> Hit:
        context, kprobe_running = context_of(posted.preempt_count), posted.kprobe != 0
        time_ns = self._time.hit_ns(posted.tsc)
        return Hit(ip, ret_ip, frame, posted.task, posted.cpu, regs, context, kprobe_running, time_ns)

    # Let the core call the handlers of a hit. What they raise is kept for run(), the first one wins.
    def _give(self, feed: Callable[[Hit], None], posted: Posted, hit: Hit) -> None:
        self._handling.append(_Handling(posted, posted, hit.ip, hit))
        try:
            feed(hit)
        except BaseException as error:
            if self.target.state not in (TargetState.STOPPED, TargetState.RUNNING):
                raise
            self._fail(error)
        finally:
            self._handling.pop()

    # Rule 2.
    def _finish(
        self, posted: Posted, writes: dict[str, int], *, to: int | None, new_ret: int | None = None,
        sp: int | None = None,
    ) -> None:  # fmt: skip
        halts = self._stop_requested or self._failure is not None
        if (halts or self.core.sites_changed) and self.target.state is TargetState.RUNNING:
            self._halt()
            self._sync_or_fail()
        if self.returns:
            # Only durations need this.
            self._time.answered(posted.task, posted.tsc)
        if writes:
            self._slots.write_registers(posted.slot, writes)
        self._slots.go_on(posted.slot, to=to, new_ret=new_ret, sp=sp)

    # A handler has registered what cannot be planted: that fails the run, and the guest goes on without probes.
    def _sync_or_fail(self) -> None:
        try:
            self.sync()
        except PlantRefused as error:
            self._fail(error)
            self.sync()

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        self.core.unregister_all()

    @property
    def waiting(self) -> list[int]:
        """Slots of hits that wait for us now, or for the handlers that are running."""
        return self._slots.waiting()

    # Section: calls that were let through without us

    # Count them where they belong.
    def _settle_lost(self) -> None:
        entries = self._words[Zone.LOST_ENTRIES]
        for number in range(self._lost_seen, entries):
            ip = self._words[Zone.LOST_LOG + 8 * number] - _FENTRY_BYTES if number < Zone.LOST_LOG_WORDS else 0
            ip = self._stubs.ip_of(ip)
            regs = PtRegs(dict.fromkeys(REGISTERS, 0), Side.ENTRY, ip, 0)
            self.core.lose(Hit(ip, 0, 0, 0, 0, regs, time_ns=self.clock.last_ns), MissReason.HOST_AWAY)
        self._lost_seen = entries
        for call in self.returns.take_ended():
            self.core.drop_call(call.task, call.frame, call.ret_addr)

    # Whether the guest has rung since the last time.
    def _rang(self) -> bool:
        try:
            return bool(self._doorbell.recv(4096))
        except BlockingIOError:
            return False

    # Section: for handlers

    @property
    def current(self) -> CpuState:
        """See :meth:`.base.Dispatch.current`."""
        if not self._handling:
            raise StateError("this", "not in a handler", "in a handler")
        handling = self._handling[-1]
        if handling.state is None:
            handling.state = _cpu_state(handling)
        return handling.state

    @property
    def in_handler(self) -> bool:
        """See :meth:`.base.Dispatch.in_handler`."""
        return bool(self._handling)

    def now_ns(self) -> int:
        """See :meth:`.base.Dispatch.now_ns`."""
        return self._handling[-1].hit.time_ns if self._handling else self.clock.now_ns()

    def read_memory(self, addr: int, size_bytes: int) -> bytes:
        """See :meth:`.base.Dispatch.read_memory`."""
        if self._handling:
            data = self.ram.read(self._handling[-1].at.cr3, addr, size_bytes)
        else:
            data = self.target.read_memory(addr, size_bytes)
        return self.planter.as_guest_sees(addr, data)

    def write_memory(self, addr: int, data: bytes) -> None:
        """See :meth:`.base.Dispatch.write_memory`."""
        if self._handling:
            self.ram.write(self._handling[-1].at.cr3, addr, data)
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
        if not self._handling:
            raise GuestCallError("a guest function can only be called from a handler")
        if len(args) > len(ARGUMENT_REGISTERS):
            raise GuestCallError(f"a guest call takes at most {len(ARGUMENT_REGISTERS)} arguments, not {len(args)}")
        handling, failure = self._handling[-1], self._failure
        stopped = self.target.state is TargetState.STOPPED
        if self.core.sites_changed:
            if not stopped:
                self._halt()
                stopped = True
            self.sync()
        values = dict(zip(ARGUMENT_REGISTERS, (arg & MASK64 for arg in args), strict=False))
        self._slots.call(handling.posted.slot, addr, values)
        result = self._await_call(handling, addr, deadline)
        if stopped and self.target.state is TargetState.RUNNING:
            self._halt()
        if self._failure is not None and self._failure is not failure:
            # A handler of a hit inside the call raised; the call itself has come back.
            raise self._failure
        return result

    def _await_call(self, handling: _Handling, addr: int, deadline: Deadline) -> int:
        slot = handling.posted.slot
        while not self._slots.is_posted(slot):
            if deadline.expired:
                raise GuestCallError(f"the function at {addr:#x} has not come back after {deadline.seconds:g} s")
            if self.target.state is TargetState.STOPPED:
                self._resume()
            self._serve_nested(slot, deadline)
        done = self._slots.take(slot)
        if done is None or done.kind != Kind.CALLED:
            raise GuestCallError(f"the call of {addr:#x} got lost: its pad did not wait any longer")
        # All registers as they were before the call; where the task runs may have changed.
        registers = {name: value for name, value in handling.posted.registers.items() if name not in ("ip", "sp")}
        self._slots.write_registers(slot, registers)
        handling.at, handling.state = done, None
        return int(done.result)

    # Handle other hits until this slot is posted again. A stop that a nested handler asks for comes after the call.
    def _serve_nested(self, slot: int, deadline: Deadline) -> None:
        while not self._slots.is_posted(slot) and not deadline.expired:
            other = self._slots.next_posted()
            if other is not None and other != slot:
                self._handle(other)
            if self.target.state is not TargetState.RUNNING:
                return
            if other is None:
                try:
                    if self.target.wait(Deadline(0), ()) is not None:
                        self._time.note_stop()
                        return
                except WaitTimeout:
                    pass


# Handlers run at the location, or at the return address.
def _cpu_state(handling: _Handling) -> CpuState:
    posted, at = handling.posted, handling.at
    kernel_mode = {"ip": handling.ip, "cs": 0x10, "ss": 0x18, "cr3": at.cr3}
    return CpuState(
        vcpu=at.cpu,
        registers={**posted.registers, **kernel_mode},
        task=posted.task,
        preempt_count=posted.preempt_count,
        kprobe_running=bool(posted.kprobe),
        stack_word=posted.ret_ip,
        code=b"",
    )
