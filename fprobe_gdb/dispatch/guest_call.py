"""A guest function that a handler calls: borrow the stopped vCPU's context, run the function, give everything back."""

from __future__ import annotations

from dataclasses import dataclass, field

from fprobe_gdb.dispatch.cpu_state import CpuState
from fprobe_gdb.dispatch.way_back import WayBack
from fprobe_gdb.errors import GuestCallError
from fprobe_gdb.registers import ARGUMENT_REGISTERS, GENERAL_REGISTERS, MASK64, Registers
from fprobe_gdb.target.base import Target

__all__ = ["GuestCall"]

_SAVED = (*GENERAL_REGISTERS, "ip", "flags")


@dataclass(slots=True, eq=False)
class GuestCall:
    """One call in progress.

    The function returns to ``landing``: the ``ret`` of its way back (:mod:`.way_back`), or, where a kernel has none,
    the address at which its caller was stopped. Others may run through that address: what tells the end of this call is
    the task and the stack pointer.
    """

    task: int
    #: Stack pointer when the function has returned.
    sp: int
    landing: int
    saved: Registers
    #: Where the call has ended; a function that sleeps may come back on another vCPU.
    finished_on: int | None = None
    result: int = field(default=0)

    @classmethod
    def begin(
        cls,
        target: Target,
        caller: CpuState,
        landing: int,
        addr: int,
        args: tuple[int, ...],
        way_back: WayBack | None = None,
    ) -> GuestCall:
        """Set a stopped vCPU up to run ``addr(*args)`` when it resumes.

        :param landing: where its caller was stopped.
        :param way_back: with it the vCPU does what it did before also if nobody waits for the end of the call.
        :raise GuestCallError: for more than six arguments.
        :raise MemoryFault: when the stack below cannot be written.
        """
        if len(args) > len(ARGUMENT_REGISTERS):
            raise GuestCallError(f"a guest call takes at most {len(ARGUMENT_REGISTERS)} arguments, not {len(args)}")
        # The kernel is built without a red zone and with 8-byte stack alignment (arch/x86/Makefile), so what is below
        # the stack pointer is free, and any word will do.
        if way_back is not None:
            landing = way_back.ret_ip
            sp, frame = way_back.frame(caller.registers)
        else:
            sp, frame = (caller.sp - 8) & MASK64, landing.to_bytes(8, "little")
        call = cls(caller.task, (sp + 8) & MASK64, landing, {name: caller.registers[name] for name in _SAVED})
        target.write_memory(sp, frame, vcpu=caller.vcpu)
        values = dict(zip(ARGUMENT_REGISTERS, (arg & MASK64 for arg in args), strict=False))
        target.write_registers(caller.vcpu, values | {"sp": sp, "ip": addr, "ax": 0})
        return call

    def ends_at(self, state: CpuState) -> bool:
        """Whether a stopped vCPU stands at the end of this call."""
        return self.finished_on is None and (state.ip, state.sp, state.task) == (self.landing, self.sp, self.task)

    def finish(self, state: CpuState) -> None:
        """Note the end of the call."""
        self.finished_on = state.vcpu
        self.result = state.registers["ax"]

    def restore(self, target: Target) -> None:
        """Give the vCPU on which the call has ended its registers back."""
        assert self.finished_on is not None
        target.write_registers(self.finished_on, self.saved)
