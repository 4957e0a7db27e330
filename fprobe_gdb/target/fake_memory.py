"""Sparse memory of the fake guest: pages that a virtual and a physical address can share, and devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fprobe_gdb.errors import MemoryFault, UsageError

__all__ = ["PAGE_BYTES", "FakeMemory"]

PAGE_BYTES = 4096

#: A device: offset and size in bytes to the bytes that it answers.
DeviceRead = Callable[[int, int], bytes]


class FakeMemory:
    """Virtual memory that faults outside of mapped pages, and physical memory beside it."""

    def __init__(self) -> None:
        self._virtual: dict[int, bytearray] = {}
        self._physical: dict[int, bytearray] = {}
        self._devices: list[tuple[int, int, DeviceRead]] = []

    def map(self, addr: int, size_bytes: int, *, physical: int | None = None) -> None:
        """Back the pages of a virtual range with zeros, and give them physical addresses too.

        Pages that are mapped already keep what they hold.
        """
        for page in range(addr // PAGE_BYTES, (addr + size_bytes - 1) // PAGE_BYTES + 1):
            backing = self._virtual.setdefault(page, bytearray(PAGE_BYTES))
            if physical is not None:
                self._physical[page - addr // PAGE_BYTES + physical // PAGE_BYTES] = backing

    def add_device(self, addr: int, size_bytes: int, read: DeviceRead) -> None:
        """Put a device at a physical address: ``read(offset, size_bytes)`` answers."""
        self._devices.append((addr, size_bytes, read))

    def read(self, addr: int, size_bytes: int) -> bytes:
        """Read virtual memory.

        :raise MemoryFault: when any of it is not mapped.
        """
        return self._read(self._virtual, addr, size_bytes)

    def write(self, addr: int, data: bytes) -> None:
        """Write virtual memory, all or nothing.

        :raise MemoryFault: when any of it is not mapped.
        """
        pieces = list(_pieces(addr, len(data)))
        if any(page not in self._virtual for page, _start, _size in pieces):
            raise MemoryFault(addr, len(data), "write")
        at = 0
        for page, start, size in pieces:
            self._virtual[page][start : start + size] = data[at : at + size]
            at += size

    def read_physical(self, addr: int, size_bytes: int) -> bytes:
        """Read physical memory or a device.

        :raise MemoryFault: where nothing answers.
        """
        for base, device_bytes, read in self._devices:
            if base <= addr and addr + size_bytes <= base + device_bytes:
                data = read(addr - base, size_bytes)
                if len(data) != size_bytes:
                    raise UsageError(f"the fake device at {base:#x} answered {len(data)} bytes, not {size_bytes}")
                return data
        return self._read(self._physical, addr, size_bytes)

    @staticmethod
    def _read(pages: dict[int, bytearray], addr: int, size_bytes: int) -> bytes:
        try:
            return b"".join(bytes(pages[page][start : start + size]) for page, start, size in _pieces(addr, size_bytes))
        except KeyError:
            raise MemoryFault(addr, size_bytes) from None


# (page number, offset in it, bytes) of every page that a range touches.
def _pieces(addr: int, size_bytes: int) -> Iterator[tuple[int, int, int]]:
    end = addr + size_bytes
    while addr < end:
        start = addr % PAGE_BYTES
        size = min(PAGE_BYTES - start, end - addr)
        yield addr // PAGE_BYTES, start, size
        addr += size
