"""Mapping the window through which pads follow pointers into a guest that is up."""

from __future__ import annotations

import contextlib

from fprobe_gdb.dispatch.trampoline.dispatch import TrampolineDispatch
from fprobe_gdb.dispatch.trampoline.mapping import read_table
from fprobe_gdb.dispatch.trampoline.window import TOP_BASE, place_window, window_tables
from fprobe_gdb.errors import MemoryFault
from fprobe_gdb.kernel.symbols import SymbolTable
from fprobe_gdb.target.guest_ram import GuestRam
from fprobe_gdb.target.page_table import FRAME

__all__ = ["map_window"]

# __PAGE_OFFSET_BASE_L4 of arch/x86/include/asm/page_64_types.h, where nothing randomizes it.
_DIRECT_MAP = 0xFFFF888000000000


def map_window(dispatch: TrampolineDispatch, symbols: SymbolTable) -> None:
    """Give the pads of a stopped guest a window onto all its memory, if they have none.

    :param symbols: at the addresses of the guest.
    :raise ZoneNotMapped: there is no room for it.
    """
    if dispatch.recorder.reaches_memory:
        return
    ram, cr3 = dispatch.ram, dispatch.kernel_cr3
    table, top = read_table(cr3, TOP_BASE, 1, ram.read_physical)
    window = place_window(top, ram.low_bytes, ram.high_bytes, _direct_map(ram, cr3, symbols))
    tables, entries = window_tables(window, dispatch.zone)
    ram.write_physical(dispatch.zone.physical_of(dispatch.zone.window_tables), tables)
    for index, entry in entries:
        ram.write_physical(table + 8 * index, entry.to_bytes(8, "little"))
    dispatch.recorder.open_window(window)


# Where the kernel has mapped all memory; 0 where that is not to be found, or has not been done.
def _direct_map(ram: GuestRam, cr3: int, symbols: SymbolTable) -> int:
    with contextlib.suppress(MemoryFault):
        found = [int.from_bytes(ram.read(cr3, addr, 8), "little") for addr in symbols.addresses("page_offset_base")]
        base = found[0] if found else _DIRECT_MAP
        root = cr3 & FRAME
        if ram.translate(cr3, base + root) == root:
            return base
    return 0
