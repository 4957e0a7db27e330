"""What stands in memory that the guest has lent and that no page table leads to: before it is mapped, and behind that.

A tool may be killed at such a moment. The next one looks at each place in RAM where a piece can begin, and gives back
what is marked: of this boot of the guest, since RAM may outlive that.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from fprobe_gdb.dispatch.trampoline.zone import PIECE_BYTES
from fprobe_gdb.target.guest_ram import GuestRam
from fprobe_gdb.target.page_table import FOUR_GIB

__all__ = ["LoanMark", "find_marks"]

_MAGIC = b"fprobe-gdb loan\n"
# Magic, boot, physical address, what the guest's allocator gave.
_MARK = struct.Struct("<16s3Q")


@dataclass(frozen=True, slots=True)
class LoanMark:
    """A piece that is lent."""

    #: A number that is another one after each boot of the guest.
    boot: int
    physical: int
    #: What the guest's allocator gave for it: its address in the kernel's mapping of all memory.
    handle: int

    #: How long it is.
    SIZE_BYTES = _MARK.size

    def pack(self) -> bytes:
        """The bytes at the beginning of the piece."""
        return _MARK.pack(_MAGIC, self.boot, self.physical, self.handle)

    @classmethod
    def unpack(cls, data: bytes) -> LoanMark | None:
        """What :meth:`pack` has made; None when it is something else."""
        magic, boot, physical, handle = _MARK.unpack_from(data)
        return cls(boot, physical, handle) if magic == _MAGIC else None


def find_marks(ram: GuestRam, boot: int) -> Iterator[LoanMark]:
    """All pieces that are marked, and that this boot of the guest has lent."""
    high = range(FOUR_GIB, FOUR_GIB + ram.high_bytes, PIECE_BYTES)
    for physical in (*range(0, ram.low_bytes, PIECE_BYTES), *high):
        mark = LoanMark.unpack(ram.read_physical(physical, _MARK.size))
        if mark is not None and (mark.boot, mark.physical) == (boot, physical):
            yield mark
