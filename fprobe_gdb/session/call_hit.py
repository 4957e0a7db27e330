"""One end of a call that is judged or added up: what expressions ask for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from fprobe_gdb.kernel.values import GuestMemory, Value, arguments, return_value
from fprobe_gdb.registers import Registers
from fprobe_gdb.session.guest import Kernel

__all__ = ["CallHit", "TraceHit"]


class CallHit:
    """All of a :class:`~fprobe_gdb.expr.HitScope` but the task's name and numbers. Nothing is read before it is asked
    for.

    :param entry_regs: the registers that the call began with.
    """

    def __init__(
        self, k: Kernel, memory: GuestMemory, ip: int, func: str, caller_ip: int, entry_regs: Registers
    ) -> None:
        self._k = k
        self._entry_regs = entry_regs
        self.memory = memory
        self.epoch = memory.epoch
        self.ip = ip
        self.func = func
        self.caller_ip = caller_ip
        #: Set at an exit.
        self.duration_ns = 0
        self.exit_regs: Registers | None = None

    @property
    def regs(self) -> Mapping[str, int]:
        """The registers of this end of the call."""
        return self.exit_regs or self._entry_regs

    @cached_property
    def args(self) -> Mapping[str, Value]:
        """The arguments, from the registers that the call began with."""
        proto = self._k.prototype_at(self.ip)
        return {} if proto is None else arguments(self._k.btf_at(self.ip), proto, self._entry_regs, self.memory)

    @cached_property
    def retval(self) -> Value | int | None:
        """The return value; None at an entry."""
        if self.exit_regs is None:
            return None
        proto = self._k.prototype_at(self.ip)
        if proto is None:
            return self.exit_regs["ax"]
        return return_value(self._k.btf_at(self.ip), proto, self.exit_regs, self.memory)

    @property
    def caller(self) -> str:
        """The calling function's name."""
        return self._k.function_name(self.caller_ip)


class TraceHit(CallHit):
    """A :class:`~fprobe_gdb.expr.HitScope` of the hit that is being handled. Valid until the guest resumes."""

    def __init__(self, k: Kernel, ip: int, func: str, caller_ip: int, entry_regs: Registers) -> None:
        super().__init__(k, k.memory, ip, func, caller_ip, entry_regs)
        self.cpu = k.cpu
        self.task = k.task

    @property
    def comm(self) -> str:
        """The task's name."""
        return self._k.current.comm

    @property
    def pid(self) -> int:
        """The thread."""
        return self._k.current.pid

    @property
    def tgid(self) -> int:
        """The process."""
        return self._k.current.tgid
