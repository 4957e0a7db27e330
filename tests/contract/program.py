"""The program that every target runs in the contract tests: one loop per vCPU, the same machine code everywhere."""

from __future__ import annotations

from fprobe_gdb.target.fake_asm import Assembler

__all__ = ["COUNTERS", "END_OF_RAM", "GS_BASES", "SCRATCH", "SCRATCH_BYTES", "STACK_TOP", "program"]

#: Where vCPU n counts its rounds, 8 bytes each.
COUNTERS = 0x400000
#: Free memory to read and write, more than one packet of any QEMU carries.
SCRATCH, SCRATCH_BYTES = 0x500000, 0x30000
#: The first address that faults.
END_OF_RAM = 0x4000000
#: What guest.S sets up.
STACK_TOP = (0x300000, 0x310000)
GS_BASES = (0x1000, 0x2000)


def program(vcpu: int) -> Assembler:
    """``for (n = 1; ; n++) { counter = n; ax = f(n, 2); g(); h(); }``, from label ``main``."""
    asm = Assembler(0x200000 + vcpu * 0x10000)
    asm.label("main").mov("r15", 0).mov("r14", COUNTERS + vcpu * 8)
    asm.label("loop").inc("r15").store("r14", 0, "r15").label("counted").mov("di", "r15").mov("si", 2)
    asm.call("f").label("f_returns").mov("bx", "ax").call("g").call("h").jmp("loop").align(16)
    # f: the location behind ENDBR; g: at the symbol; h: none, a one-byte instruction comes first.
    asm.label("f").endbr().label("f_location").nop5().mov("ax", "di").add("ax", "si").ret().align(16)
    asm.label("g").nop5().mov("cx", "bx").ret().align(16)
    asm.label("h").push("bx").label("h_second").mov("dx", "sp").pop("bx").ret()
    return asm
