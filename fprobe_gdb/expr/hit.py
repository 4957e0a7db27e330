"""What an expression may ask of a hit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from fprobe_gdb.kernel.values import GuestMemory, Value

__all__ = ["HitScope"]


class HitScope(Protocol):
    """One entry or exit of a probed function, while the guest stands still.

    An attribute is asked for only when an expression needs it, and may be asked for several times: whoever implements
    it reads the guest at the first use and keeps the result. An attribute that cannot be read raises
    :class:`~fprobe_gdb.errors.MemoryFault`; the expression is then not evaluated, and the fault counted.
    """

    @property
    def args(self) -> Mapping[str, Value]:
        """The arguments by name, such as :class:`~fprobe_gdb.kernel.values.Arguments`: nameless ones ``arg1``, ....

        At an exit: from the registers that the call began with, followed through memory as it is now.
        """
        ...

    @property
    def retval(self) -> Value | int | None:
        """What the function returned; None at an entry. A plain number only where the prototype is not known."""
        ...

    @property
    def task(self) -> Value | int:
        """The running task: a ``struct task_struct *``, or its plain address, which is quicker."""
        ...

    @property
    def memory(self) -> GuestMemory:
        """The guest's memory."""
        ...

    @property
    def epoch(self) -> int:
        """The ``epoch`` of :attr:`memory` at the stop that the hit belongs to."""
        ...

    @property
    def regs(self) -> Mapping[str, int]:
        """Raw registers by the names of :data:`~fprobe_gdb.registers.REGISTERS`, unsigned."""
        ...

    @property
    def comm(self) -> str:
        """The running task's name."""
        ...

    @property
    def pid(self) -> int:
        """The running task's thread ID, as the kernel's ``current->pid``."""
        ...

    @property
    def tgid(self) -> int:
        """The running task's process ID, as the kernel's ``current->tgid``."""
        ...

    @property
    def cpu(self) -> int:
        """The CPU's number."""
        ...

    @property
    def caller(self) -> str:
        """Name of the function that the call came from, without an offset; "" where no symbol is there."""
        ...

    @property
    def caller_ip(self) -> int:
        """Return address of the call."""
        ...

    @property
    def duration_ns(self) -> int:
        """Guest time from entry to exit; asked for at exits only."""
        ...

    @property
    def func(self) -> str:
        """Name of the probed function."""
        ...

    @property
    def ip(self) -> int:
        """ftrace location of the probed function."""
        ...
