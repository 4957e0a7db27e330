"""Which locations are planted, and for whom: fprobes, recordings, what we watch or guard, and the guest's unwinder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Set

from fprobe_gdb.dispatch.trampoline.planter import Planter
from fprobe_gdb.dispatch.trampoline.recorder import Recorder
from fprobe_gdb.dispatch.trampoline.text_guard import TextGuard

__all__ = ["Sites"]


class Sites:
    """Keeps the planted locations what they have to be. The guest is stopped in all of it.

    :param helping: locations where the guest's unwinder is helped, unless somebody else wants them.
    """

    def __init__(
        self, planter: Planter, guard: TextGuard, recorder: Recorder, helping: Callable[[], Collection[int]]
    ) -> None:
        self._planter = planter
        self._guard = guard
        self._recorder = recorder
        self._helping = helping
        #: Locations that fprobes want.
        self.wanted: set[int] = set()
        #: Locations whose pad asks us, for whatever reason.
        self.asked: set[int] = set()
        #: Locations with a pad for the guest's unwinder.
        self.helped: set[int] = set()
        # Where the guest has freed what was there.
        self._gone: list[tuple[int, int]] = []

    def change(self, added: Set[int], removed: Set[int]) -> bool:
        """Fprobes want other locations. Whether they do."""
        self.wanted = (self.wanted | added) - removed
        return bool(added or removed)

    def sync(self, own: Set[int], *, changed: bool) -> None:
        """Plant what is wanted now, and remove what is not.

        :param own: what we want for ourselves.
        :param changed: what fprobes want has changed.
        :raise PlantRefused: when a location cannot be planted.
        """
        wanted = self.wanted | own
        self._recorder.settle()
        recorded = self._recorder.ips
        helped: set[int] = set()
        if wanted or recorded:
            wanted |= self._guard.ips
        if wanted or recorded or self._recorder.returning:
            helped = set(self._helping()) - wanted - recorded
        self._replant(self._there(wanted), self._there(recorded), helped)
        if changed:
            self._guard.planted(self.wanted)

    def forget(self, start: int, stop: int) -> None:
        """The guest is about to free this memory: nothing is planted in it any more, ever."""
        self._gone.append((start, stop))
        self._planter.drop(start, stop)
        self._guard.planted(self.wanted)

    def clear(self) -> None:
        """Remove everything."""
        self._guard.flush()
        self._planter.unplant_all()

    # Plant for those who want to be asked and those who record. Where it is both, or not any more, the pad changes.
    def _replant(self, asked: set[int], recorded: set[int], helped: set[int]) -> None:
        wanted = asked | recorded | helped
        stale = ((asked ^ self.asked) & recorded) | (helped ^ self.helped) | self._recorder.take_changes()
        self.asked, self.helped = asked, helped
        gone = (set(self._planter.ips) - wanted) | stale.intersection(self._planter.ips)
        if gone or wanted != self._planter.ips:
            # What the guest believes to be queued must not get lost with the locations.
            self._guard.flush()
            self._planter.unplant(gone)
            self._planter.plant(wanted)
            self._guard.planted(self.wanted)

    # Without what the guest has freed.
    def _there(self, ips: set[int]) -> set[int]:
        for start, stop in self._gone:
            ips = {ip for ip in ips if not start <= ip < stop}
        return ips
