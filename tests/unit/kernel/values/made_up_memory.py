"""A guest's memory with a ``struct file`` in it, laid out by hand."""

from __future__ import annotations

import struct

from fprobe_gdb.errors import MemoryFault
from fprobe_gdb.kernel.btf import Btf
from fprobe_gdb.kernel.values import GuestMemory, Value
from tests.unit.kernel.btf.made_up_kernel_types import made_up

BASE = 0xFFFF888000001000
FILE, DENTRY, NAME, OTHER, STACK = BASE, BASE + 0x200, BASE + 0x300, BASE + 0x400, BASE + 0x800
SIZE = 0x1000


class MadeUpMemory:
    """One page at BASE; all else is a fault. Counts the reads, and has an epoch."""

    def __init__(self) -> None:
        self.page = bytearray(SIZE)
        self.epoch = 1
        self.reads = 0
        self.put(FILE, struct.pack("<i4xQQiI", -5, 0xDEAD, DENTRY, -2, 0xABCDEF << 8 | 0b10001 << 3 | 5))
        self.put(FILE + 32, struct.pack("<QQiBBxxq", OTHER, 0xFFFFFFFF81000000, 42, 7, 1, -1 << 40))
        self.put(FILE + 64, struct.pack("<6iQ", 1, 2, 3, 4, 5, 6, 1 << 63))
        self.put(FILE + 112, struct.pack("<2i", 71, 72))
        self.put(DENTRY, struct.pack("<IxxxxIIQ12s", 3, 0x1234, 4, NAME, b"motd\0rest"))
        self.put(NAME, b"motd\0")
        # Its dentry cannot be read, and its next is an error.
        self.put(OTHER, struct.pack("<i4xQQiI", 9, 0, 0x10, 99, 0))
        self.put(OTHER + 32, struct.pack("<Q", -2 & (1 << 64) - 1))

    def put(self, addr: int, data: bytes) -> None:
        self.page[addr - BASE : addr - BASE + len(data)] = data

    def read(self, addr: int, size_bytes: int) -> bytes:
        self.reads += 1
        if not BASE <= addr <= addr + size_bytes <= BASE + SIZE:
            raise MemoryFault(addr, size_bytes)
        return bytes(self.page[addr - BASE : addr - BASE + size_bytes])

    def guest_memory(self) -> GuestMemory:
        return GuestMemory(self.read, lambda: self.epoch)


class Rig:
    """Types, memory, and a pointer to the file."""

    def __init__(self) -> None:
        self.btf = Btf.from_bytes(made_up().bytes())
        self.raw = MadeUpMemory()
        self.memory = self.raw.guest_memory()
        self.file = Value.of_int(self.btf, self.memory, self.btf.type("struct file *"), FILE)
