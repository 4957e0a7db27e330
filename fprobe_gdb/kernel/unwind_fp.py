"""One step of a walk along frame pointers, for kernels without ORC (CONFIG_UNWINDER_FRAME_POINTER).

As arch/x86/kernel/unwind_frame.c does: each frame has the caller's ``rbp`` and the return address above it. Entry code
leaves no such frame but sets ``rbp`` to the address of its ``struct pt_regs`` plus 1 (ENCODE_FRAME_POINTER), and system
calls begin with ``rbp`` 0. The kernel loses the caller of a function that has not set up its frame yet; since that is
where probes are, the function's first instructions are looked at here.
"""

from __future__ import annotations

from fprobe_gdb.errors import MemoryFault
from fprobe_gdb.kernel.unwind_code import KernelCode
from fprobe_gdb.kernel.unwind_frames import End, Frame, FrameKind
from fprobe_gdb.kernel.unwind_hooks import ReturnSlots
from fprobe_gdb.kernel.unwind_stack import MAX_FALLS, STACK_BYTES, StackReader, is_user
from fprobe_gdb.registers import MASK64, Registers

__all__ = ["FramePointerWalk"]


class FramePointerWalk:
    """Goes from frame to frame.

    :param registers: at the stop; the first frame is there already.
    """

    def __init__(self, code: KernelCode, stack: StackReader, slots: ReturnSlots, registers: Registers) -> None:
        self._code = code
        self._stack = stack
        self._slots = slots
        self._ip, self._sp, self._bp = registers["ip"], registers["sp"], registers["bp"]
        # Whether ip is that of a stopped or interrupted instruction, which may come before its function's frame.
        self._exact = True
        self._falls = 0

    def step(self) -> Frame | End:
        """The caller's frame, or the end. One exchange for each stack."""
        try:
            return self._step()
        except MemoryFault as fault:
            return End(False, f"the stack cannot be read at {fault.addr:#x}")

    def _step(self) -> Frame | End:
        if self._slots.lost:
            return End(False, f"nobody knows where {self._code.symbolize(self._ip)} returns to")
        pushed = self._code.pushed_words(self._ip) if self._exact else None
        if pushed is not None:
            return self._call(self._sp + 8 * pushed, self._bp)
        if self._bp == 0:
            return End(True)
        if self._bp & 1:
            return self._interrupted(self._bp - 1)
        if self._bp < self._sp and not self._may_fall(self._bp, self._sp):
            return End(False, f"the frame pointer {self._bp:#x} is below the stack at {self._code.symbolize(self._ip)}")
        return self._call(self._bp + 8, self._stack.word(self._bp))

    def _call(self, slot: int, bp: int) -> Frame | End:
        self._ip = self._slots.true_ip(self._stack.word(slot), slot)
        self._sp, self._bp, self._exact = (slot + 8) & MASK64, bp, False
        return self._frame(FrameKind.CALL)

    def _interrupted(self, regs: int) -> Frame | End:
        ip, sp, bp, cs = (self._stack.register(regs, name) for name in ("ip", "sp", "bp", "cs"))
        # A kernel thread's last frame has registers without a meaning (copy_thread()).
        if is_user(cs) or not ip:
            return End(True)
        if sp <= self._sp and not self._may_fall(sp, self._sp, interrupted=True):
            return End(False, f"the stack goes the wrong way at {self._code.symbolize(self._ip)}")
        self._ip, self._sp, self._bp, self._exact = self._slots.true_ip(ip, sp - 8, interrupted=True), sp, bp, True
        return self._frame(FrameKind.INTERRUPTED)

    # Only another stack may be below; an exception's may be close by.
    def _may_fall(self, to: int, since: int, *, interrupted: bool = False) -> bool:
        self._falls += 1
        return self._falls <= MAX_FALLS and (interrupted or to // STACK_BYTES != since // STACK_BYTES)

    def _frame(self, kind: FrameKind) -> Frame | End:
        if not self._code.is_code(self._ip):
            return End(False, f"{self._ip:#x} on the stack is not code")
        kind = FrameKind.HOOK if self._slots.lost else kind
        return Frame(self._ip, self._sp, not self._slots.lost, kind, self._slots.hooked)
