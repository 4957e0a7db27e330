"""Calls that pads have let through without us: counted in the guest by location (:mod:`.pads`), or left to us to count,
and settled with the probe core by and by."""

from __future__ import annotations

from collections import Counter

from fprobe_gdb.dispatch.clock import GuestClock
from fprobe_gdb.dispatch.trampoline.returns import Returns
from fprobe_gdb.dispatch.trampoline.shared_words import SharedWords
from fprobe_gdb.dispatch.trampoline.site_stubs import SiteStubs
from fprobe_gdb.dispatch.trampoline.slots import Slots
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


class LostCalls:
    """The lost calls of one guest."""

    def __init__(
        self,
        core: ProbeCore,
        slots: Slots,
        words: SharedWords,
        ram: GuestRam,
        zone: Zone,
        returns: Returns,
        stubs: SiteStubs,
        clock: GuestClock,
    ) -> None:
        self._core = core
        self._slots = slots
        self._words = words
        self._ram = ram
        self._cells = zone.physical_of(zone.word(Zone.LOST))
        self._returns = returns
        self._stubs = stubs
        self._clock = clock
        # What pads have counted so far, by lower halves of locations.
        self._seen_total = 0
        self._seen: Counter[int] = Counter()

    def settle(self) -> None:
        """Count what has been lost since the last time where it belongs. The guest is stopped."""
        total = self._words[Zone.LOST_ENTRIES]
        if total != self._seen_total:
            self._seen_total = total
            for planted, count in self._counted():
                if count != self._seen[planted]:
                    self._lose(planted | _UPPER, count - self._seen[planted])
                    self._seen[planted] = count
        for planted in self._slots.take_left():
            self._lose(planted, 1)
        for call in self._returns.take_ended():
            self._core.drop_call(call.task, call.frame, call.ret_addr)

    # So many calls of what pads take for a location.
    def _lose(self, planted: int, calls: int) -> None:
        ip = self._stubs.ip_of(planted)
        regs = PtRegs.of(dict.fromkeys(REGISTERS, 0), Side.ENTRY, ip)
        self._core.lose(KnownHit(ip, 0, 0, 0, 0, regs, time_ns=self._clock.last_ns, calls=calls), MissReason.HOST_AWAY)

    # What is in the cells: lower half of the location, and how many calls of it.
    def _counted(self) -> list[tuple[int, int]]:
        data = self._ram.read_physical(self._cells, Zone.LOST_CELLS * Zone.LOST_CELL_BYTES)
        words = memoryview(data).cast("I").tolist()
        return [(planted, count) for planted, count in zip(words[::2], words[1::2], strict=True) if planted]
