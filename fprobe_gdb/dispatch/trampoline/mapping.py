"""Mapping the zone into the kernel's address space, next to its text, by entries of its page-middle directory.

The kernel's image is mapped by ``level2_kernel_pgt``, a table of 512 entries of 2 MiB that every page table root of the
guest shares, since it is linked in below ``swapper_pg_dir[511]`` (arch/x86/kernel/head_64.S, 5.10 to 6.18). Entries
around the image are empty and stay so: modules begin in the next table, or, without CONFIG_RANDOMIZE_BASE, at the
middle of this one (``KERNEL_IMAGE_SIZE``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fprobe_gdb.dispatch.trampoline.zone import HUGE_BYTES, Zone
from fprobe_gdb.errors import ZoneNotMapped
from fprobe_gdb.target.page_table import FRAME, HUGE, PRESENT

__all__ = ["DIRECTORY_ENTRIES", "IMAGE_BASE", "place_zone", "read_directory", "read_table", "zone_entries"]

#: ``__START_KERNEL_map``: the directory's first entry maps this address.
IMAGE_BASE = 0xFFFFFFFF80000000
#: Of the directory, 2 MiB each.
DIRECTORY_ENTRIES = 512
# The smaller of the two values of KERNEL_IMAGE_SIZE (arch/x86/include/asm/page_64_types.h).
_IMAGE_ENTRIES = 256
# Between the image and the zone, so that an overrun of either hits an unmapped page.
_GAP = 1

# Intel SDM volume 3, 4.5: present, writable, accessed, dirty, 2 MiB page, global; not executable.
_CODE = 0x1 | 0x20 | 0x40 | 0x80 | 0x100
_DATA = _CODE | 0x2 | 1 << 63

ReadPhysical = Callable[[int, int], bytes]


def read_directory(cr3: int, read_physical: ReadPhysical) -> tuple[int, list[int]]:
    """Find the image's page-middle directory from a page table root: its physical address and its entries.

    :raise ZoneNotMapped: when there is none.
    """
    return read_table(cr3, IMAGE_BASE, 2, read_physical)


def read_table(cr3: int, addr: int, level: int, read_physical: ReadPhysical) -> tuple[int, list[int]]:
    """Find the page table for an address so many steps below the root: its physical address and its entries.

    :raise ZoneNotMapped: when there is none.
    """
    table = cr3 & FRAME
    for shift in (39, 30)[:level]:
        place = table + (addr >> shift & 511) * 8
        entry = int.from_bytes(read_physical(place, 8), "little")
        if not entry & PRESENT or entry & HUGE:
            raise ZoneNotMapped(
                f"cr3 {cr3:#x} leads to no page-middle directory for {addr:#x}: the kernel has not set its page "
                "tables up yet, or pages in five levels (start QEMU without la57)"
            )
        table = entry & FRAME
    data = read_physical(table, 8 * DIRECTORY_ENTRIES)
    return table, [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]


def place_zone(
    entries: Sequence[int],
    image: tuple[int, int],
    physical: int,
    size_bytes: int,
    rings: int,
    *,
    journal_bytes: int = 0,
    pieces: tuple[int, ...] = (),
) -> Zone:
    """Choose where the zone is mapped: in free entries behind the image, or before it where KASLR has left no room.

    :param entries: of the page-middle directory.
    :param image: the kernel's ``_text`` and ``_end``.
    :param physical: where the zone is, 2 MiB aligned.
    :param rings, journal_bytes, pieces: see :class:`.Zone`.
    :raise ZoneNotMapped: when there is not enough room.
    """
    count = size_bytes // HUGE_BYTES
    before = (image[0] - IMAGE_BASE) // HUGE_BYTES - _GAP
    behind = (image[1] - IMAGE_BASE + HUGE_BYTES - 1) // HUGE_BYTES + _GAP
    limit = _IMAGE_ENTRIES if behind + count <= _IMAGE_ENTRIES else DIRECTORY_ENTRIES
    for start in (*range(behind, limit - count + 1), *range(before - count, -1, -1)):
        # Until cleanup_highmap() has run, unused entries are not zero, but not present either.
        if not any(entry & PRESENT for entry in entries[start : start + count]):
            code = IMAGE_BASE + start * HUGE_BYTES
            return Zone(physical, size_bytes, code, code + HUGE_BYTES, rings, journal_bytes, pieces)
    raise ZoneNotMapped(
        f"there is no room for {size_bytes >> 20} MiB around the kernel's image, which ends at {image[1]:#x}; "
        "a kernel that is booted with nokaslr has more behind it"
    )


def zone_entries(zone: Zone) -> tuple[int, bytes]:
    """What maps the zone: the index of the first entry, and the entries."""
    index = (zone.code - IMAGE_BASE) // HUGE_BYTES
    values = [zone.physical | _CODE]
    values += [zone.physical_of(zone.data + at) | _DATA for at in range(0, zone.size_bytes - HUGE_BYTES, HUGE_BYTES)]
    return index, b"".join(value.to_bytes(8, "little") for value in values)
