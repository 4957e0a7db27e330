"""Finding the RAM of a guest that somebody else started: in the memory of its QEMU process.

Where QEMU has it in a file that it shares (``memory-backend-memfd``, ``memory-backend-file,share=on``), we map the same
file. Where it is QEMU's own, we go through ``/proc/PID/mem``, which the kernel allows to who may trace the process.
Nothing is believed: what is found has to hold what the guest's debugger reads, page by page.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import re
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fprobe_gdb.errors import MemoryFault, RamElsewhere, RamForbidden, RamNotFound, RamUnseen, RamUntold
from fprobe_gdb.target.base import Target
from fprobe_gdb.target.guest_ram import GuestRam
from fprobe_gdb.target.page_table import FOUR_GIB, FRAME, HUGE, PAGE_BYTES, PRESENT, SHIFTS
from fprobe_gdb.target.process_ram import ProcessRam

__all__ = ["Mapping", "RamLayout", "find_ram", "parse_maps", "peer_pid", "ram_layout"]

# Pages that are compared: here and there, and page tables, all of which hold something.
_ANYWHERE = 32
_TABLES = 16
# How many have to hold something at least.
_TELLING = 8
_MAPS_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) (\S+) ([0-9]+)", re.ASCII)
_BLOCK_LINE = re.compile(r"\s*(\S+)\s+\S+ [KMG]iB\s+0x[0-9a-f]+\s+(0x[0-9a-f]+)", re.ASCII)
_FLAT_LINE = re.compile(r"\s*([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, \S+\): (\S+)(?: @([0-9a-f]{16}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class RamLayout:
    """Where a guest has its RAM."""

    size_bytes: int
    #: As much of it is below 4 GiB; the rest begins there.
    low_bytes: int


@dataclass(frozen=True, slots=True)
class Mapping:
    """A piece of the memory of a process that it may write."""

    start: int
    stop: int
    #: Of a file that others can share.
    shared: bool
    #: Where in the file it begins.
    offset: int
    inode: int

    @property
    def size_bytes(self) -> int:
        """How long it is."""
        return self.stop - self.start


def peer_pid(sock: socket.socket) -> int:
    """The process that listens at the other end of a unix socket; 0 when it is not to be seen from here."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", data)[0]
    return pid


def ram_layout(ramblocks: str, flat_view: str) -> RamLayout:
    """How the guest's RAM lies in QEMU's block of it.

    :param ramblocks: what the monitor says to ``info ramblock``.
    :param flat_view: what it says to ``info mtree -f``.
    :raise RamUntold: they do not tell.
    :raise RamElsewhere: when it is not in one block, or not as PCs have it.
    """
    blocks = [(int(size, 16), name) for name, size in _BLOCK_LINE.findall(ramblocks)]
    if not blocks:
        raise RamUntold
    size_bytes, name = max(blocks)
    low_bytes = 0
    for start, stop, region, offset in _FLAT_LINE.findall(flat_view):
        begin, end = int(start, 16), int(stop, 16) + 1
        if region != name:
            continue
        behind = begin - FOUR_GIB
        if begin < FOUR_GIB and int(offset or "0", 16) == begin:
            low_bytes = max(low_bytes, end)
        elif behind < 0 or int(offset or "0", 16) != low_bytes + behind:
            raise RamElsewhere(f"the guest's RAM ({name}) does not lie as in a PC")
    if not low_bytes or (low_bytes < size_bytes and low_bytes >= FOUR_GIB):
        raise RamElsewhere(f"the guest's RAM ({name}) does not begin at address 0; has it several memory backends?")
    return RamLayout(size_bytes, low_bytes)


def parse_maps(text: str) -> list[Mapping]:
    """The writable pieces in a ``/proc/PID/maps``."""
    found = []
    for start, stop, flags, offset, _, inode in _MAPS_LINE.findall(text):
        if flags.startswith("rw"):
            found.append(Mapping(int(start, 16), int(stop, 16), flags[3] == "s", int(offset, 16), int(inode)))
    return found


