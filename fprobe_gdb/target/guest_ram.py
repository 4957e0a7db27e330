"""The guest's RAM, shared with us: reads and writes of guest memory while the guest runs, by walking its page tables.

Without a word to QEMU, so it costs a microsecond, and it works while a vCPU waits for us in a pad. What it cannot see
is device memory, and writes to code, which TCG would not notice: those go through a :class:`~.base.Target`.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Set

from fprobe_gdb.errors import MemoryFault
from fprobe_gdb.registers import MASK64
from fprobe_gdb.target.page_table import FOUR_GIB, FRAME, HUGE, PAGE_BYTES, PRESENT, SHIFTS
from fprobe_gdb.target.process_ram import ProcessRam, RamView

__all__ = ["LOW_RAM_BYTES", "GuestRam"]

#: QEMU's pc machine maps more RAM than this partly above 4 GiB (7.2 hw/i386/pc_piix.c, pc_init1(): 3 GiB are below,
#: where there are 3.5 GiB or more).
LOW_RAM_BYTES = 3 << 30
_ALL_LOW_BYTES = 0xE0000000

# What is canonical: below it, and as much at the other end.
_HALF = 1 << 47
# How much is looked through at once, and which bytes of a word are not looked for.
_SEARCH_BYTES = 1 << 20
_LOWER_BYTES = 3


class GuestRam:
    """Guest memory by virtual or physical address.

    :param ram: all of it, as QEMU's memory backend has it.
    :param fd: the file behind it, which tells what the guest has touched; -1 when it is not at hand.
    :param low_bytes: how much of it is below 4 GiB; None is what QEMU's pc machine makes of its size.
    """

    def __init__(self, ram: mmap.mmap | ProcessRam, fd: int = -1, low_bytes: int | None = None) -> None:
        self._ram = ram
        self._fd = fd
        #: All of it, byte by byte; index by :meth:`offset`.
        self.view: RamView | memoryview = ram.view if isinstance(ram, ProcessRam) else memoryview(ram)
        #: The same by 64-bit words, each of which is read and written in one piece.
        self.words = self.view.cast("Q")
        #: ``find(what, begin, end)``: where these bytes are first between two offsets, -1 when nowhere.
        self.find: Callable[[bytes, int, int], int] = ram.find
        self._size_bytes = len(ram)
        self._low_bytes = low_bytes or (len(ram) if len(ram) < _ALL_LOW_BYTES else LOW_RAM_BYTES)

    @property
    def low_bytes(self) -> int:
        """RAM from physical address 0 on."""
        return self._low_bytes

    @property
    def high_bytes(self) -> int:
        """RAM from 4 GiB on."""
        return self._size_bytes - self._low_bytes

    def close(self) -> None:
        """Let go of the memory. Nothing can be read afterwards."""
        self.words.release()
        self.view.release()

    # Section: physical addresses

    def offset(self, physical: int) -> int:
        """Where a physical address is in the memory file.

        :raise MemoryFault: when it is not RAM.
        """
        offset = physical if physical < self._low_bytes else physical - FOUR_GIB + self._low_bytes
        if offset < 0 or offset >= self._size_bytes or (self._low_bytes <= physical < FOUR_GIB):
            raise MemoryFault(physical, 1)
        return offset

    def part(self, physical: int, size_bytes: int) -> RamView | memoryview:
        """A piece of RAM, to be read and written in place. It has to be released before :meth:`close`.

        :raise MemoryFault: when it is not RAM.
        """
        begin = self.offset(physical)
        if size_bytes and self.offset(physical + size_bytes - 1) != begin + size_bytes - 1:
            raise MemoryFault(physical, size_bytes)
        view = self.view
        return view.part(begin, begin + size_bytes) if isinstance(view, RamView) else view[begin : begin + size_bytes]

    def read_physical(self, addr: int, size_bytes: int) -> bytes:
        """Read RAM. The range must not cross the hole below 4 GiB.

        :raise MemoryFault: when it is not RAM.
        """
        begin = self.offset(addr)
        if size_bytes and self.offset(addr + size_bytes - 1) != begin + size_bytes - 1:
            raise MemoryFault(addr, size_bytes)
        return self._ram[begin : begin + size_bytes]

    def write_physical(self, addr: int, data: bytes) -> None:
        """Write RAM that holds no code.

        :raise MemoryFault: when it is not RAM.
        """
        begin = self.offset(addr)
        if data and self.offset(addr + len(data) - 1) != begin + len(data) - 1:
            raise MemoryFault(addr, len(data))
        self._ram[begin : begin + len(data)] = data

    def find_words(self, wanted: Set[int]) -> set[int]:
        """Which of these values any aligned 64-bit word of the RAM holds. Some 0.1 s for 128 MiB that are in use.

        Few words have the same upper part as these, if they are addresses: so that is looked for, which is quick.
        """
        uppers = {word.to_bytes(8, "little")[_LOWER_BYTES:] for word in wanted}
        found: set[int] = set()
        for begin, end in self._touched():
            for at in range(begin, end, _SEARCH_BYTES):
                data = self._ram[at : min(at + _SEARCH_BYTES, end)]
                for upper in uppers:
                    found |= _words_with(upper, data)
        return found & wanted

    # The parts of the file that are no holes: looking at a hole would fill it.
    def _touched(self) -> Iterator[tuple[int, int]]:
        if self._fd < 0:
            yield 0, self._size_bytes
            return
        at = 0
        while at < self._size_bytes:
            try:
                at = os.lseek(self._fd, at, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(self._fd, at, os.SEEK_HOLE)
            yield at, end
            at = end

    # Section: virtual addresses

    def translate(self, cr3: int, addr: int) -> int:
        """The physical address of a virtual one.

        :raise MemoryFault: when it is not mapped to RAM.
        """
        table = cr3 & FRAME
        for shift in SHIFTS:
            place = table + ((addr >> shift & 511) << 3)
            entry = self.words[(place if place < self._low_bytes else self.offset(place)) >> 3]
            if not entry & PRESENT:
                break
            if shift == 12:
                return entry & FRAME | addr & 0xFFF
            if entry & HUGE and shift <= 30:
                low = (1 << shift) - 1
                return entry & FRAME & ~low | addr & low
            table = entry & FRAME
        raise MemoryFault(addr, 1)

    def read(self, cr3: int, addr: int, size_bytes: int) -> bytes:
        """Read virtual memory as a vCPU with this page table root sees it.

        :raise MemoryFault: when any of it is not mapped to RAM.
        """
        _check(addr, size_bytes)
        at = addr & (PAGE_BYTES - 1)
        if 0 < size_bytes <= PAGE_BYTES - at:
            begin = self._offset_of(cr3, addr, addr, size_bytes)
            return self._ram[begin : begin + size_bytes]
        return b"".join(self._ram[begin : begin + length] for begin, length in self._pieces(cr3, addr, size_bytes))

    def write(self, cr3: int, addr: int, data: bytes) -> None:
        """Write virtual memory that holds no code, through read-only mappings too. Nothing is written on a fault.

        :raise MemoryFault: when any of it is not mapped to RAM.
        """
        _check(addr, len(data))
        done = 0
        for begin, length in self._pieces(cr3, addr, len(data)):
            self._ram[begin : begin + length] = data[done : done + length]
            done += length

    # Offset and length in the file of each page's part.
    def _pieces(self, cr3: int, addr: int, size_bytes: int) -> list[tuple[int, int]]:
        pieces: list[tuple[int, int]] = []
        at, end = addr, addr + size_bytes
        while at < end:
            length = min(end - at, PAGE_BYTES - at % PAGE_BYTES)
            pieces.append((self._offset_of(cr3, at, addr, size_bytes), length))
            at += length
        return pieces

    def _offset_of(self, cr3: int, at: int, addr: int, size_bytes: int) -> int:
        try:
            return self.offset(self.translate(cr3, at))
        except MemoryFault:
            raise MemoryFault(addr, size_bytes) from None


# Aligned words that end in these bytes.
def _words_with(upper: bytes, data: bytes) -> set[int]:
    found = set()
    at = data.find(upper)
    while at >= 0:
        if at & 7 == _LOWER_BYTES:
            found.add(int.from_bytes(data[at - _LOWER_BYTES : at + 8 - _LOWER_BYTES], "little"))
        at = data.find(upper, at + 1)
    return found


def _check(addr: int, size_bytes: int) -> None:
    # Canonical addresses only: the page tables have no entries for others, but would be found some.
    if not (0 <= addr < _HALF or -_HALF <= addr - (MASK64 + 1) < 0) or not 0 <= size_bytes <= MASK64 + 1 - addr:
        raise MemoryFault(addr, size_bytes)
