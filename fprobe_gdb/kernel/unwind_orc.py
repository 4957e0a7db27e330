"""One step of an ORC walk, by the rules of arch/x86/kernel/unwind_orc.c (Linux 6.1 to 6.12)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fprobe_gdb.errors import MemoryFault
from fprobe_gdb.kernel.orc import OrcBase, OrcEntry, OrcType
from fprobe_gdb.kernel.unwind_code import FRAME_POINTER_GUESS, KernelCode
from fprobe_gdb.kernel.unwind_frames import End, Frame, FrameKind
from fprobe_gdb.kernel.unwind_hooks import ReturnSlots
from fprobe_gdb.kernel.unwind_stack import MAX_FALLS, PT_REGS, STACK_BYTES, StackReader, is_user
from fprobe_gdb.registers import MASK64, Registers

__all__ = ["OrcWalk"]

# Registers that may hold the stack pointer for a few instructions, when code realigns or switches the stack.
_REGISTER_BASES = {
    OrcBase.AX: "ax",
    OrcBase.DX: "dx",
    OrcBase.DI: "di",
    OrcBase.R10: "r10",
    OrcBase.R13: "r13",
}


class OrcWalk:
    """Goes from frame to frame. ``ip``, ``sp``, ``bp`` are those of the current one.

    :param registers: at the stop; the first frame is there already.
    """

    def __init__(self, code: KernelCode, stack: StackReader, slots: ReturnSlots, registers: Registers) -> None:
        self._code = code
        self._stack = stack
        self._slots = slots
        self.ip, self.sp, self._bp = registers["ip"], registers["sp"], registers["bp"]
        # The current frame's registers, where they are known: all at the stop, then those of an interrupted frame. If
        # only the part is there that the CPU pushes, the others are those of the frame before, if that had all.
        self._regs: Callable[[str], int] | None = registers.__getitem__
        self._prev_regs: Callable[[str], int] | None = None
        self._full = True
        self._signal = True
        self._reliable = True
        # The address that a trampoline's code was copied from.
        self._origin: int | None = None
        self._falls = 0

    def step(self) -> Frame | End:
        """The caller's frame, or the end. One exchange for each stack."""
        try:
            return self._step()
        except MemoryFault as fault:
            return End(False, f"the stack cannot be read at {fault.addr:#x}")

    def _step(self) -> Frame | End:
        if self._slots.lost:
            return End(False, f"nobody knows where {self._code.symbolize(self.ip)} returns to")
        entry = self._find()
        if entry.type is OrcType.END_OF_STACK:
            return End(True)
        if entry.type is OrcType.UNDEFINED:
            return End(False, f"the kernel has no unwind information for {self._code.symbolize(self.ip)}")
        before = self.sp
        found = self._previous_sp(entry)
        if found is None:
            return End(False, f"{entry.sp_base.name} at {self._code.symbolize(self.ip)} is not known")
        if entry.type is OrcType.CALL:
            self._return(found)
        else:
            self._interrupted(found, full=entry.type is OrcType.REGS)
        self._restore_bp(entry, found)
        self._signal = entry.signal
        return self._checked(entry.type, before)

    def _find(self) -> OrcEntry:
        # A return address is behind its call, where the stack may look otherwise: the call itself counts.
        back = 0 if self._signal else 1
        entry = self._code.orc((self._origin or self.ip) - back)
        if entry is None:
            self._reliable = False
            return FRAME_POINTER_GUESS
        return entry

    # The stack pointer before the call, or where the registers of the interrupted code are.
    def _previous_sp(self, entry: OrcEntry) -> int | None:
        match entry.sp_base:
            case OrcBase.SP:
                return (self.sp + entry.sp_offset) & MASK64
            case OrcBase.BP:
                return (self._bp + entry.sp_offset) & MASK64
            case OrcBase.BP_INDIRECT:
                return self._stack.word(self._bp + entry.sp_offset)
            case OrcBase.SP_INDIRECT:
                # Since 5.13 the offset is added to what was loaded; before, no entry had one.
                return (self._stack.word(self.sp) + entry.sp_offset) & MASK64
            case base if base in _REGISTER_BASES:
                return self._register(_REGISTER_BASES[base])
        return None

    def _register(self, name: str) -> int | None:
        known = self._regs if self._full else self._prev_regs
        return known(name) if known is not None and self._regs is not None else None

    def _return(self, sp: int) -> None:
        slot = (sp - 8) & MASK64
        self.ip = self._slots.true_ip(self._stack.word(slot), slot)
        self.sp = sp
        self._regs = self._prev_regs = None

    def _interrupted(self, addr: int, *, full: bool) -> None:
        regs = partial(self._stack.register, addr if full else (addr - PT_REGS["ip"]) & MASK64)
        sp = regs("sp")
        # Right behind the RET into a hook, which has popped the slot.
        self.ip = self._slots.true_ip(regs("ip"), (sp - 8) & MASK64, interrupted=True)
        self.sp = sp
        if full:
            self._prev_regs = None
        elif self._full:
            self._prev_regs = self._regs
        self._regs, self._full = regs, full

    def _restore_bp(self, entry: OrcEntry, found: int) -> None:
        match entry.bp_base:
            case OrcBase.PREV_SP:
                self._bp = self._stack.word(found + entry.bp_offset)
            case OrcBase.BP:
                self._bp = self._stack.word(self._bp + entry.bp_offset)
            case _:
                self._bp = self._bp if (known := self._register("bp")) is None else known

    # The frame that was reached, if it can be one.
    def _checked(self, type: OrcType, before: int) -> Frame | End:
        if self._regs is not None and is_user(self._regs("cs")):
            return End(True)
        if not self._code.is_code(self.ip):
            return End(False, f"{self.ip:#x} on the stack is not code")
        if self.sp <= before:
            # Only another stack may be below.
            self._falls += 1
            is_same = before // STACK_BYTES == self.sp // STACK_BYTES and type is OrcType.CALL
            if is_same or self._falls > MAX_FALLS:
                return End(False, f"the stack goes the wrong way at {self._code.symbolize(self.ip)}")
        self._origin = self._code.trampoline_origin(self.ip, self._stack.read)
        self._reliable = self._reliable and not self._slots.lost
        return Frame(self.ip, self.sp, self._reliable, self._kind(), self._slots.hooked)

    def _kind(self) -> FrameKind:
        if self._slots.lost:
            return FrameKind.HOOK
        if self._signal:
            return FrameKind.INTERRUPTED
        return FrameKind.CALL if self._origin is None else FrameKind.TRAMPOLINE
