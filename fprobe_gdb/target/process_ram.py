"""Guest RAM that is private memory of a QEMU process, through ``/proc/PID/mem``: a system call for each access.

Slower than RAM that is shared with us (a microsecond instead of a tenth), and otherwise the same: a byte and an aligned
word are read and written in one piece, in the order of our calls.
"""

from __future__ import annotations

import os
import struct
from typing import overload

from fprobe_gdb.errors import TargetLost

__all__ = ["ProcessRam", "RamView"]


class RamView:
    """A piece of the memory of another process: as much of a ``memoryview`` as users of guest RAM need.

    :param fd: ``/proc/PID/mem``, open.
    :param addr: where it begins there.
    :param format: of its elements, as in :mod:`struct`.
    """

    __slots__ = ("_addr", "_each", "_fd", "_format", "_size_bytes", "_struct")

    def __init__(self, fd: int, addr: int, size_bytes: int, format: str = "B") -> None:
        self._fd = fd
        self._addr = addr
        self._size_bytes = size_bytes
        self._format = format
        self._struct = struct.Struct(f"={format}")
        self._each = self._struct.size

    def __len__(self) -> int:
        return self._size_bytes // self._each

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> memoryview: ...
    def __getitem__(self, index: int | slice) -> int | memoryview:
        """An element, or a copy of some."""
        if isinstance(index, int):
            self._check(index)
            value: int = self._struct.unpack(self._read(index * self._each, self._each))[0]
            return value
        begin, end, step = index.indices(len(self))
        data = self._read(begin * self._each, max(0, end - begin) * self._each)
        return memoryview(data).cast(self._format)[::step]  # type: ignore[call-overload, no-any-return]

    def __setitem__(self, index: int | slice, value: int | bytes | bytearray | memoryview) -> None:
        if isinstance(index, int):
            self._check(index)
            self._write(index * self._each, self._struct.pack(value))
            return
        begin, end, step = index.indices(len(self))
        assert step == 1
        assert not isinstance(value, int)
        data = bytes(value)
        if len(data) != max(0, end - begin) * self._each:
            raise ValueError("a piece of memory can only be replaced by as much")
        self._write(begin * self._each, data)

    def cast(self, format: str) -> RamView:
        """The same memory by other elements."""
        return RamView(self._fd, self._addr, self._size_bytes, format)

    def part(self, begin: int, end: int) -> RamView:
        """From one element to another, in place."""
        return RamView(self._fd, self._addr + begin * self._each, (end - begin) * self._each, self._format)

    def tobytes(self) -> bytes:
        """A copy of all of it."""
        return self._read(0, self._size_bytes)

    def release(self) -> None:
        """Nothing is held."""

    def _check(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise IndexError(f"no element {index} among {len(self)}")

    def _read(self, offset: int, size_bytes: int) -> bytes:
        data = os.pread(self._fd, size_bytes, self._addr + offset)
        while len(data) < size_bytes:
            more = os.pread(self._fd, size_bytes - len(data), self._addr + offset + len(data))
            _check_there(len(more))
            data += more
        return data

    def _write(self, offset: int, data: bytes) -> None:
        done = os.pwrite(self._fd, data, self._addr + offset)
        while done < len(data):
            more = os.pwrite(self._fd, data[done:], self._addr + offset + done)
            _check_there(more)
            done += more


class ProcessRam:
    """All RAM of a guest: as much of an ``mmap`` as :class:`.guest_ram.GuestRam` needs.

    :param fd: ``/proc/PID/mem``, open for reading and writing; owned from now on.
    :param addr: where RAM begins there.
    """

    def __init__(self, fd: int, addr: int, size_bytes: int) -> None:
        self._fd = fd
        self._addr = addr
        #: Byte by byte.
        self.view = RamView(fd, addr, size_bytes)

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, piece: slice) -> bytes:
        return self.view[piece].tobytes()

    def __setitem__(self, piece: slice, data: bytes) -> None:
        self.view[piece] = data

    def find(self, what: bytes, begin: int, end: int) -> int:
        """Where these bytes are first between two offsets, -1 when nowhere."""
        data = os.pread(self._fd, end - begin, self._addr + begin)
        at = (data if len(data) == end - begin else self[begin:end]).find(what)
        return at if at < 0 else begin + at

    def close(self) -> None:
        """Let go of the process. May be called twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


# A process that has ended has no memory: nothing comes, and to the kernel that is no error.
def _check_there(count: int) -> None:
    if not count:
        raise TargetLost("QEMU has ended")
