"""Guest memory that is shared: words are found wherever they are aligned, and nowhere else."""

from __future__ import annotations

import mmap

from fprobe_gdb.target.guest_ram import GuestRam

ADDR = 0xFFFFFFFF81234567
SIZE_BYTES = 3 << 20


def test_words_are_found() -> None:
    ram = mmap.mmap(-1, SIZE_BYTES)
    near, far, zero, shifted = ADDR + 1, 0xFFFFFFFFA0001000, 0, ADDR + 2
    for place, word in ((0, ADDR), (SIZE_BYTES - 8, far), (2 << 20, near), (100, shifted)):
        ram[place : place + 8] = word.to_bytes(8, "little")
    guest = GuestRam(ram)
    assert guest.find_words({ADDR, near, far, shifted, ADDR + 3}) == {ADDR, near, far}
    assert guest.find_words({zero, shifted}) == {zero}
    assert guest.find_words(set()) == set()
    guest.close()
