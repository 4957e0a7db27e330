"""Serving the running guest: hits as they come, records as they gather, everything else now and then.

The host looks for posted slots as long as hits come close together, and sleeps until the guest rings otherwise, or
dozes where it cannot.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence

from emu.deadline import Deadline
from fprobe_gdb.dispatch.base import RunEnd
from fprobe_gdb.dispatch.trampoline.dozing import Dozing
from fprobe_gdb.dispatch.trampoline.hits import Hits
from fprobe_gdb.dispatch.trampoline.outcome import Outcome
from fprobe_gdb.dispatch.trampoline.recorder import Recorder
from fprobe_gdb.dispatch.trampoline.run_state import RunState
from fprobe_gdb.dispatch.trampoline.shared_words import SharedWords
from fprobe_gdb.dispatch.trampoline.slots import Slots
from fprobe_gdb.dispatch.trampoline.zone import Zone
from fprobe_gdb.errors import WaitTimeout

__all__ = ["Serving"]

# How long to look for the next hit before going to sleep, and how often to look at everything else meanwhile.
_SPIN_NS = 30_000
_LOOK_ROUND_NS = 2_000_000
_NAP_SEC = 0.05
# Looking for a slot takes a fraction of a microsecond, less than asking what time it is and giving our turn away.
_LOOKS = 16
# Giving our turn away takes longer than this where somebody else has used it.
_YIELD_NS = 1_000_000
# What a hit costs if we sleep until the guest rings; where looking on costs more than that, for how long to believe it.
_RING_NS = 40_000
_CONTENDED_NS = 50_000_000
# How often to take records out, as long as some come: a ring holds what a busy guest records in ten times as long.
_RECORDS_SEC = 0.01


class Serving:
    """Serves one guest.

    :param doorbell: what the guest's writes to the doorbell port come out of; None where there is no such port.
    """

    def __init__(
        self,
        slots: Slots,
        hits: Hits,
        recorder: Recorder,
        run_state: RunState,
        outcome: Outcome,
        words: SharedWords,
        doorbell: socket.socket | None,
    ) -> None:
        self._slots = slots
        self._hits = hits
        self._recorder = recorder
        self._run_state = run_state
        self._outcome = outcome
        self._words = words
        self._doorbell = doorbell
        if doorbell is not None:
            doorbell.setblocking(False)
        self._dozing = Dozing(lambda: slots.next_posted() is not None) if doorbell is None else None
        self._contended_until_ns = 0
        # Hits so far; and when somebody else has used our turn last, and how many it were then.
        self._served = 0
        self._turned_ns, self._served_then = time.monotonic_ns(), 0
        # When done() was asked last.
        self._asked_ns = 0

    def serve(self, deadline: Deadline, done: Callable[[], bool], wake: Sequence[int]) -> RunEnd | None:
        """Serve the guest until there is a reason to end. None: it is stopped, or to be stopped, and the caller has to
        see why.
        """
        last_hit_ns = last_look_ns = time.monotonic_ns()
        halts = self._run_state.halts
        idle = False
        if self._dozing is not None:
            self._dozing.busy_ns = last_hit_ns
        while True:
            if self._serve_hit(1 if idle else _LOOKS):
                self._served += 1
                if self._outcome.ends or self._run_state.halts != halts:
                    if self._ends:
                        return None
                    halts = self._run_state.halts
                now_ns = last_hit_ns = self._hits.answered_ns
                idle = False
                if self._dozing is not None:
                    self._dozing.busy_ns = now_ns
            else:
                now_ns = time.monotonic_ns()
                idle = now_ns - last_hit_ns >= _SPIN_NS or now_ns < self._contended_until_ns
                if not idle:
                    self._yield(now_ns)
            if not idle and now_ns - last_look_ns < _LOOK_ROUND_NS:
                continue
            more = self.take_records()
            if idle and self._dozing is not None and not more and self._dozing.doze(deadline.within(self._nap_sec)):
                continue
            stopped, end = self._look_round(deadline, done, wake, idle and not more)
            if stopped or end is not None or self._ends:
                return end
            last_look_ns = time.monotonic_ns()
            if idle and self._dozing is None:
                last_hit_ns, idle = last_look_ns, False

    # Handle the next hit, if it comes soon.
    def _serve_hit(self, looks: int) -> bool:
        look, handle = self._slots.look, self._hits.handle
        for _ in range(looks):
            slot = look()
            if slot is not None:
                handle(slot)
                return True
        return False

    def drain(self) -> None:
        """Handle what has been posted in a stopped guest."""
        while not self._outcome.ends and (slot := self._slots.next_posted()) is not None:
            self._hits.handle(slot)

    def take_records(self) -> bool:
        """Take records out of the ring; what their consumers raise ends the run. Whether there may be more at once."""
        try:
            return self._recorder.drain()
        except BaseException as error:
            self._outcome.fail_unless_gone(error)
            return False

    # QEMU may be waiting for this very CPU. Where others are, too, hits may come more slowly than by the doorbell: then
    # looking on only costs QEMU's turn.
    def _yield(self, now_ns: int) -> None:
        os.sched_yield()
        back_ns = time.monotonic_ns()
        if back_ns - now_ns <= _YIELD_NS:
            return
        if back_ns - self._turned_ns > (self._served - self._served_then) * _RING_NS:
            self._contended_until_ns = back_ns = back_ns + _CONTENDED_NS
        self._turned_ns, self._served_then = back_ns, self._served

    @property
    def _ends(self) -> bool:
        return self._outcome.ends or not self._run_state.running

    # See after everything but hits: whether the guest has stopped, and why else to end.
    def _look_round(
        self, deadline: Deadline, done: Callable[[], bool], wake: Sequence[int], idle: bool
    ) -> tuple[bool, RunEnd | None]:
        if self._words[Zone.HOST_AWAY]:
            self._words[Zone.HOST_AWAY] = 0
        sleeps = idle and self._doorbell is not None
        if sleeps:
            self._words[Zone.HOST_SLEEPS] = 1
        try:
            sleeping = sleeps and self._slots.next_posted() is None
            # Not for long: our word that we sleep may become visible only after the pad has looked for it.
            limit = deadline.within(self._nap_sec) if sleeping else Deadline(0)
            bells = () if self._doorbell is None else (self._doorbell.fileno(),)
            if self._run_state.wait(limit, (*wake, *bells)):
                return True, None
        except WaitTimeout:
            if deadline.expired:
                return False, RunEnd.TIMEOUT
        finally:
            if sleeps:
                self._words[Zone.HOST_SLEEPS] = 0
        if self._rang() and time.monotonic_ns() - self._asked_ns < _LOOK_ROUND_NS:
            # The guest has rung for a hit, most likely; whoever asks has work to do for his answer.
            return False, None
        is_done = done()
        self._asked_ns = time.monotonic_ns()
        return False, RunEnd.DONE if is_done else None

    @property
    def _nap_sec(self) -> float:
        return _RECORDS_SEC if self._recorder.flowing else _NAP_SEC

    # Whether the guest has rung since the last time.
    def _rang(self) -> bool:
        if self._doorbell is None:
            return False
        try:
            return bool(self._doorbell.recv(4096))
        except BlockingIOError:
            return False
