"""Reads stacks in large pieces, since each read of a guest is an exchange with its debugger."""

from __future__ import annotations

from collections.abc import Callable

from fprobe_gdb.errors import MemoryFault
from fprobe_gdb.registers import MASK64

__all__ = ["MAX_FALLS", "PT_REGS", "PT_REGS_BYTES", "STACK_BYTES", "Read", "StackReader", "is_user"]

#: Reads guest memory: address, size in bytes. Raises :class:`~fprobe_gdb.errors.MemoryFault`.
Read = Callable[[int, int], bytes]

#: Offsets in ``struct pt_regs`` (arch/x86/include/asm/ptrace.h); the CPU itself pushes the part from ``ip`` on.
PT_REGS = {
    name: 8 * index
    for index, name in enumerate(
        ("r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di", "orig_ax",
         "ip", "cs", "flags", "sp", "ss")
    )
}  # fmt: skip
PT_REGS_BYTES = 8 * len(PT_REGS)

_PAGE_BYTES = 4096
#: THREAD_SIZE and IRQ_STACK_SIZE without KASAN; stacks are aligned to their size, so what is in use of one ends here.
STACK_BYTES = 16 << 10
#: A walk comes to lower addresses no more often: task, interrupt, #DB, NMI, #MC, #DF and some entries in between.
MAX_FALLS = 16
_KERNEL_HALF = 1 << 63


def is_user(cs: int) -> bool:
    """``user_mode(regs)``: the privilege level in the selector."""
    return cs & 3 == 3


class StackReader:
    """The words of one stopped guest's stacks. Valid until the guest resumes.

    The first word asked of a stack reads everything from there to the stack's end: what is below is not in use.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._pieces: list[tuple[int, bytes]] = []
        # Ends up to which reading has failed.
        self._missing: set[int] = set()
        #: Exchanges so far, failed ones too.
        self.reads = 0

    def word(self, addr: int) -> int:
        """The u64 at an address of the kernel's half.

        :raise MemoryFault: not mapped, or no kernel address at all.
        """
        addr &= MASK64
        if not _KERNEL_HALF <= addr <= MASK64 - 7:
            raise MemoryFault(addr, 8)
        for start, data in self._pieces:
            if start <= addr and addr + 8 <= start + len(data):
                return int.from_bytes(data[addr - start : addr - start + 8], "little")
        data = self._fill(addr)
        return int.from_bytes(data[:8], "little")

    def register(self, regs_addr: int, name: str) -> int:
        """A register out of a ``struct pt_regs`` on the stack."""
        return self.word(regs_addr + PT_REGS[name])

    def read(self, addr: int, size_bytes: int) -> bytes:
        """Bytes of any kernel memory, not kept.

        :raise MemoryFault: not mapped.
        """
        self.reads += 1
        return self._read(addr, size_bytes)

    # To the stack's end; if that fails, as stacks of exceptions and mapped ones are smaller or not aligned, less.
    def _fill(self, addr: int) -> bytes:
        for alignment in (STACK_BYTES, STACK_BYTES // 2, _PAGE_BYTES):
            end = addr - addr % alignment + alignment
            if end - addr < 8 or end in self._missing:
                continue
            try:
                data = self.read(addr, end - addr)
            except MemoryFault:
                # What is missing is above all that can be read from here on.
                self._missing.add(end)
                continue
            self._pieces.append((addr, data))
            return data
        return self.read(addr, 8)
