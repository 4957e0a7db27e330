"""The way back from a guest function that runs for us: registers are on the guest's stack, and it takes them itself.

A tool may be killed while a vCPU runs a function for it, and what the vCPU did before was known to nobody else. So the
function returns to a ``ret`` where nobody ever comes by: there the call ends for who waits for it, at a breakpoint. If
nobody does, the ``ret`` goes on to the kernel's own end of an interrupt, which takes registers from the stack as
``struct pt_regs`` has them (arch/x86/entry/calling.h, ``POP_REGS``) and leaves by ``iretq``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fprobe_gdb.errors import MemoryFault
from fprobe_gdb.kernel.symbols import SymbolTable
from fprobe_gdb.registers import MASK64

__all__ = ["WayBack", "find_way_back"]

# arch/x86/entry/entry_64.S: pops all registers, skips orig_ax, and what is behind leads to iretq alone.
_RESTORE = "restore_regs_and_return_to_kernel"
_POP_REGS = bytes.fromhex("415f415e415d415c5d5b415b415a4159415858595a5e5f4883c408")
_POPPED = ("r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di")
# The last byte of mov %rax,%rbx is a ret, if one begins there, and nobody does. Near a function that is never called
# while a guest is well, since code on a page with a breakpoint is slow.
_COLD = "panic"
_NEAR_BYTES = 1 << 15
_HIDDEN_RET = bytes.fromhex("4889c3")
# arch/x86/include/asm/segment.h
_KERNEL_CS = 0x10
_KERNEL_DS = 0x18
# The two return addresses, what is popped, orig_ax, ip, cs, flags, sp, ss.
_FRAME = struct.Struct(f"<{2 + len(_POPPED) + 6}Q")


@dataclass(frozen=True, slots=True)
class WayBack:
    """Two places of one kernel."""

    #: A ``ret`` where no vCPU comes by otherwise.
    ret_ip: int
    #: The end of an interrupt.
    restore_ip: int

    def frame(self, registers: Mapping[str, int]) -> tuple[int, bytes]:
        """What has to be on the stack of a vCPU that had these registers, in kernel mode, and is to call a function.

        :return: the stack pointer that the function begins with, and what is there. It ends 8 bytes above.
        """
        sp = (registers["sp"] - _FRAME.size) & MASK64
        popped = (registers[name] for name in _POPPED)
        behind = (0, registers["ip"], _KERNEL_CS, registers["flags"], registers["sp"], _KERNEL_DS)
        return sp, _FRAME.pack(self.ret_ip, self.restore_ip, *popped, *behind)


def find_way_back(symbols: SymbolTable, read: Callable[[int, int], bytes]) -> WayBack | None:
    """Find it in a kernel; None in one that is different.

    :param symbols: at the guest's addresses.
    :param read: reads kernel memory.
    """
    restore, cold = symbols.addresses(_RESTORE), symbols.addresses(_COLD)
    if not restore or not cold:
        return None
    try:
        if read(restore[0], len(_POP_REGS)) != _POP_REGS:
            return None
        at = read(cold[0], _NEAR_BYTES).find(_HIDDEN_RET)
    except MemoryFault:
        return None
    return WayBack(cold[0] + at + len(_HIDDEN_RET) - 1, restore[0]) if at >= 0 else None
