"""One hit, from the slot that its pad has posted to the answer: what the probe core and all others say to it.

Rule 1: an answer is the last thing that is done about a hit: what the handlers asked for (probes planted or removed, a
stop) is done by then, so that the vCPU runs into a world in which it holds.
Rule 2: a return belongs to the node whose stub it comes through. Frames are those of the probe core.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from fprobe_gdb.dispatch.advance import skip_length
from fprobe_gdb.dispatch.trampoline.handling import Handling, Handlings
from fprobe_gdb.dispatch.trampoline.hit_clock import HitClock
from fprobe_gdb.dispatch.trampoline.outcome import Outcome
from fprobe_gdb.dispatch.trampoline.pads import Kind
from fprobe_gdb.dispatch.trampoline.planter import Planter
from fprobe_gdb.dispatch.trampoline.returns import Returns
from fprobe_gdb.dispatch.trampoline.run_state import RunState
from fprobe_gdb.dispatch.trampoline.site_stubs import SiteStubs
from fprobe_gdb.dispatch.trampoline.sites import Sites
from fprobe_gdb.dispatch.trampoline.slots import Posted, Slots
from fprobe_gdb.dispatch.trampoline.text_guard import TextGuard
from fprobe_gdb.errors import PlantRefused
from fprobe_gdb.events import MissReason
from fprobe_gdb.probe.core import Hit, ProbeCore
from fprobe_gdb.probe.recursion import context_of
from fprobe_gdb.probe.regs import PtRegs, Side

__all__ = ["FENTRY_BYTES", "Hits"]

#: ``call pad``, ``call __fentry__`` and the NOP.
FENTRY_BYTES = 5


class Hits:
    """Handles hits, one at a time."""

    def __init__(
        self,
        core: ProbeCore,
        slots: Slots,
        returns: Returns,
        stubs: SiteStubs,
        planter: Planter,
        sites: Sites,
        guard: TextGuard,
        clock: HitClock,
        run_state: RunState,
        outcome: Outcome,
    ) -> None:
        self._core = core
        self._slots = slots
        self._returns = returns
        self._stubs = stubs
        self._planter = planter
        self._sites = sites
        self._guard = guard
        self._clock = clock
        self._run_state = run_state
        self._outcome = outcome
        #: Hits whose handlers are running.
        self.handlings = Handlings()
        #: Host time that went into hits, in nanoseconds.
        self.host_ns = 0

    def handle(self, slot: int) -> None:
        """Handle the hit in a posted slot, unless its pad has just given up."""
        posted = self._slots.take(slot)
        if posted is None:
            return
        started_ns = time.monotonic_ns()
        self._run_state.epoch += 1
        if posted.kind == Kind.EXIT:
            self._exit(posted)
        else:
            self._entry(posted)
        if not self.handlings:
            self.host_ns += time.monotonic_ns() - started_ns

    def _entry(self, posted: Posted) -> None:
        planted, frame, task, slot_word = posted.ip, posted.sp, posted.task, posted.ret_ip
        ip = self._stubs.ip_of(planted)
        behind = ip + (FENTRY_BYTES if ip == planted else skip_length(self._planter.own(ip)))
        hooked = self._returns.find(slot_word)
        ret_ip = hooked.ret_addr if hooked else slot_word
        regs = PtRegs(posted.registers, Side.ENTRY, behind, ret_ip)
        hit = self._hit(posted, regs, ip, frame, ret_ip)
        if self._returns.full:
            self._core.lose(hit, MissReason.HOST_AWAY)
        else:
            self._give(self._core.entry, posted, hit)
        if ip == self._sites.task_dead_ip:
            self._task_dead(task)
        if listener := self._sites.watched.get(ip):
            self._give(lambda hit: listener(self.handlings.current), posted, hit)
        new_ret = to = sp = None
        if hooked is None and self._core.is_exit(task, frame, ret_ip):
            new_ret = self._returns.hook(ret_ip, frame, task)
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
        self._core.task_dead(task)
        self._clock.forget_task(task)
        for call in self._returns.of_task(task):
            self._returns.free(call)

    # What a function that touches text has to return at once, as we have done its work.
    def _guarded(self, ip: int, posted: Posted, writes: dict[str, int]) -> int | None:
        try:
            return self._guard.entered(ip, posted, {**posted.registers, **writes})
        except PlantRefused as error:
            self._outcome.fail(error)
            return 0

    def _exit(self, posted: Posted) -> None:
        call = self._returns.find(posted.ip - FENTRY_BYTES)
        if call is None:
            # Its node was given to nobody: the task was taken for dead. The pad knows the way.
            self._slots.go_on(posted.slot)
            return
        regs = PtRegs(posted.registers, Side.EXIT, call.ret_addr, call.ret_addr)
        hit = self._hit(posted, regs, call.ret_addr, call.frame, call.ret_addr)
        if self._core.is_exit(posted.task, call.frame, call.ret_addr):
            self._give(self._core.exit, posted, hit)
        writes = regs.take_effective_writes()
        self._returns.free(call)
        self._finish(posted, writes, to=call.ret_addr)

    def _hit(self, posted: Posted, regs: PtRegs, ip: int, frame: int, ret_ip: int) -> Hit:
        context, kprobe_running = context_of(posted.preempt_count), posted.kprobe != 0
        time_ns = self._clock.hit_ns(posted.tsc)
        return Hit(ip, ret_ip, frame, posted.task, posted.cpu, regs, context, kprobe_running, time_ns)

    # Let the core call the handlers of a hit. What they raise is kept for run(), the first one wins.
    def _give(self, feed: Callable[[Hit], None], posted: Posted, hit: Hit) -> None:
        self.handlings.append(Handling(posted, posted, hit.ip, hit))
        try:
            feed(hit)
        except BaseException as error:
            self._outcome.fail_unless_gone(error)
        finally:
            self.handlings.pop()

    # Rule 1.
    def _finish(
        self, posted: Posted, writes: dict[str, int], *, to: int | None, new_ret: int | None = None,
        sp: int | None = None,
    ) -> None:  # fmt: skip
        if (self._outcome.ends or self._core.sites_changed) and self._run_state.running:
            self._run_state.halt()
            self._sync_or_fail()
        if self._returns:
            # Only durations need this.
            self._clock.answered(posted.task, posted.tsc)
        if writes:
            self._slots.write_registers(posted.slot, writes)
        self._slots.go_on(posted.slot, to=to, new_ret=new_ret, sp=sp)

    # A handler has registered what cannot be planted: that fails the run, and the guest goes on without probes.
    def _sync_or_fail(self) -> None:
        try:
            self._sites.sync()
        except PlantRefused as error:
            self._outcome.fail(error)
            self._sites.sync()
