"""Reads of pads through the window: what page tables of any kind lead to, and no fault, whatever they are."""

from __future__ import annotations

import ctypes
import mmap
import random

import pytest
import unicorn
from unicorn import x86_const as x86

from fprobe_gdb.dispatch.trampoline.peek_code import SIZES, peek_code
from fprobe_gdb.dispatch.trampoline.window import TOP_BASE, Window, place_window, window_entries, window_tables
from fprobe_gdb.dispatch.trampoline.zone import HUGE_BYTES, WINDOW_TABLES, Zone
from fprobe_gdb.errors import MemoryFault, ZoneError
from fprobe_gdb.target.guest_ram import GuestRam

CODE = 0xFFFFFFFF83C00000
STACK = 0xFFFFC90000000000
LOW_BYTES, HIGH_BYTES = 1 << 16, 1 << 16
GIB, HIGH = 1 << 30, 1 << 32
BACK = CODE + 0x3000
KEPT = [x86.UC_X86_REG_RDI, x86.UC_X86_REG_RSI, x86.UC_X86_REG_RCX, x86.UC_X86_REG_RSP]


class Guest:
    """A CPU with 64 KiB of RAM at 0 and as much at 4 GiB, whose page tables are made of chance."""

    def __init__(self, chance: random.Random, direct_map: int = 0) -> None:
        memory = mmap.mmap(-1, LOW_BYTES + HIGH_BYTES)
        memory[:] = chance.randbytes(len(memory))
        self.ram = GuestRam(memory)
        self.ram._low_bytes = LOW_BYTES
        window = Window(TOP_BASE + 3 * GIB, LOW_BYTES, HIGH_BYTES, direct_map)
        self.uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self.uc.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
        base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self.uc.mem_map_ptr(window.base, LOW_BYTES, unicorn.UC_PROT_READ, base)
        self.uc.mem_map_ptr(window.base + HIGH, HIGH_BYTES, unicorn.UC_PROT_READ, base + LOW_BYTES)
        self.uc.mem_map(CODE, 0x4000)
        self.uc.mem_map(STACK, 4096)
        code, self.peeks = peek_code(CODE, window)
        self.uc.mem_write(CODE, code)
        # Few tables, so that many ways lead through each one; entries of all kinds.
        self.tables = chance.sample([*range(16), *range(HIGH >> 12, (HIGH >> 12) + 16)], 8)
        self.indexes = chance.sample(range(512), 4)
        for table in self.tables:
            for index in self.indexes:
                self.ram.write_physical((table << 12) + 8 * index, self.entry(chance).to_bytes(8, "little"))
        self.uc.reg_write(x86.UC_X86_REG_CR3, self.tables[0] << 12 | 0x1B)

    def entry(self, chance: random.Random) -> int:
        """Of a page table: mostly present, and leading to RAM."""
        frame = chance.choice([*self.tables, *self.tables, chance.randrange(32), chance.getrandbits(40)])
        flags = chance.choice([0x63, 0x63, 0x63, 0x63, 0xE3, 0x8000000000000063, 0x62])
        return frame << 12 | flags

    def address(self, chance: random.Random) -> int:
        """Of memory that may be mapped."""
        addr = chance.choice([0, 1 << 12, chance.randrange(1 << 12), (1 << 12) - chance.randrange(1, 9)]) & 0xFFF
        for shift in (12, 21, 30, 39):
            addr |= chance.choice(self.indexes) << shift
        addr |= 0xFFFF << 48 if addr >> 47 else 0
        return chance.choice([addr] * 9 + [addr ^ 1 << 60])

    def call(self, addr: int, ax: int, dx: int = 0, r10: int = 0) -> int | None:
        """Of a subroutine: ax, or None with the carry flag."""
        uc = self.uc
        for number, value in zip(KEPT, (11, 22, 33, STACK + 2048), strict=True):
            uc.reg_write(number, value)
        for number, value in ((x86.UC_X86_REG_RAX, ax), (x86.UC_X86_REG_RDX, dx), (x86.UC_X86_REG_R10, r10)):
            uc.reg_write(number, value)
        uc.mem_write(STACK + 2048, BACK.to_bytes(8, "little"))
        uc.emu_start(addr, BACK)
        assert [uc.reg_read(number) for number in KEPT] == [11, 22, 33, STACK + 2056]
        return None if uc.reg_read(x86.UC_X86_REG_EFLAGS) & 1 else int(uc.reg_read(x86.UC_X86_REG_RAX))

    def read(self, addr: int, size_bytes: int) -> bytes | None:
        """As the host reads it."""
        try:
            return self.ram.read(self.tables[0] << 12, addr, size_bytes)
        except MemoryFault:
            return None


