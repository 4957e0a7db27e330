"""Deadlines: one object handed down instead of raw seconds, so that nested waits share one limit."""

from __future__ import annotations

import math
import time

__all__ = ["Deadline"]


class Deadline:
    """A point on the host's monotonic clock by which something must have happened.

    >>> Deadline(5).expired
    False
    >>> Deadline.never().remaining_sec
    inf

    :param seconds: how long from now; ``math.inf`` never expires, zero or less has expired already.
    """

    __slots__ = ("_at", "seconds")

    def __init__(self, seconds: float) -> None:
        #: The length the deadline was made with, in seconds (for error messages).
        self.seconds = seconds
        self._at = time.monotonic() + seconds

    @classmethod
    def never(cls) -> Deadline:
        """A deadline that does not expire."""
        return cls(math.inf)

    @property
    def remaining_sec(self) -> float:
        """Seconds left, never negative, ``math.inf`` when there is no limit."""
        return max(0.0, self._at - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether the time is up."""
        return self.remaining_sec <= 0

    def timeout_sec(self, at_most_sec: float = math.inf) -> float | None:
        """What to give to ``select``-like calls: seconds left, at most ``at_most_sec``, None for "no limit"."""
        left = min(self.remaining_sec, at_most_sec)
        return None if math.isinf(left) else left

    def within(self, seconds: float) -> Deadline:
        """A deadline ``seconds`` from now, or this one where it comes first."""
        return Deadline(min(seconds, self.remaining_sec))

    def __repr__(self) -> str:
        return f"Deadline({self.seconds:g} s, {self.remaining_sec:.3g} s left)"
