"""Kernels of a few functions with ORC tables in each of their forms, and stacks to walk."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from fprobe_gdb.errors import MemoryFault
from fprobe_gdb.kernel.image import KernelImage
from fprobe_gdb.kernel.orc import OrcBase, OrcEntry, OrcType
from fprobe_gdb.kernel.symbols import Symbol, SymbolTable
from tests.unit.kernel.made_up_image import ALLOC, EXEC, Part, elf

TEXT = 0xFFFFFFFF81000000
TEXT_BYTES = 0x4000
IPS = 0xFFFFFFFF82000000
ENTRIES = 0xFFFFFFFF82100000
END = 0xFFFFFFFF83000000

_OLD = {"UNDEFINED": 0, "PREV_SP": 1, "DX": 2, "DI": 3, "BP": 4, "SP": 5, "R10": 6, "R13": 7, "BP_INDIRECT": 8,
        "SP_INDIRECT": 9, "AX": 10}  # fmt: skip
_NEW = {"UNDEFINED": 0, "AX": 1, "DX": 2, "SP": 3, "BP": 4, "DI": 5, "R10": 6, "R13": 7, "PREV_SP": 8,
        "SP_INDIRECT": 9, "BP_INDIRECT": 10}  # fmt: skip
_OLD_TYPE = {OrcType.UNDEFINED: 0, OrcType.END_OF_STACK: 0, OrcType.CALL: 0, OrcType.REGS: 1, OrcType.REGS_PARTIAL: 2}
FORMS = ("4.14", "6.3", "6.4", "6.19")

Row = tuple[int, OrcEntry]


def call(
    sp_offset: int = 8, sp: str = "SP", bp: str = "UNDEFINED", bp_offset: int = 0, signal: bool = False
) -> OrcEntry:
    return OrcEntry(OrcType.CALL, OrcBase[sp], sp_offset, OrcBase[bp], bp_offset, signal)


def regs(sp_offset: int = 0, sp: str = "SP", partial: bool = False) -> OrcEntry:
    kind = OrcType.REGS_PARTIAL if partial else OrcType.REGS
    return OrcEntry(kind, OrcBase[sp], sp_offset, OrcBase.UNDEFINED, 0, True)


UNDEFINED = OrcEntry(OrcType.UNDEFINED, OrcBase.UNDEFINED, 0, OrcBase.UNDEFINED, 0, False)
END_OF_STACK = OrcEntry(OrcType.END_OF_STACK, OrcBase.UNDEFINED, 0, OrcBase.UNDEFINED, 0, False)


def encode(entry: OrcEntry, form: str = "6.4") -> bytes:
    """An entry's six bytes, as orc_types.h of a kernel of that form lays them out."""
    numbers = _NEW if form == "6.19" else _OLD
    if form in ("6.4", "6.19"):
        flags = entry.type.value | entry.signal << 3
    else:
        end = entry.type is OrcType.END_OF_STACK
        flags = _OLD_TYPE[entry.type] | (end << 2 if form == "4.14" else entry.signal << 2 | end << 3)
    bases = numbers[entry.sp_base.name] | numbers[entry.bp_base.name] << 4
    return struct.pack("<hhBB", entry.sp_offset, entry.bp_offset, bases, flags)


def tables(rows: Iterable[Row], form: str = "6.4", ips_addr: int = IPS) -> tuple[bytes, bytes]:
    """``.orc_unwind_ip`` and ``.orc_unwind``."""
    listed = list(rows)
    ips = b"".join(struct.pack("<i", addr - (ips_addr + 4 * index)) for index, (addr, _) in enumerate(listed))
    return ips, b"".join(encode(entry, form) for _, entry in listed)


def kernel(
    functions: Sequence[tuple[str, int]], rows: Iterable[Row] | None, code: bytes = b"", form: str = "6.4"
) -> tuple[KernelImage, SymbolTable]:
    """An image and its symbols: functions by name and offset into .text; without rows it has no ORC."""
    parts = [Part(".text", TEXT, code.ljust(TEXT_BYTES, b"\x90"), ALLOC | EXEC)]
    if rows is not None:
        ips, entries = tables(rows, form)
        parts += [Part(".orc_unwind_ip", IPS, ips), Part(".orc_unwind", ENTRIES, entries)]
    symbols = [Symbol("_stext", TEXT, "T"), *(Symbol(name, TEXT + at, "T") for name, at in functions)]
    return KernelImage.from_bytes(elf(parts)), SymbolTable([*symbols, Symbol("_end", END, "B")])


class Memory:
    """Guest memory: words and bytes at addresses; what is not in a page that was written is not mapped."""

    def __init__(self, words: dict[int, int]) -> None:
        self.pages: dict[int, bytearray] = {}
        self.requests: list[tuple[int, int]] = []
        for addr, value in words.items():
            self.write(addr, struct.pack("<Q", value))

    def write(self, addr: int, data: bytes) -> None:
        for at, byte in enumerate(data, addr):
            self.pages.setdefault(at >> 12, bytearray(4096))[at & 0xFFF] = byte

    def read(self, addr: int, size_bytes: int) -> bytes:
        self.requests.append((addr, size_bytes))
        pages = range(addr >> 12, (addr + size_bytes - 1 >> 12) + 1)
        if not all(page in self.pages for page in pages):
            raise MemoryFault(addr, size_bytes)
        data = b"".join(self.pages[page] for page in pages)
        return bytes(data[addr & 0xFFF : (addr & 0xFFF) + size_bytes])
