"""The 64-bit words that the host shares with all pads: flags, bounds, counters. See :class:`.zone.Zone`."""

from __future__ import annotations

from fprobe_gdb.dispatch.trampoline.zone import Zone
from fprobe_gdb.target.guest_ram import GuestRam

__all__ = ["SharedWords"]


class SharedWords:
    """Words by their offset in the zone's data (``words[Zone.HOST_AWAY]``), each read and written in one piece."""

    def __init__(self, ram: GuestRam, zone: Zone) -> None:
        self._words = ram.words
        self._first = ram.offset(zone.physical_of(zone.data)) >> 3

    def __getitem__(self, offset: int) -> int:
        return self._words[self._first + (offset >> 3)]

    def __setitem__(self, offset: int, value: int) -> None:
        self._words[self._first + (offset >> 3)] = value
