"""The x86_64 registers by the names that struct pt_regs gives them (arch/x86/include/asm/ptrace.h).

Every layer of this project uses these names; only the targets know what gdb or the remote protocol call them.
"""

from __future__ import annotations

__all__ = [
    "ARGUMENT_REGISTERS",
    "GENERAL_REGISTERS",
    "MASK64",
    "PRESERVED_REGISTERS",
    "REGISTERS",
    "SYSTEM_REGISTERS",
    "Registers",
]

#: A vCPU's registers: name to unsigned value.
Registers = dict[str, int]

#: The sixteen general registers, 64 bits each.
GENERAL_REGISTERS = (
    "ax", "bx", "cx", "dx", "si", "di", "bp", "sp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip

#: Registers beside the general ones: ``ip``, ``flags``, segment selectors, segment bases, page table root.
SYSTEM_REGISTERS = ("ip", "flags", "cs", "ss", "fs_base", "gs_base", "cr3")

#: All names that :data:`Registers` has.
REGISTERS = GENERAL_REGISTERS + SYSTEM_REGISTERS

#: Where the System V ABI passes integer arguments one to six.
ARGUMENT_REGISTERS = ("di", "si", "dx", "cx", "r8", "r9")

#: What a function preserves for its caller, ``sp`` aside (System V ABI).
PRESERVED_REGISTERS = ("bx", "bp", "r12", "r13", "r14", "r15")

MASK64 = (1 << 64) - 1
