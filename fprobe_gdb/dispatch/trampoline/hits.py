"""One hit, from the slot that its pad has posted to the answer: what the probe core and all others say to it.

Rule 1: an answer is the last thing that is done about a hit: what the handlers asked for (probes planted or removed, a
stop) is done by then, so that the vCPU runs into a world in which it holds.
A pad that has waited for too long is gone by then, and what the handlers wanted of its call has no effect. They have
run, so it is a hit all the same, whose return nobody awaits.
Rule 2: a return belongs to the node whose stub it comes through. Frames are those of the probe core.

A vCPU stands still meanwhile, so what most hits do not need is not made for them: what to do at a location is known
from the last time (:meth:`.sites.Sites.plan`), and clocks, vCPU and memory are looked at when a handler asks.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic_ns
from typing import TypeVar

from fprobe_gdb.dispatch.advance import skip_length
from fprobe_gdb.dispatch.trampoline.hit_clock import HitClock
from fprobe_gdb.dispatch.trampoline.outcome import Outcome
from fprobe_gdb.dispatch.trampoline.pad_hit import Handled, PadHit, pad_hit
from fprobe_gdb.dispatch.trampoline.pads import Kind
from fprobe_gdb.dispatch.trampoline.planter import Planter
from fprobe_gdb.dispatch.trampoline.record_format import FENTRY_BYTES
from fprobe_gdb.dispatch.trampoline.returns import Returns
from fprobe_gdb.dispatch.trampoline.run_state import RunState
from fprobe_gdb.dispatch.trampoline.sites import SitePlan, Sites
from fprobe_gdb.dispatch.trampoline.slots import (
    FRAME_OFFSET,
    HEADER_OFFSET,
    Slots,
    SlotWords,
    unpack_header,
)
from fprobe_gdb.dispatch.trampoline.text_guard import TextGuard
from fprobe_gdb.errors import PlantRefused
from fprobe_gdb.events import MissReason
from fprobe_gdb.probe.core import ProbeCore
from fprobe_gdb.probe.hit import Hit
from fprobe_gdb.probe.regs import PtRegs, Side, behind_frame
from fprobe_gdb.registers import Registers

__all__ = ["Hits"]

_T = TypeVar("_T")
_ENTRY, _EXIT = int(Kind.ENTRY), int(Kind.EXIT)
_EXIT_SIDE = Side.EXIT
_regs_of = PtRegs.from_buffer_copy


class Hits:
    """Handles hits, one at a time."""

    def __init__(
        self,
        core: ProbeCore,
        slots: Slots,
        returns: Returns,
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
        self._planter = planter
        self._sites = sites
        self._guard = guard
        self._clock = clock
        self._run_state = run_state
        self._outcome = outcome
        self._sites_touched = core.sites_touched
        #: Hits whose handlers are running.
        self.handled = Handled()
        #: Host time that went into hits, in nanoseconds.
        self.host_ns = 0
        #: The host's clock when the last hit was answered, in nanoseconds.
        self.answered_ns = 0

    # An entry is handled here and in few calls, each of which costs as much as a register that a handler reads.
    def handle(self, slot: int) -> None:
        """Handle the hit in a posted slot, unless its pad has just given up."""
        said = self._slots.take(slot)
        if said is None:
            return
        started_ns = monotonic_ns()
        clock = self._clock
        if not clock.anchored:
            clock.anchor(SlotWords(slot, said).tsc)
        use, kind, planted, slot_word, task, preempt_count, frame = unpack_header(said, HEADER_OFFSET)
        if kind != _ENTRY:
            self._no_entry(slot, said, use, kind, planted, task, preempt_count)
        else:
            plan, returns = self._sites.plans[planted], self._returns
            hooked, ret_ip = None, slot_word
            if returns.begin <= slot_word < returns.end:
                hooked, ret_ip = returns.look_through(slot_word)
            ip = plan.ip
            behind = plan.behind_frame or behind_frame(Side.ENTRY, ip + skip_length(self._planter.own(ip)))
            regs = _regs_of(said + behind, FRAME_OFFSET)
            hit = pad_hit(slot, said, use, ip, ret_ip, frame, task, preempt_count, regs, clock)
            awaited, handled = None, self.handled
            if returns.left:
                handled.append(hit)
                try:
                    awaited = self._core.entry(hit)
                except BaseException as error:
                    self._outcome.fail_unless_gone(error)
                finally:
                    handled.pop()
            else:
                self._core.lose(hit, MissReason.HOST_AWAY)
            if plan.is_ours:
                awaited = self._listen(plan, hit)
            new_ret = self._hook(hit) if awaited and hooked is None else None
            if plan.is_guarded or regs.written:
                self._go_elsewhere(plan, hit, new_ret)
            elif (
                # Most hits end here.
                self._outcome.ends
                or self._sites_touched
                or clock.waits_matter
                or not self._slots.answer(slot, hit.use, None, new_ret)
            ):
                self._finish(hit, None, new_ret)
        # Whatever was read is of the past now; the vCPU does not wait for that.
        self._run_state.epoch += 1
        self.answered_ns = now_ns = monotonic_ns()
        if not self.handled:
            self.host_ns += now_ns - started_ns

    def _hook(self, hit: PadHit) -> int | None:
        if self._returns.left:
            return self._returns.hook(hit.slot_word, hit.ret_ip, hit.frame, hit.task)
        # Calls inside the handler have taken the last ones.
        self._core.drop_call(hit.task, hit.frame, hit.ret_ip)
        return None

    # Handlers have changed something, or the function touches text and its work is done.
    def _go_elsewhere(self, plan: SitePlan, hit: PadHit, new_ret: int | None) -> None:
        slot_word, writes = hit.slot_word, hit.regs.take_effective_writes(hit.ret_ip)
        to, sp = writes.pop("ip", None), writes.pop("sp", None)
        if sp is not None:
            # The call is skipped: its return happens now, through the stub where somebody waits for it.
            to = new_ret or slot_word
        if to is None and plan.is_guarded and (result := self._guarded(hit, writes)) is not None:
            writes, to, sp = {**writes, "ax": result}, new_ret or slot_word, hit.frame + 8
        self._finish(hit, to, new_ret, writes, sp)

    # What else is to be done at some locations. Whether the return is awaited afterwards.
    def _listen(self, plan: SitePlan, hit: PadHit) -> bool:
        if plan.ends_task:
            self._core.task_dead(hit.task)
            self._clock.forget_task(hit.task)
            for call in self._returns.of_task(hit.task):
                self._returns.free(call)
        if listener := plan.listener:
            self._give(lambda hit: listener(self.handled.current), hit)
        return self._core.is_exit(hit.task, hit.frame, hit.ret_ip)

    # What a function that touches text has to return at once, as we have done its work.
    def _guarded(self, hit: PadHit, writes: Registers) -> int | None:
        try:
            return self._guard.entered(hit.ip, hit, {**hit.registers, **writes})
        except PlantRefused as error:
            self._outcome.fail(error)
            return 0

    def _no_entry(
        self, slot: int, said: bytes, use: int, kind: int, planted: int, task: int, preempt_count: int
    ) -> None:
        call = self._returns.find(planted - FENTRY_BYTES) if kind == _EXIT else None
        if call is None:
            # A guest function has come back for which nobody waits any more; or the node was given to nobody, as the
            # task was taken for dead. The pad knows the way.
            self._slots.answer(slot, use)
            return
        ret_addr = call.ret_addr
        regs = _regs_of(said + behind_frame(_EXIT_SIDE, ret_addr), FRAME_OFFSET)
        hit = pad_hit(slot, said, use, ret_addr, ret_addr, call.frame, task, preempt_count, regs, self._clock)
        self._give(self._core.exit, hit)
        writes = regs.take_effective_writes(ret_addr) if regs.written else None
        self._returns.free(call)
        self._finish(hit, None, None, writes)

    # Let the core call the handlers of a hit. What they raise is kept for run(), the first one wins.
    def _give(self, feed: Callable[[Hit], _T], hit: PadHit) -> _T | None:
        self.handled.append(hit)
        try:
            return feed(hit)
        except BaseException as error:
            self._outcome.fail_unless_gone(error)
            return None
        finally:
            self.handled.pop()

    # Rule 1.
    def _finish(
        self, hit: PadHit, to: int | None, new_ret: int | None, writes: Registers | None = None, sp: int | None = None
    ) -> None:
        if self._outcome.ends or self._sites_touched:
            self._settle()
        if self._clock.waits_matter and self._returns:
            self._clock.answered(hit.task, hit.tsc)
        if not self._slots.answer(hit.slot, hit.use, to, new_ret, sp, writes):
            self._note_late(hit, new_ret)

    # The pad has left.
    def _note_late(self, hit: PadHit, new_ret: int | None) -> None:
        if new_ret is not None and (call := self._returns.find(new_ret)):
            self._returns.free(call)
            self._core.drop_call(hit.task, hit.frame, hit.ret_ip)

    def _settle(self) -> None:
        if (self._outcome.ends or self._core.sites_changed) and self._run_state.running:
            self._run_state.halt()
            self._sync_or_fail()

    # A handler has registered what cannot be planted: that fails the run, and the guest goes on without probes.
    def _sync_or_fail(self) -> None:
        try:
            self._sites.sync()
        except PlantRefused as error:
            self._outcome.fail(error)
            self._sites.sync()
