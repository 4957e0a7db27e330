"""ORC, the kernel's own stack unwinding tables: for each stretch of code, where the caller's stack pointer is.

Two arrays in the image (arch/x86/include/asm/orc_types.h): ``.orc_unwind_ip`` has an s32 for each stretch, relative to
its own place; ``.orc_unwind`` has six bytes for each: ``s16 sp_offset, s16 bp_offset``, then nibbles ``sp_reg`` and
``bp_reg``, then a byte of type and flags. The last two bytes have changed over time:

==============  ================================================  =================================================
since           type and flags                                    base registers
==============  ================================================  =================================================
4.14            ``type:2 end:1``, CALL is 0                       PREV_SP 1, DX, DI, BP, SP, R10, R13, BP/SP_INDIRECT
6.3             ``type:2 signal:1 end:1``                         the same
6.4             ``type:3 signal:1``, CALL is 2, UNDEFINED is 0    the same; some kernels add AX 10
6.19 or so      the same                                          AX 1, DX, SP, BP, DI, R10, R13, PREV_SP, SP/BP_IND.
==============  ================================================  =================================================

The 6.3 form was carried back to some stable series, and ``.orc_header`` is a hash that does not explain itself. So the
form is told from what the table holds: nearly every entry is of type CALL and counts from SP.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from enum import Enum
from typing import NamedTuple

from fprobe_gdb.errors import ImageError
from fprobe_gdb.kernel.image import KernelImage
from fprobe_gdb.kernel.symbols import SymbolTable
from fprobe_gdb.registers import MASK64

__all__ = ["OrcBase", "OrcEntry", "OrcTable", "OrcType"]

_ENTRY_BYTES = 6
_IP_BYTES = 4
# The order of so many entries is looked at on opening; a large table that is unsorted at all is so everywhere.
_SORT_SAMPLES = 8192


class OrcBase(Enum):
    """``ORC_REG_*``: what a stack or frame pointer is counted from."""

    UNDEFINED = 0
    PREV_SP = 1
    AX = 2
    DX = 3
    DI = 4
    BP = 5
    SP = 6
    R10 = 7
    R13 = 8
    BP_INDIRECT = 9
    SP_INDIRECT = 10


class OrcType(Enum):
    """``ORC_TYPE_*`` of 6.4 and later; older tables are translated."""

    UNDEFINED = 0
    END_OF_STACK = 1
    #: The word below the caller's stack pointer is the return address.
    CALL = 2
    #: A whole ``struct pt_regs`` is at the stack pointer found.
    REGS = 3
    #: The same, but only the part that the CPU pushes itself (``ip``, ``cs``, ``flags``, ``sp``, ``ss``) is there.
    REGS_PARTIAL = 4


class OrcEntry(NamedTuple):
    """How to get from code to its caller. Offsets are in bytes, signed."""

    type: OrcType
    sp_base: OrcBase
    sp_offset: int
    bp_base: OrcBase
    bp_offset: int
    #: The caller was interrupted: its ``ip`` is what runs next, no return address behind a call.
    signal: bool


_B = OrcBase
_OLD_BASES = (
    _B.UNDEFINED,
    _B.PREV_SP,
    _B.DX,
    _B.DI,
    _B.BP,
    _B.SP,
    _B.R10,
    _B.R13,
    _B.BP_INDIRECT,
    _B.SP_INDIRECT,
    _B.AX,
)
_NEW_BASES = (
    _B.UNDEFINED,
    _B.AX,
    _B.DX,
    _B.SP,
    _B.BP,
    _B.DI,
    _B.R10,
    _B.R13,
    _B.PREV_SP,
    _B.SP_INDIRECT,
    _B.BP_INDIRECT,
)
_OLD_TYPES = (OrcType.CALL, OrcType.REGS, OrcType.REGS_PARTIAL)
_BP_BASES = (_B.UNDEFINED, _B.PREV_SP, _B.BP)


# One form of the last two bytes of an entry.
class _Layout(NamedTuple):
    since: str
    bases: tuple[OrcBase, ...]
    type_mask: int
    signal_bit: int
    end_bit: int

    def decode(self, data: bytes) -> OrcEntry:
        sp_base, bp_base = self.bases[data[4] & 0xF], self.bases[data[4] >> 4]
        kind, signal = data[5] & self.type_mask, bool(data[5] & self.signal_bit)
        if not self.end_bit:
            type = OrcType(kind)
        elif sp_base is OrcBase.UNDEFINED:
            type = OrcType.END_OF_STACK if data[5] & self.end_bit else OrcType.UNDEFINED
        else:
            type = _OLD_TYPES[kind]
            signal = signal if self.signal_bit else type is not OrcType.CALL
        sp_offset = int.from_bytes(data[0:2], "little", signed=True)
        bp_offset = int.from_bytes(data[2:4], "little", signed=True)
        return OrcEntry(type, sp_base, sp_offset, bp_base, bp_offset, signal)

    # All values that the fourth and the fifth byte can have.
    def base_bytes(self) -> bytes:
        bp = [number for number, base in enumerate(self.bases) if base in _BP_BASES]
        return bytes(high << 4 | low for high in bp for low in range(len(self.bases)))

    def type_bytes(self) -> bytes:
        kinds = range(len(_OLD_TYPES) if self.end_bit else len(OrcType))
        flags = {f1 | f2 for f1 in (0, self.signal_bit) for f2 in (0, self.end_bit)}
        return bytes(kind | flag for kind in kinds for flag in flags)


class OrcTable:
    """One sorted ORC table, of the kernel or of a module.

    :param ips_addr: where the array of addresses is in memory.
    :param ips: its bytes (``.orc_unwind_ip``).
    :param entries: the bytes of ``.orc_unwind``.
    :param path: where they come from, for messages.
    :param like: the kernel's table, for a module's: a small one does not tell which form it has.
    :raise ImageError: damaged, or of a form that we do not know. Told in 20 ms for 400,000 entries.
    """

    def __init__(
        self, ips_addr: int, ips: bytes, entries: bytes, path: str = "ORC table", like: OrcTable | None = None
    ) -> None:
        count = len(ips) // _IP_BYTES
        if not count or len(ips) % _IP_BYTES or len(entries) != count * _ENTRY_BYTES:
            raise ImageError(
                path, f"its ORC table is damaged: {len(ips)} bytes of addresses do not fit {len(entries)} of entries"
            )
        self._base = ips_addr
        self._ips = memoryview(ips).cast("i")
        self._entries = entries
        self._layout: _Layout = _layout_of(entries, path) if like is None else like._layout
        # Addresses, only where they had to be sorted; and which entry each belongs to.
        self._sorted: array[int] | None = None
        self._order: array[int] | None = None
        self._known: dict[int, OrcEntry] = {}
        sample = [self._addr(index) for index in range(0, count, 1 + count // _SORT_SAMPLES)]
        if sample != sorted(sample):
            self._sort()

    @classmethod
    def from_image(cls, image: KernelImage, symbols: SymbolTable | None = None) -> OrcTable | None:
        """The table of a kernel image, or None when it has none (frame pointers, or no unwinder at all).

        :param symbols: they tell where the table is when sections have lost their names.
        :raise ImageError: damaged, or of a form that we do not know.
        """
        found = [image.section(".orc_unwind_ip"), image.section(".orc_unwind")]
        if found[0] is not None and found[1] is not None:
            ips, entries = image.section_bytes(found[0]), image.section_bytes(found[1])
            return cls(found[0].addr, ips, entries, image.path) if ips or entries else None
        if symbols is None:
            return None
        bounds = [_bounds(image, symbols, name) for name in ("orc_unwind_ip", "orc_unwind")]
        if bounds[0] is None or bounds[1] is None:
            return None
        return cls(bounds[0][0], image.read(*bounds[0]), image.read(*bounds[1]), image.path)

    def __len__(self) -> int:
        return len(self._ips)

    @property
    def since(self) -> str:
        """The kernel that brought this form of table: ``"4.14"``, ``"6.3"``, ``"6.4"`` or ``"6.19"``."""
        return self._layout.since

    def find(self, ip: int) -> OrcEntry | None:
        """The entry for the instruction at a link address. Of several that start there the last one counts.

        :return: None below the first entry. Above the last one it is that one, which says UNDEFINED.
        """
        entry = self._known.get(ip)
        if entry is not None:
            return entry
        if self._sorted is not None and self._order is not None:
            index = bisect_right(self._sorted, ip) - 1
            index = self._order[index] if index >= 0 else -1
        else:
            index = bisect_right(range(len(self)), ip, key=self._addr) - 1
        if index < 0:
            return None
        at = index * _ENTRY_BYTES
        entry = self._known[ip] = self._layout.decode(self._entries[at : at + _ENTRY_BYTES])
        return entry

    def _addr(self, index: int) -> int:
        return (self._base + _IP_BYTES * index + self._ips[index]) & MASK64

    # As orc_sort_cmp() in unwind_orc.c: section terminators go before a real entry for the same address.
    def _sort(self) -> None:
        def key(index: int) -> tuple[int, bool]:
            entry = self._layout.decode(self._entries[index * _ENTRY_BYTES : (index + 1) * _ENTRY_BYTES])
            return self._addr(index), entry.type is not OrcType.UNDEFINED

        order = sorted(range(len(self)), key=key)
        self._order = array("I", order)
        self._sorted = array("Q", map(self._addr, order))


def _bounds(image: KernelImage, symbols: SymbolTable, name: str) -> tuple[int, int] | None:
    start, stop = symbols.addresses(f"__start_{name}"), symbols.addresses(f"__stop_{name}")
    if len(start) != 1 or len(stop) != 1:
        return None
    if stop[0] < start[0]:
        raise ImageError(image.path, f"its table .{name} ends before it begins; symbols of another kernel?")
    return (start[0], stop[0] - start[0]) if stop[0] > start[0] else None


# From the whole table: which value stands for CALL, for SP, and whether a bit is in use.
def _layout_of(entries: bytes, path: str) -> _Layout:
    base_bytes, type_bytes = entries[4::_ENTRY_BYTES], entries[5::_ENTRY_BYTES]
    # SP with a frame pointer that is unchanged, or saved below the caller's stack pointer.
    bases = _OLD_BASES if _count(base_bytes, 0x05, 0x15) >= _count(base_bytes, 0x03, 0x83) else _NEW_BASES
    if _count(type_bytes, 2) > _count(type_bytes, 0):
        layout = _Layout("6.4" if bases is _OLD_BASES else "6.19", bases, 7, 8, 0)
    elif not type_bytes.translate(None, bytes(range(8))):
        layout = _Layout("4.14", bases, 3, 0, 4)
    else:
        layout = _Layout("6.3", bases, 3, 4, 8)
    strange = type_bytes.translate(None, layout.type_bytes()) or base_bytes.translate(None, layout.base_bytes())
    if strange:
        raise ImageError(
            path,
            f"{len(strange)} of {len(type_bytes)} entries of its ORC table make no sense (such as {strange[0]:#04x}): "
            "damaged, or of a form that is newer than this program",
        )
    return layout


def _count(data: bytes, *values: int) -> int:
    return sum(map(data.count, values))
