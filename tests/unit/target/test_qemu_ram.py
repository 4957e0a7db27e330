"""Finding a guest's RAM: what QEMU's monitor and /proc say of it, and memory that is another process's."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Iterator
from typing import cast

import pytest

from fprobe_gdb.errors import MemoryFault, RamElsewhere, RamForbidden, RamOutOfReach, RamUnseen, RamUntold, TargetLost
from fprobe_gdb.target import qemu_ram
from fprobe_gdb.target.base import Target
from fprobe_gdb.target.fake import FakeTarget
from fprobe_gdb.target.guest_ram import GuestRam
from fprobe_gdb.target.page_table import PRESENT
from fprobe_gdb.target.process_ram import ProcessRam, RamView
from fprobe_gdb.target.qemu_ram import Mapping, RamLayout, find_ram, parse_maps, ram_layout

RAMBLOCKS = """\
              Block Name    PSize              Offset               Used              Total
                  pc.ram    4 KiB  0x0000000000000000 {size:#018x} {size:#018x}
                 pc.bios    4 KiB  0x0000000020000000 0x0000000000000400 0x0000000000000400
"""
FLAT = """\
FlatView #2
 AS "memory", root: system
 Root memory region: system
  0000000000000000-00000000000c2fff (prio 0, ram): {name}
  00000000000c3000-00000000000e7fff (prio 0, rom): {name} @00000000000c3000
  00000000000f0000-000000001fffffff (prio 0, ram): {name} @00000000000f0000
  00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic
"""
HIGH = """\
  0000000000000000-00000000bfffffff (prio 0, ram): pc.ram
  0000000100000000-000000013fffffff (prio 0, ram): pc.ram @00000000c0000000
"""
PAGE = 4096
MONITOR = {
    "info ramblock": RAMBLOCKS.format(size=PAGE),
    "info mtree -f": "  0000000000000000-0000000000000fff (prio 0, ram): pc.ram\n",
}


def test_all_of_it_is_low() -> None:
    layout = ram_layout(RAMBLOCKS.format(size=0x20000000), FLAT.format(name="pc.ram"))
    assert layout == RamLayout(0x20000000, 0x20000000)


def test_some_of_it_is_high() -> None:
    assert ram_layout(RAMBLOCKS.format(size=4 << 30), HIGH) == RamLayout(4 << 30, 3 << 30)


@pytest.mark.parametrize(
    ("blocks", "flat", "error", "why"),
    [
        ("", "", RamUntold, "does not tell"),
        (RAMBLOCKS.format(size=0x20000000), FLAT.format(name="ram0"), RamElsewhere, "several memory backends"),
        (RAMBLOCKS.format(size=4 << 30), HIGH.replace("@00000000c", "@00000000d"), RamElsewhere, "not lie as in a PC"),
    ],
    ids=["nothing", "another block", "elsewhere"],
)
def test_ram_that_is_laid_out_otherwise_is_refused(
    blocks: str, flat: str, error: type[RamOutOfReach], why: str
) -> None:
    with pytest.raises(error, match=why):
        ram_layout(blocks, flat)


def test_maps() -> None:
    text = """\
7f18b0000000-7f18b0864000 rw-p 00000000 00:00 0
7f18b0864000-7f18b4000000 ---p 00000000 00:00 0
7f18b7e00000-7f18d7e00000 rw-s 00001000 00:01 77                         /memfd:ram (deleted)
"""
    assert parse_maps(text) == [
        Mapping(0x7F18B0000000, 0x7F18B0864000, False, 0, 0),
        Mapping(0x7F18B7E00000, 0x7F18D7E00000, True, 0x1000, 77),
    ]


def test_a_qemu_that_cannot_be_seen() -> None:
    with pytest.raises(RamUnseen, match="container"):
        find_ram(0, FakeTarget())


class Remote:
    """Our own memory, as if it were another process's."""

    def __init__(self) -> None:
        self.memory = (ctypes.c_char * (8 * PAGE))()
        fd = os.open("/proc/self/mem", os.O_RDWR)
        self.ram = ProcessRam(fd, ctypes.addressof(self.memory), len(self.memory))

    def words(self, at: int, count: int) -> tuple[int, ...]:
        return struct.unpack_from(f"<{count}Q", self.memory, at)


@pytest.fixture
def remote() -> Iterator[Remote]:
    remote = Remote()
    yield remote
    remote.ram.close()


def test_bytes_and_words_of_another_process(remote: Remote) -> None:
    ram = GuestRam(remote.ram)
    ram.words[3] = 0x1122334455667788
    ram.view[0] = 7
    ram.view[8:10] = b"ab"
    assert remote.words(0, 4) == (7, int.from_bytes(b"ab", "little"), 0, 0x1122334455667788)
    assert (ram.words[3], ram.view[24], ram.words[2:4].tolist()) == (0x1122334455667788, 0x88, [0, 0x1122334455667788])
    assert ram.read_physical(24, 2) == b"\x88\x77"
    ram.write_physical(PAGE - 1, b"xy")
    assert remote.memory[PAGE - 1 : PAGE + 1] == b"xy"
    assert (ram.find(b"xy", 0, 2 * PAGE), ram.find(b"xy", PAGE, 2 * PAGE)) == (PAGE - 1, -1)
    assert ram.find_words({0x1122334455667788, 5}) == {0x1122334455667788}


def test_a_part_is_the_memory_itself(remote: Remote) -> None:
    part = GuestRam(remote.ram).part(2 * PAGE, PAGE).cast("Q")
    assert isinstance(part, RamView)
    part[1] = 9
    assert remote.words(2 * PAGE, 2) == (0, 9)
    with pytest.raises(IndexError):
        part[PAGE // 8]
    with pytest.raises(ValueError, match="as much"):
        part[0:2] = b"short"


def test_outside(remote: Remote) -> None:
    with pytest.raises(MemoryFault):
        GuestRam(remote.ram).read_physical(8 * PAGE, 1)


def test_a_process_that_has_ended(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pread", lambda fd, size_bytes, addr: b"")
    with pytest.raises(TargetLost, match="ended"):
        remote.ram[0:4]


def test_a_process_that_may_not_be_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, flags: int) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted", path)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(FakeTarget, "monitor", lambda self, command: MONITOR[command])
    with pytest.raises(
        RamForbidden, match=r"/proc/\d+/mem cannot be opened \(Operation not permitted\): .*ptrace_scope"
    ):
        find_ram(os.getpid(), FakeTarget())


class Guest:
    """One CPU, whose root leads to many tables that are empty, as Linux has them, and to few others."""

    vcpus = (0,)
    name = "made up"

    def __init__(self) -> None:
        self.ram = bytearray(LAYOUT.size_bytes)
        self.reads = 0
        root = 16 * PAGE
        empty = [32 * PAGE + PAGE * number for number in range(64)]
        full = [128 * PAGE + PAGE * number for number in range(2)]
        self._table(root, [*empty, *full])
        for number, table in enumerate(full):
            self._table(table, [(160 + 16 * number + index) * PAGE for index in range(6)])
            for index in range(6):
                self._table((160 + 16 * number + index) * PAGE, [(256 + index) * PAGE])

    def _table(self, at: int, entries: list[int]) -> None:
        for index, entry in enumerate(entries):
            self.ram[at + 8 * index : at + 8 * index + 8] = (entry | PRESENT).to_bytes(8, "little")

    def registers(self, vcpu: int) -> dict[str, int]:
        return {"cr3": 16 * PAGE | 5}

    def read_physical(self, addr: int, size_bytes: int) -> bytes:
        self.reads += 1
        return bytes(self.ram[addr : addr + size_bytes])


LAYOUT = RamLayout(4 << 20, 4 << 20)


def test_ram_that_is_empty_but_for_page_tables_is_known() -> None:
    """Nearly all of a guest that has just booted is empty: the tables tell, and there are enough that do."""
    guest = Guest()
    ram = GuestRam(_memory(guest.ram))
    assert qemu_ram._difference(ram, cast(Target, guest), LAYOUT) == ""
    assert guest.reads < 150
    other = bytearray(guest.ram)
    other[160 * PAGE] ^= 2
    assert qemu_ram._difference(GuestRam(_memory(other)), cast(Target, guest), LAYOUT) == "another page is at 0xa0000"
    guest.ram[:] = bytes(LAYOUT.size_bytes)
    empty = GuestRam(_memory(guest.ram))
    assert qemu_ram._difference(empty, cast(Target, guest), LAYOUT) == "too little is in it to tell"


def _memory(data: bytes | bytearray) -> mmap.mmap:
    memory = mmap.mmap(-1, len(data))
    memory[:] = bytes(data)
    return memory
