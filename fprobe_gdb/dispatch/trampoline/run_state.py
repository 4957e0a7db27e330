"""Stopping the guest and letting it run, with what goes along with that: clocks, breakpoints, the pads' view of us."""

from __future__ import annotations

from collections.abc import Sequence

from emu.deadline import Deadline
from fprobe_gdb.dispatch.base import stop_guest
from fprobe_gdb.dispatch.trampoline.hit_clock import HitClock
from fprobe_gdb.dispatch.trampoline.planter import Planter
from fprobe_gdb.dispatch.trampoline.shared_words import SharedWords
from fprobe_gdb.dispatch.trampoline.zone import Zone
from fprobe_gdb.target.base import Target, TargetState

__all__ = ["RunState"]

_STEP_SEC = 10.0


class RunState:
    """Whether the guest runs; to be changed through this alone."""

    def __init__(self, target: Target, clock: HitClock, planter: Planter, words: SharedWords) -> None:
        self._target = target
        self._clock = clock
        self._planter = planter
        self._words = words
        #: See :attr:`.base.Dispatch.epoch`.
        self.epoch = 0
        #: How often the guest has stopped.
        self.halts = 0

    @property
    def running(self) -> bool:
        """Whether the guest runs, as far as we have heard."""
        return self._target.state is TargetState.RUNNING

    @property
    def stopped(self) -> bool:
        """Whether the guest is there, and stands still."""
        return self._target.state is TargetState.STOPPED

    def resume(self) -> None:
        """Let the stopped guest run."""
        self._clock.resuming()
        self._words[Zone.HOST_AWAY] = 0
        self.epoch += 1
        self._pass_breakpoints()
        self._target.resume()

    def halt(self) -> None:
        """Stop the guest, if it runs."""
        if self.running:
            stop_guest(self._target)
            self._note_stop()

    def wait(self, deadline: Deadline, wake: Sequence[int] = ()) -> bool:
        """Wait until the guest stops by itself, or one of the ``wake`` file descriptors is readable.

        :return: whether it has stopped.
        :raise WaitTimeout: at the deadline.
        """
        if self._target.wait(deadline, wake) is None:
            return False
        self._note_stop()
        return True

    def _note_stop(self) -> None:
        self.halts += 1
        self._clock.note_stop()

    # No vCPU is resumed at a breakpoint: it is sent into the stub of its location, or past it.
    def _pass_breakpoints(self) -> None:
        moved = self._planter.has_breakpoints
        while moved:
            moved = False
            for vcpu, ip in enumerate(self._target.instruction_pointers()):
                if (where := self._planter.pass_on(ip)) is None:
                    continue
                to, steps = where
                self._target.write_registers(vcpu, {"ip": to})
                if steps:
                    self._target.step(vcpu, Deadline(_STEP_SEC))
                moved = True
