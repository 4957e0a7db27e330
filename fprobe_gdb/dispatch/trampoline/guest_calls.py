"""Guest functions that a handler calls: run by the pad of its hit, on the vCPU of the hit, while the guest runs."""

from __future__ import annotations

from emu.deadline import Deadline
from fprobe_gdb.dispatch.trampoline.hits import Hits
from fprobe_gdb.dispatch.trampoline.outcome import Outcome
from fprobe_gdb.dispatch.trampoline.pad_hit import PadHit
from fprobe_gdb.dispatch.trampoline.pads import Kind
from fprobe_gdb.dispatch.trampoline.run_state import RunState
from fprobe_gdb.dispatch.trampoline.sites import Sites
from fprobe_gdb.dispatch.trampoline.slots import Posted, Slots
from fprobe_gdb.errors import GuestCallError, WaitTimeout
from fprobe_gdb.registers import ARGUMENT_REGISTERS

__all__ = ["GuestCalls"]


class GuestCalls:
    """Calls functions of one guest."""

    def __init__(self, slots: Slots, hits: Hits, sites: Sites, run_state: RunState, outcome: Outcome) -> None:
        self._slots = slots
        self._hits = hits
        self._sites = sites
        self._run_state = run_state
        self._outcome = outcome

    def call(self, addr: int, args: tuple[int, ...], deadline: Deadline) -> int:
        """See :meth:`.base.Dispatch.call`."""
        if not self._hits.handled:
            raise GuestCallError("a guest function can only be called from a handler")
        if len(args) > len(ARGUMENT_REGISTERS):
            raise GuestCallError(f"a guest call takes at most {len(ARGUMENT_REGISTERS)} arguments, not {len(args)}")
        hit, failure = self._hits.handled[-1], self._outcome.failure
        if hit.abandoned:
            raise GuestCallError(f"{addr:#x} cannot be called: this handler's last guest call has not come back")
        stopped = self._run_state.stopped
        if self._sites.changed:
            self._run_state.halt()
            stopped = True
            self._sites.sync()
        if not self._slots.call(hit.slot, hit.use, addr, args):
            raise GuestCallError(f"the call of {addr:#x} got lost: its pad did not wait any longer")
        result = self._await(hit, addr, deadline)
        if stopped:
            self._run_state.halt()
        if self._outcome.failure is not None and self._outcome.failure is not failure:
            # A handler of a hit inside the call raised; the call itself has come back.
            raise self._outcome.failure
        return result

    def _await(self, hit: PadHit, addr: int, deadline: Deadline) -> int:
        slot = hit.slot
        while not self._slots.is_posted(slot):
            if deadline.expired:
                hit.abandon()
                raise GuestCallError(f"the function at {addr:#x} has not come back after {deadline.seconds:g} s")
            if self._run_state.stopped:
                self._run_state.resume()
            self._serve_nested(slot, deadline)
        said = self._slots.take(slot)
        if said is None or (done := Posted(slot, said)).kind != Kind.CALLED:
            raise GuestCallError(f"the call of {addr:#x} got lost: its pad did not wait any longer")
        hit.moved(done)
        return int(done.result)

    # Handle other hits until this slot is posted again. A stop that a nested handler asks for comes after the call.
    def _serve_nested(self, slot: int, deadline: Deadline) -> None:
        while not self._slots.is_posted(slot) and not deadline.expired:
            other = self._slots.next_posted()
            if other is not None and other != slot:
                self._hits.handle(other)
            if not self._run_state.running:
                return
            if other is None:
                try:
                    if self._run_state.wait(Deadline(0)):
                        return
                except WaitTimeout:
                    pass
