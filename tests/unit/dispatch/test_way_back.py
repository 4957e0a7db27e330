"""Where a guest function returns to that runs for us, in kernels that have such a place and in others."""

from __future__ import annotations

import struct

import pytest

from fprobe_gdb.dispatch.way_back import WayBack, find_way_back
from fprobe_gdb.errors import MemoryFault
from fprobe_gdb.kernel.symbols import Symbol, SymbolTable
from fprobe_gdb.registers import GENERAL_REGISTERS

RESTORE, COLD = 0xFFFFFFFF81C01179, 0xFFFFFFFF819CCF31
POP_REGS = bytes.fromhex("415f415e415d415c5d5b415b415a4159415858595a5e5f4883c408")


def kernel(
    restoring: bytes = POP_REGS, cold: bytes = b"\x55\xc3\x48\x89\xc3\x5b", names: tuple[str, ...] = ("restore", "cold")
) -> tuple[SymbolTable, bytes, bytes]:
    symbols = []
    if "cold" in names:
        symbols.append(Symbol("panic", COLD, "t"))
    if "restore" in names:
        symbols.append(Symbol("restore_regs_and_return_to_kernel", RESTORE, "t"))
    return SymbolTable(symbols), restoring, cold


@pytest.mark.parametrize(
    ("made", "found"),
    [
        (kernel(), WayBack(COLD + 4, RESTORE)),
        (kernel(restoring=b"\x90" + POP_REGS), None),
        (kernel(cold=b"\x55\xc3\x5b"), None),
        (kernel(names=("cold",)), None),
        (kernel(names=("restore",)), None),
    ],
    ids=["found", "other registers", "no ret", "no restore", "no cold text"],
)
def test_where_it_is(made: tuple[SymbolTable, bytes, bytes], found: WayBack | None) -> None:
    """A ret that is an instruction of its own is none to stop at: somebody may come by."""
    symbols, restoring, cold = made

    def read(addr: int, size_bytes: int) -> bytes:
        return {RESTORE: restoring, COLD: cold}[addr][:size_bytes]

    assert find_way_back(symbols, read) == found


def test_text_that_cannot_be_read() -> None:
    def read(addr: int, size_bytes: int) -> bytes:
        raise MemoryFault(addr, size_bytes)

    assert find_way_back(kernel()[0], read) is None


def test_what_is_on_the_stack() -> None:
    registers = {name: number for number, name in enumerate((*GENERAL_REGISTERS, "ip", "flags"), 0x100)}
    registers["sp"] = 0xFFFFC90000004000
    sp, frame = WayBack(COLD, RESTORE).frame(registers)
    assert sp + len(frame) == registers["sp"]
    ret, restore, *words = struct.unpack(f"<{len(frame) // 8}Q", frame)
    assert (ret, restore) == (COLD, RESTORE)
    # struct pt_regs (arch/x86/include/asm/ptrace.h).
    order = ["r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di"]
    assert words[:15] == [registers[name] for name in order]
    assert words[15:] == [0, registers["ip"], 0x10, registers["flags"], registers["sp"], 0x18]
