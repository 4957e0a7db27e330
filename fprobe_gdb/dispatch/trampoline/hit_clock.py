"""Guest time in a running guest: of hits, by the counter value in their slots; and how long tasks waited for handlers.

While the guest runs, its virtual clock goes with the host's (QEMU without icount), so where it stands is known from
when it was resumed. The counter is finer, and it is read at the hit itself.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

from fprobe_gdb.dispatch.clock import GuestClock
from fprobe_gdb.dispatch.trampoline.tsc_clock import TscClock

__all__ = ["HitClock"]


class HitClock:
    """The clocks of one guest.

    :param stopped: guest time of the stopped guest.
    :param read_khz: how fast the time stamp counter runs; 0 as long as the guest does not know. It may run.
    """

    def __init__(self, stopped: GuestClock, read_khz: Callable[[], int]) -> None:
        self.stopped = stopped
        self._read_khz = read_khz
        self.tsc = TscClock(read_khz())
        # For records: the same counter, against guest time as it was when the first ones were taken.
        self._record_clock = TscClock(0)
        self._newest_tsc = 0
        # Guest time of the first resume.
        self._began_ns: int | None = None
        # Guest time and host time of the last resume, or only guest time, of the last stop.
        self._resumed: tuple[int, int | None] = (0, None)
        self._waited_ns: dict[int, int] = defaultdict(int)
        #: Somebody wants to know :meth:`waited_ns`.
        self.waits_matter = False
        #: Whether it is known where the counter stands against guest time.
        self.anchored = False

    def resuming(self) -> None:
        """The stopped guest is about to run."""
        self._resumed = now_ns, _ = (max(self.stopped.now_ns(), self.stopped.last_ns), time.monotonic_ns())
        if self._began_ns is None:
            self._began_ns = now_ns
        # Where the counter stands against guest time is only known by waiting for a hit.
        self.anchored = False
        self.tsc.forget()

    def note_stop(self) -> None:
        """The guest has stopped."""
        now_ns = self.now_ns()
        self.stopped.ran(now_ns - self._resumed[0])
        self._resumed = (now_ns, None)

    def now_ns(self) -> int:
        """Guest time now, as far as the host knows."""
        guest_ns, host_ns = self._resumed
        return guest_ns if host_ns is None else guest_ns + time.monotonic_ns() - host_ns

    def anchor(self, tsc: int) -> None:
        """The first hit of a run was posted just now, at this counter value."""
        self.anchored = True
        if self.tsc.khz and not self.tsc.anchored:
            self.tsc.anchor(tsc, max(self.now_ns(), self.stopped.last_ns))

    def hit_ns(self, tsc: int) -> int:
        """Guest time of a hit that was posted at a counter value; never goes back."""
        stopped = self.stopped
        if not self.tsc.khz:
            # The guest has not measured its counter yet.
            stopped.last_ns = max(self.now_ns(), stopped.last_ns)
            return stopped.last_ns
        self.anchor(tsc)
        stopped.last_ns = time_ns = self.tsc.time_ns(tsc)
        return time_ns

    def settle(self) -> None:
        """The guest is up and has measured its counter for good."""
        self.tsc.khz = self._read_khz()
        self.tsc.forget()

    def records(self, newest_tsc: int) -> TscClock | None:
        """What makes guest time of counter values of records that were just taken, given the newest of them.

        None early in boot, as long as the guest has not measured its counter.
        """
        clock, khz = self._record_clock, self.tsc_khz
        if not khz:
            return None
        if clock.khz != khz:
            # Records are read late, now sooner and now later: no second look at the host's clock, with which times
            # could go back. What the guest measures anew holds from the newest record on.
            if clock.khz:
                clock.anchor(self._newest_tsc, clock.at_ns(self._newest_tsc))
            else:
                clock.anchor(newest_tsc, self.now_ns())
            clock.khz = khz
        self._newest_tsc = newest_tsc
        self.stopped.last_ns = max(self.stopped.last_ns, clock.at_ns(newest_tsc))
        return clock

    @property
    def tsc_khz(self) -> int:
        """How fast the counter runs; 0 early in boot. The guest may run."""
        if not self.tsc.khz:
            self.tsc.khz = self._read_khz()
        return self.tsc.khz

    def estimate(self, oldest_tsc: int, newest_tsc: int) -> TscClock:
        """The same for a guest that is gone before it has measured its counter, given the first record there was."""
        now_ns = self.now_ns()
        passed_ns = now_ns - (self._began_ns or 0)
        clock = TscClock(max(1, (newest_tsc - oldest_tsc) * 1_000_000 // max(1, passed_ns)))
        clock.anchor(newest_tsc, now_ns)
        return clock

    def answered(self, task: int, tsc: int) -> None:
        """A task that was posted at a counter value has waited until now."""
        if self.tsc.khz:
            self._waited_ns[task] += max(0, self.now_ns() - self.tsc.time_ns(tsc))

    def waited_ns(self, task: int) -> int:
        """How long a task has waited for handlers, from the first time on that this was asked."""
        self.waits_matter = True
        return self._waited_ns[task]

    def forget_task(self, task: int) -> None:
        """A task is dead."""
        self._waited_ns.pop(task, None)
