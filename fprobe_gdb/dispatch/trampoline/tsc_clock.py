"""Guest time of hits out of the time stamp counter that their pads have read. Pure arithmetic.

Both clocks stand still while the guest is stopped (QEMU 7.2 softmmu/cpus.c, ``cpu_disable_ticks()``). How fast the
counter runs is the guest's own measurement, ``tsc_khz``; where it stands is taken anew at the first hit of each run.
"""

from __future__ import annotations

__all__ = ["TscClock"]


class TscClock:
    """Nanoseconds of guest time for counter values; never goes back.

    :param khz: counts per millisecond.
    """

    def __init__(self, khz: int) -> None:
        self.khz = khz
        self._anchor: tuple[int, int] | None = None
        #: The last result of :meth:`time_ns`.
        self.last_ns = 0

    @property
    def anchored(self) -> bool:
        """Whether the counter's position is known."""
        return self._anchor is not None

    def anchor(self, tsc: int, time_ns: int) -> None:
        """The counter had this value at this guest time."""
        self._anchor = (tsc, time_ns)

    def forget(self) -> None:
        """The counter may have moved against guest time."""
        self._anchor = None

    def time_ns(self, tsc: int) -> int:
        """Guest time of a counter value."""
        assert self._anchor is not None
        base_tsc, base_ns = self._anchor
        time_ns = base_ns + (tsc - base_tsc) * 1_000_000 // self.khz
        if time_ns > self.last_ns:
            self.last_ns = time_ns
        return self.last_ns

    def at_ns(self, tsc: int) -> int:
        """The same of a value that is told of late: it may lie before the last one, which stays what it is."""
        assert self._anchor is not None
        base_tsc, base_ns = self._anchor
        return base_ns + (tsc - base_tsc) * 1_000_000 // self.khz

    def counts(self, time_ns: int) -> int:
        """How many counts a duration has."""
        return time_ns * self.khz // 1_000_000
