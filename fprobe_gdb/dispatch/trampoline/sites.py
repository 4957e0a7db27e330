"""Which locations are planted, and for whom: fprobes, recordings, what we watch or guard, and the guest's unwinder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from fprobe_gdb.dispatch.cpu_state import CpuState
from fprobe_gdb.dispatch.trampoline.planter import Planter
from fprobe_gdb.dispatch.trampoline.record_format import FENTRY_BYTES
from fprobe_gdb.dispatch.trampoline.recorder import Recorder
from fprobe_gdb.dispatch.trampoline.returns import Returns
from fprobe_gdb.dispatch.trampoline.site_stubs import SiteStubs
from fprobe_gdb.dispatch.trampoline.text_guard import TextGuard
from fprobe_gdb.errors import PlantRefused
from fprobe_gdb.probe.core import ProbeCore
from fprobe_gdb.probe.regs import Side, behind_frame

__all__ = ["SitePlan", "Sites"]


@dataclass(slots=True)
class SitePlan:
    """What there is to know of each hit of a location, as long as nothing else is planted."""

    #: The location.
    ip: int
    #: What regs have behind the registers of a hit, see :func:`~fprobe_gdb.probe.regs.behind_frame`; nothing where the
    #: location is not an fentry instruction but another one, which the guest may change.
    behind_frame: bytes
    #: Its tasks run for the last time.
    ends_task: bool
    #: Who else listens.
    listener: Callable[[CpuState], None] | None
    #: It is a function that touches text.
    is_guarded: bool
    #: One of the first two, which few locations are.
    is_ours: bool


# Made when they are asked for first.
class _Plans(dict[int, SitePlan]):
    def __init__(self, make: Callable[[int], SitePlan]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, planted: int) -> SitePlan:
        plan = self[planted] = self._make(planted)
        return plan


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
        stubs: SiteStubs,
        helping: Callable[[], Collection[int]],
    ) -> None:
        self._core = core
        self._planter = planter
        self._guard = guard
        self._recorder = recorder
        self._returns = returns
        self._helping = helping
        self._stubs = stubs
        #: What to do at a hit, by what its pad takes for the location: that, or a stub of it.
        self.plans: Mapping[int, SitePlan] = _Plans(self._plan)
        #: See :attr:`.base.Dispatch.task_dead_ip`.
        self.task_dead_ip: int | None = None
        #: See :attr:`.base.Dispatch.watches`.
        self.watches: Callable[[], Mapping[int, Callable[[CpuState], None]]] = dict
        # What it gave last.
        self._watched: Mapping[int, Callable[[CpuState], None]] = {}
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
        self._watched = self.watches()
        self.plans = _Plans(self._plan)
        wanted = self._wanted | set(self._watched)
        if self.task_dead_ip is not None and (self._wanted or len(self._returns)):
            wanted.add(self.task_dead_ip)
        self._recorder.settle()
        recorded = self._recorder.ips
        helped: set[int] = set()
        if wanted or recorded:
            wanted |= self._guard.ips
        if self._wanted or len(self._returns) or self._recorder.replaces_returns:
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

    def _plan(self, planted: int) -> SitePlan:
        ip = self._stubs.ip_of(planted)
        behind = behind_frame(Side.ENTRY, ip + FENTRY_BYTES) if ip == planted else b""
        ends_task, listener = ip == self.task_dead_ip, self._watched.get(ip)
        is_ours = ends_task or listener is not None
        return SitePlan(ip, behind, ends_task, listener, ip in self._guard.ips, is_ours)

    # Plant for those who want to be asked and those who record. Where it is both, or not any more, the pad changes.
    def _replant(self, asked: set[int], recorded: set[int], helped: set[int]) -> None:
        wanted = asked | recorded | helped
        before = self.asked, self.helped
        stale = ((asked ^ self.asked) & recorded) | (helped ^ self.helped) | self._recorder.changed
        self.asked, self.helped = asked, helped
        gone = (set(self._planter.ips) - wanted) | stale.intersection(self._planter.ips)
        if gone or wanted != self._planter.ips:
            try:
                # What the guest believes to be queued must not get lost with the locations.
                self._guard.flush()
                self._planter.change(gone, wanted)
            except PlantRefused:
                self.asked, self.helped = before
                raise
            self._guard.planted(self._wanted)
        self._recorder.changed.clear()

    # Without what the guest has freed.
    def _there(self, ips: set[int]) -> set[int]:
        for start, stop in self._gone:
            ips = {ip for ip in ips if not start <= ip < stop}
        return ips
