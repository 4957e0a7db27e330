"""Calls that pads have let through without us: counted in the guest by location, and settled with the probe core by and
by."""

from __future__ import annotations

from collections import Counter

from fprobe_gdb.dispatch.clock import GuestClock
from fprobe_gdb.dispatch.trampoline.returns import Returns
from fprobe_gdb.dispatch.trampoline.shared_words import SharedWords
from fprobe_gdb.dispatch.trampoline.site_stubs import SiteStubs
from fprobe_gdb.dispatch.trampoline.zone import Zone
from fprobe_gdb.events import MissReason
from fprobe_gdb.probe.core import ProbeCore
from fprobe_gdb.probe.hit import KnownHit
from fprobe_gdb.probe.regs import PtRegs, Side
from fprobe_gdb.registers import REGISTERS
from fprobe_gdb.target.guest_ram import GuestRam

__all__ = ["LostCalls"]

# All that is planted is in the upper 2 GiB.
_UPPER = 0xFFFFFFFF << 32
_LOWER = (1 << 32) - 1


class LostCalls:
    """The lost calls of one guest."""

    def __init__(
        self,
        core: ProbeCore,
        words: SharedWords,
        ram: GuestRam,
        zone: Zone,
        returns: Returns,
        stubs: SiteStubs,
        clock: GuestClock,
    ) -> None:
        self._core = core
        self._words = words
        self._ram = ram
        self._cells = zone.physical_of(zone.word(Zone.LOST))
        self._returns = returns
        self._stubs = stubs
        self._clock = clock
        # What pads have counted so far, by lower halves of locations; what of it is no loss, and not taken off yet.
        self._seen_total = 0
        self._seen: Counter[int] = Counter()
        self._late: Counter[int] = Counter()

    def handled_late(self, planted: int) -> None:
        """A call was handled after all that its pad has let through, and counts.

        :param planted: what the pad takes for the location.
        """
        self._late[planted & _LOWER] += 1

    def settle(self) -> None:
        """Count what has been lost since the last time where it belongs. The guest is stopped."""
        total = self._words[Zone.LOST_ENTRIES]
        if total != self._seen_total:
            self._seen_total = total
            for planted, count in self._counted():
                self._lose(planted, count)
        for call in self._returns.take_ended():
            self._core.drop_call(call.task, call.frame, call.ret_addr)

    def _lose(self, planted: int, count: int) -> None:
        lost = count - self._seen[planted]
        self._seen[planted] = count
        late = min(lost, self._late[planted])
        self._late[planted] -= late
        if lost > late:
            ip = self._stubs.ip_of(planted | _UPPER)
            regs = PtRegs.of(dict.fromkeys(REGISTERS, 0), Side.ENTRY, ip)
            hit = KnownHit(ip, 0, 0, 0, 0, regs, time_ns=self._clock.last_ns, calls=lost - late)
            self._core.lose(hit, MissReason.HOST_AWAY)

    # What is in the cells: lower half of the location, and how many calls of it.
    def _counted(self) -> list[tuple[int, int]]:
        data = self._ram.read_physical(self._cells, Zone.LOST_CELLS * Zone.LOST_CELL_BYTES)
        words = memoryview(data).cast("I").tolist()
        return [(planted, count) for planted, count in zip(words[::2], words[1::2], strict=True) if planted]