def find_ram(pid: int, target: Target) -> GuestRam:
    """Get at the RAM of a stopped guest.

    :param pid: the process of its QEMU.
    :raise RamOutOfReach: why it cannot be had.
    """
    if not pid:
        raise RamUnseen
    layout = ram_layout(target.monitor("info ramblock"), target.monitor("info mtree -f"))
    try:
        mappings = parse_maps(Path(f"/proc/{pid}/maps").read_text())
    except OSError as error:
        raise _refused(pid, "maps", error) from error
    whys = []
    fitting = sorted((found for found in mappings if found.size_bytes >= layout.size_bytes), key=_by_size)
    for mapping in fitting:
        for at in sorted({mapping.stop - layout.size_bytes, mapping.start}, reverse=True):
            ram = _open(pid, mapping, at, layout)
            if ram is None:
                continue
            why = _difference(ram, target, layout)
            if not why:
                return ram
            ram.close()
            whys.append(f"not the {mapping.size_bytes >> 20} MiB at {at:#x}: {why}")
    raise RamNotFound(
        f"process {pid} has no memory that holds what the guest's RAM holds "
        f"({'; '.join(whys) or 'none is large enough'}); is it not its QEMU?"
    )


def _by_size(mapping: Mapping) -> int:
    return mapping.size_bytes


# The RAM that begins at an address of the process, if it does; None when its file is not at hand.
def _open(pid: int, mapping: Mapping, at: int, layout: RamLayout) -> GuestRam | None:
    if not mapping.shared:
        try:
            fd = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise _refused(pid, "mem", error) from error
        return GuestRam(ProcessRam(fd, at, layout.size_bytes), low_bytes=layout.low_bytes)
    for fd in _files(pid, mapping.inode):
        try:
            shared = mmap.mmap(fd, layout.size_bytes, offset=mapping.offset + at - mapping.start)
            # Only a file that begins where RAM does tells which parts of RAM are in use.
            return GuestRam(shared, low_bytes=layout.low_bytes)
        except (OSError, ValueError):
            continue
        finally:
            os.close(fd)
    return None


# The files that a process has open and that are this one, opened by us too.
def _files(pid: int, inode: int) -> Iterator[int]:
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if entry.stat().st_ino == inode:
                yield os.open(entry, os.O_RDWR | os.O_CLOEXEC)


def _refused(pid: int, what: str, error: OSError) -> RamForbidden:
    return RamForbidden(f"/proc/{pid}/{what}", error.strerror)


# Why this is not the guest's RAM; empty when it is.
def _difference(ram: GuestRam, target: Target, layout: RamLayout) -> str:
    telling = 0
    for physical in [*_anywhere(layout), *_tables(target)]:
        try:
            data = ram.read_physical(physical, PAGE_BYTES)
        except (MemoryFault, OSError) as error:
            return f"at {physical:#x}: {error}"
        if data != target.read_physical(physical, PAGE_BYTES):
            return f"another page is at {physical:#x}"
        telling += any(data)
    return "" if telling >= _TELLING else "too little is in it to tell"


def _anywhere(layout: RamLayout) -> Sequence[int]:
    pick = random.Random(layout.size_bytes)
    offsets = [pick.randrange(1 << 20, layout.size_bytes) & -PAGE_BYTES for _ in range(_ANYWHERE)]
    return [at if at < layout.low_bytes else at - layout.low_bytes + FOUR_GIB for at in offsets]


# Page tables that hold something, breadth first. Of those that a root leads to most are empty: Linux sets them aside
# for vmalloc() (arch/x86/mm/init_64.c, preallocate_vmalloc_pages(), since 5.9).
def _tables(target: Target) -> Sequence[int]:
    found: list[int] = []
    level = list(dict.fromkeys(target.registers(vcpu)["cr3"] & FRAME for vcpu in target.vcpus))
    for _ in SHIFTS:
        following: dict[int, None] = {}
        for table in level:
            entries = memoryview(target.read_physical(table, PAGE_BYTES)).cast("Q")
            if any(entries):
                found.append(table)
                if len(found) == _TABLES:
                    return found
            following |= dict.fromkeys(entry & FRAME for entry in entries if entry & (PRESENT | HUGE) == PRESENT)
        level = list(following)
    return found