def test_pads_read_what_the_host_reads() -> None:
    chance = random.Random(1)
    read = 0
    for _ in range(60):
        guest = Guest(chance)
        for _ in range(40):
            addr, size = guest.address(chance), chance.choice(SIZES)
            expected = guest.read(addr, size)
            assert guest.call(guest.peeks.number[size], addr) == (
                None if expected is None else int.from_bytes(expected, "little")
            ), hex(addr)
            read += expected is not None
    assert 400 < read < 2000


def test_bytes_are_compared_up_to_the_first_difference() -> None:
    chance = random.Random(2)
    found = {None: 0, 0: 0, 1: 0}
    for _ in range(60):
        guest = Guest(chance)
        for _ in range(20):
            addr = guest.address(chance)
            there = b""
            while len(there) < 12 and (one := guest.read(addr + len(there), 1)) is not None:
                there += one
            wanted = bytearray(there.ljust(12, b"?"))
            if chance.random() < 0.3:
                wanted[chance.randrange(12)] ^= 1
            guest.uc.mem_write(CODE + 0x2000, bytes(wanted))
            expected = 0 if wanted[: len(there)] != there else 1 if len(there) == 12 else None
            assert guest.call(guest.peeks.same, addr, CODE + 0x2000, 12) == expected
            found[expected] += 1
    assert min(found.values()) > 50


@pytest.mark.parametrize(
    ("low_bytes", "high_bytes", "gibs"), [(512 << 20, 0, [0]), (3 * GIB, 2 * GIB, [0, 1, 2, 4, 5])]
)
def test_the_window_shows_all_memory(low_bytes: int, high_bytes: int, gibs: list[int]) -> None:
    zone = Zone(64 << 20, 8 << 20, CODE, CODE + HUGE_BYTES, 1)
    window = place_window([1] * 7 + [0] * 505, low_bytes, high_bytes, 0)
    assert window.base == TOP_BASE + 7 * GIB
    tables, entries = window_tables(window, zone)
    place = zone.physical_of(zone.window_tables)
    assert [(index, entry & ~0xFFF) for index, entry in entries] == [
        (7 + gib, place + 4096 * number) for number, gib in enumerate(gibs)
    ]
    pages = [int.from_bytes(tables[at : at + 8], "little") for at in range(0, len(tables), 8)]
    mapped = {page & 0xFFFFFFFE00000 for page in pages if page & 1}
    assert mapped == {*range(0, low_bytes, HUGE_BYTES), *range(HIGH, HIGH + high_bytes, HUGE_BYTES)}
    # Nobody can write there, or execute what is there.
    assert all(page & 2 == 0 and page >> 63 for page in pages if page & 1)


def test_a_window_is_known_by_where_its_tables_are() -> None:
    """So that whoever finds a zone can take its window out; what others have there stays."""
    zone = Zone(64 << 20, 8 << 20, CODE, CODE + HUGE_BYTES, 1)
    table = [0x1063] * 7 + [0] * 504 + [zone.physical_of(zone.window_tables) - 4096 | 1]
    assert window_entries(table, zone) == []
    for index, entry in window_tables(place_window(table, 3 * GIB, 2 * GIB, 0), zone)[1]:
        table[index] = entry
    assert window_entries(table, zone) == [7, 8, 9, 11, 12]
    table[7] &= ~1
    assert window_entries(table, zone) == [8, 9, 11, 12]


def test_no_window() -> None:
    with pytest.raises(ZoneError, match="no room"):
        place_window([0, 0, 1] * 171, 3 * GIB, 0, 0)
    with pytest.raises(ZoneError, match="has no window"):
        place_window([0] * 512, 3 * GIB, WINDOW_TABLES * GIB, 0)
