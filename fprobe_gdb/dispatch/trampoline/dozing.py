"""Looking for hits now and then, in a guest that has no doorbell to ring: the less often the longer none has come."""

from __future__ import annotations

import time
from collections.abc import Callable

from emu.deadline import Deadline

__all__ = ["Dozing"]

# A nap takes this part of the time in which nothing has come, within limits; so does all dozing in one go, with others.
_NAP_PART, _LEAST_NAP_SEC, _LONGEST_NAP_SEC = 32, 50e-6, 0.01
_DOZE_PART, _LEAST_DOZE_SEC, _LONGEST_DOZE_SEC = 8, 1e-3, 0.05


class Dozing:
    """Waits for the hits of one guest.

    :param has_come: whether a hit waits for us.
    """

    def __init__(self, has_come: Callable[[], bool]) -> None:
        self._has_come = has_come
        #: When something came last, be it a stop, by the host's clock.
        self.busy_ns = 0

    def doze(self, deadline: Deadline) -> bool:
        """Sleep until a hit has come, or it is time to look at everything else. Returns whether one has."""
        idle_sec = (time.monotonic_ns() - self.busy_ns) / 1e9
        nap_sec = min(max(idle_sec / _NAP_PART, _LEAST_NAP_SEC), _LONGEST_NAP_SEC)
        limit = deadline.within(min(max(idle_sec / _DOZE_PART, _LEAST_DOZE_SEC), _LONGEST_DOZE_SEC))
        while not self._has_come():
            if limit.expired:
                return False
            time.sleep(nap_sec)
        return True
