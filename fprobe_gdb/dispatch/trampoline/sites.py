"""Which locations are planted, and for whom: fprobes, recordings, what we watch or guard, and the guest's unwinder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from fprobe_gdb.dispatch.cpu_state import CpuState
from fprobe_gdb.dispatch.trampoline.planter import Planter
from fprobe_gdb.dispatch.trampoline.recorder import Recorder
from fprobe_gdb.dispatch.trampoline.returns import Returns
from fprobe_gdb.dispatch.trampoline.text_guard import TextGuard
from fprobe_gdb.probe.core import ProbeCore

__all__ = ["Sites"]


class Sites:
    """Keeps the planted locations what they have to be. The guest is stopped in all of it.

    :param helping: locations where the guest's unwinder is helped, unless somebody else wants them.
    """

    def __init__(
        self,
        core: ProbeCore,
        planter: Planter,
        guard: TextGuard,
        recorder: Recorder,
        returns: Returns,
        helping: Callable[[], Collection[int]],
    ) -> None:
        self._core = core
        self._planter = planter
        self._guard = guard
        self._recorder = recorder
        self._returns = returns
        self._helping = helping
        #: See :attr:`.base.Dispatch.task_dead_ip`.
        self.task_dead_ip: int | None = None
        #: See :attr:`.base.Dispatch.watches`.
        self.watches: Callable[[], Mapping[int, Callable[[CpuState], None]]] = dict
        #: What it gave last.
        self.watched: Mapping[int, Callable[[CpuState], None]] = {}
        # Locations that fprobes want.
        self._wanted: set[int] = set()
        #: Locations whose pad asks us, for whatever reason.
        self.asked: set[int] = set()
        #: Locations with a pad for the guest's unwinder.
        self.helped: set[int] = set()
        # Where the guest has freed what was there.
        self._gone: list[tuple[int, int]] = []

    @property
    def changed(self) -> bool:
        """Whether fprobes want other locations than at the last :meth:`sync`."""
        return self._core.sites_changed

    def sync(self) -> None:
        """Plant what is wanted now, and remove what is not.

        :raise PlantRefused: when a location cannot be planted.
        """
        added, removed = self._core.take_site_changes()
        self._wanted = (self._wanted | added) - removed
        self._core.take_return_changes()
        self.watched = self.watches()
        wanted = self._wanted | set(self.watched)
        if self.task_dead_ip is not None and (self._wanted or len(self._returns)):
            wanted.add(self.task_dead_ip)
        self._recorder.settle()
        recorded = self._recorder.ips
        helped: set[int] = set()
        if wanted or recorded:
            wanted |= self._guard.ips
        if wanted or recorded or self._recorder.returning:
            helped = set(self._helping()) - wanted - recorded
        self._replant(self._there(wanted), self._there(recorded), helped)
        if added or removed:
            self._guard.planted(self._wanted)

    def forget(self, start: int, stop: int) -> None:
        """The guest is about to free this memory: nothing is planted in it any more, ever."""
        self._gone.append((start, stop))
        self._planter.drop(start, stop)
        self._guard.planted(self._wanted)

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
            self._guard.planted(self._wanted)

    # Without what the guest has freed.
    def _there(self, ips: set[int]) -> set[int]:
        for start, stop in self._gone:
            ips = {ip for ip in ips if not start <= ip < stop}
        return ips
