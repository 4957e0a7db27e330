"""Page tables of x86-64 with four levels (Intel SDM volume 3, 4.5), and where a PC has its memory."""

from __future__ import annotations

__all__ = ["FOUR_GIB", "FRAME", "HUGE", "PAGE_BYTES", "PRESENT", "SHIFTS"]

#: Of an entry: it leads somewhere; what it leads to is a page of 2 MiB or 1 GiB, not a table; and where that is.
PRESENT = 1
HUGE = 1 << 7
FRAME = 0x000F_FFFF_FFFF_F000
PAGE_BYTES = 4096
#: Which bits of an address are the index of its entry, from the root down.
SHIFTS = (39, 30, 21, 12)
#: Physical address of the RAM that has no room below the hole for devices (hw/i386/pc.c of QEMU).
FOUR_GIB = 1 << 32
