"""A window onto the guest's RAM, so that pads can read whatever memory they are told to, and cannot fault. Pure.

All RAM is mapped once more, read-only, at a place that nobody else uses. A pad walks the page tables by itself, through
the window, and reads what they lead to through the window: it never touches an address that it was given. So a pointer
may be anything, its page may go away meanwhile, and user pages need no consent (SMAP). At worst it reads what is stale.

The place is what the kernel leaves free of its last 512 GiB (Documentation/arch/x86/x86_64/mm.rst: "unused hole", 5.10
to 6.18), in the table that every page table root of the guest shares, since the image is mapped there as well. What is
mapped are whole 2 MiB; what is no RAM in there is left out by the pads' own limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fprobe_gdb.dispatch.trampoline.zone import HUGE_BYTES, WINDOW_TABLES, Zone
from fprobe_gdb.errors import ZoneNotMapped
from fprobe_gdb.target.page_table import FOUR_GIB, FRAME, PAGE_BYTES, PRESENT

__all__ = ["TOP_BASE", "Window", "place_window", "window_entries", "window_tables"]

#: The last entry of a page table root maps from here on.
TOP_BASE = 0xFFFFFF8000000000
_GIB = 1 << 30
_ENTRIES = 512
# Intel SDM volume 3, 4.5: present, accessed; and of a 2 MiB page: huge, global; not executable, not writable.
_TABLE = 0x1 | 0x20
_PAGE = _TABLE | 0x80 | 0x100 | 1 << 63


@dataclass(frozen=True, slots=True)
class Window:
    """Where the RAM is seen.

    :param base: virtual address of physical address 0.
    :param low_bytes: RAM from physical address 0 on, and ``high_bytes`` from 4 GiB on.
    :param direct_map: virtual address of physical address 0 in the kernel's own mapping of all memory; 0 for unknown.
    """

    base: int
    low_bytes: int
    high_bytes: int
    direct_map: int = 0


def place_window(entries: Sequence[int], low_bytes: int, high_bytes: int, direct_map: int) -> Window:
    """Choose where the window is.

    :param entries: the table for :data:`TOP_BASE`, each of its entries for 1 GiB.
    :raise ZoneNotMapped: there is no room, or there are no tables for so much RAM.
    """
    count = (FOUR_GIB + high_bytes if high_bytes else low_bytes) + _GIB - 1 >> 30
    window = Window(0, low_bytes, high_bytes)
    if len(_gibs(window)) > WINDOW_TABLES:
        raise ZoneNotMapped(f"a guest with more than {WINDOW_TABLES} GiB of memory has no window for pads")
    for start in range(_ENTRIES - count):
        if not any(entry & PRESENT for entry in entries[start : start + count]):
            return Window(TOP_BASE + start * _GIB, low_bytes, high_bytes, direct_map)
    raise ZoneNotMapped(f"there is no room for a window of {count} GiB in the kernel's last 512 GiB")


def window_tables(window: Window, zone: Zone) -> tuple[bytes, list[tuple[int, int]]]:
    """What maps the window: tables, for :attr:`.Zone.window_tables`, and entries for the table of :data:`TOP_BASE`.

    :returns: entries by their index. They are all that is to be taken back where the guest outlives the window
        (:func:`window_entries`).
    """
    tables, entries = [], []
    for number, gib in enumerate(_gibs(window)):
        pages = range(gib * _GIB, (gib + 1) * _GIB, HUGE_BYTES)
        values = [page | _PAGE if _is_ram(window, page) else 0 for page in pages]
        tables.append(b"".join(value.to_bytes(8, "little") for value in values))
        place = zone.physical_of(zone.window_tables) + number * PAGE_BYTES
        entries.append(((window.base - TOP_BASE) // _GIB + gib, place | _TABLE))
    return b"".join(tables), entries


def window_entries(entries: Sequence[int], zone: Zone) -> list[int]:
    """Which entries of the table for :data:`TOP_BASE` map a window whose tables are in a zone: their indexes."""
    first = zone.physical_of(zone.window_tables)
    tables = range(first, first + WINDOW_TABLES * PAGE_BYTES, PAGE_BYTES)
    return [index for index, entry in enumerate(entries) if entry & PRESENT and entry & FRAME in tables]


def _gibs(window: Window) -> list[int]:
    low = range(window.low_bytes + _GIB - 1 >> 30)
    return [*low, *range(4, 4 + (window.high_bytes + _GIB - 1 >> 30))]


def _is_ram(window: Window, page: int) -> bool:
    return page < window.low_bytes or 0 <= page - FOUR_GIB < window.high_bytes
