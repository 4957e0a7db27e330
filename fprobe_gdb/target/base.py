"""What executes: the one interface through which the dispatches see a guest.

A target is a guest seen through a debugger: stopped as a whole, or running as a whole. It is implemented by
:mod:`~fprobe_gdb.target.rsp` (the remote protocol, spoken by ourselves), :mod:`~fprobe_gdb.target.gdb` (GDB driven
through pygdbmi) and :mod:`~fprobe_gdb.target.fake` (in memory, for tests). All three pass the same contract tests
(``tests/contract``).

Rules:

1. vCPUs are numbered from 0, as Linux does (the remote protocol's thread id less one).
2. Nothing is said about how many hits one stop stands for: two vCPUs may reach breakpoints at the same moment and only
   one is reported. Who handles a stop looks at the ``ip`` of every vCPU (:meth:`Target.instruction_pointers`).
3. A resumed vCPU whose ``ip`` is at a breakpoint may stop there at once or (gdb) step over it silently. So never
   resume a vCPU that sits on a breakpoint: write its ``ip``, :meth:`Target.step` it, or remove the breakpoint.
4. Breakpoints are invisible: reading memory gives the guest's own bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from emu.deadline import Deadline
from fprobe_gdb.errors import MemoryFault
from fprobe_gdb.registers import Registers

__all__ = ["BreakpointKind", "Stop", "StopKind", "Target", "TargetState"]


class TargetState(Enum):
    """What the guest is doing, as far as its debugger knows."""

    #: All vCPUs stand still; registers and memory can be read and written.
    STOPPED = "stopped"
    #: The vCPUs run; only :meth:`Target.wait`, :meth:`Target.interrupt` and :meth:`Target.close` make sense.
    RUNNING = "running"
    #: The guest, or the way to it, is gone for good.
    LOST = "lost"
    #: We let go of it; it runs on without us.
    DETACHED = "detached"


class BreakpointKind(Enum):
    """How a breakpoint is planted. Under TCG both cost the same and neither touches guest memory."""

    SOFTWARE = "sw"
    HARDWARE = "hw"


class StopKind(Enum):
    """Why the guest stopped."""

    #: A breakpoint (or a finished step) on :attr:`Stop.vcpu`.
    BREAKPOINT = "breakpoint"
    #: Somebody asked for it: :meth:`Target.interrupt`, or QMP ``stop``.
    INTERRUPT = "interrupt"


@dataclass(frozen=True, slots=True)
class Stop:
    """One report of the debugger that the guest has stopped."""

    kind: StopKind
    #: The vCPU that the debugger names. With several vCPUs others may have reached breakpoints too.
    vcpu: int


class Target(Protocol):
    """A guest seen through a debugger. See the rules in the module's docstring.

    Every method may raise :class:`~fprobe_gdb.errors.TargetLost` when QEMU or the debugger has died,
    :class:`~fprobe_gdb.errors.StateError` when the guest is in another state than it needs, and
    :class:`~fprobe_gdb.errors.ProtocolError` or :class:`~fprobe_gdb.errors.TransportTimeout` when the debugger talks
    nonsense or not at all.
    """

    #: What the user calls it: ``"rsp"``, ``"gdb"`` or ``"fake"``.
    name: str

    @property
    def state(self) -> TargetState:
        """What the guest is doing."""
        ...

    @property
    def vcpus(self) -> Sequence[int]:
        """The vCPU numbers, ascending from 0."""
        ...

    def registers(self, vcpu: int) -> Registers:
        """All of :data:`~fprobe_gdb.registers.REGISTERS` of a vCPU of the stopped guest. One exchange."""
        ...

    def instruction_pointers(self) -> list[int]:
        """The ``ip`` of every vCPU of the stopped guest, by vCPU number. One exchange, pipelined."""
        ...

    def write_registers(self, vcpu: int, values: Mapping[str, int]) -> None:
        """Set registers of a vCPU of the stopped guest. May be sent only with the next exchange.

        :param values: names out of ``GENERAL_REGISTERS``, ``ip`` and ``flags``; unsigned 64-bit values.
        """
        ...

    def read_memory(self, addr: int, size_bytes: int, *, vcpu: int = 0) -> bytes:
        """Read guest virtual memory through the page tables of a vCPU of the stopped guest, any length.

        :raise MemoryFault: when any of it is not mapped.
        """
        ...

    def read_many(self, requests: Sequence[tuple[int, int]], *, vcpu: int = 0) -> list[bytes | MemoryFault]:
        """Read several (address, size in bytes) pieces in one pipelined exchange.

        A piece that cannot be read comes back as the fault, not raised.
        """
        ...

    def write_memory(self, addr: int, data: bytes, *, vcpu: int = 0) -> None:
        """Write guest virtual memory, through read-only mappings too.

        :raise MemoryFault: when any of it is not mapped; some of it may have been written.
        """
        ...

    def write_many(self, requests: Sequence[tuple[int, bytes]], *, vcpu: int = 0) -> None:
        """Write several (address, bytes) pieces, pipelined where the debugger can. Code may be among them.

        :raise MemoryFault: when one is not mapped; others may have been written.
        """
        ...

    def read_physical(self, addr: int, size_bytes: int) -> bytes:
        """Read guest physical memory, device registers included, of the stopped guest.

        :raise MemoryFault: where nothing answers.
        """
        ...

    def flush_tlb(self, vcpu: int) -> None:
        """Let a vCPU of the stopped guest forget what it knows of its page tables. With TCG only: KVM does not listen.

        May be sent only with the next exchange.
        """
        ...

    def insert_breakpoint(self, addr: int, kind: BreakpointKind) -> None:
        """Plant a breakpoint for all vCPUs of the stopped guest. Inserting one twice is an error of the caller.

        May be sent only with the next exchange (its refusal then comes there).

        :raise BreakpointRefused: when the stub cannot.
        """
        ...

    def remove_breakpoint(self, addr: int, kind: BreakpointKind) -> None:
        """Remove a breakpoint from the stopped guest. May be sent only with the next exchange."""
        ...

    def resume(self, *, hold: Collection[int] = ()) -> None:
        """Let the stopped guest run.

        :param hold: vCPUs that stay stopped while the others run. A target that cannot hold exactly these holds more,
            but always lets at least one vCPU run.
        """
        ...

    def step(self, vcpu: int, deadline: Deadline) -> None:
        """Run exactly one instruction of one vCPU, breakpoints at its ``ip`` ignored, all other vCPUs held.

        The guest is stopped before and after. Interrupts are not taken during the step where the stub can do that.
        """
        ...

    def wait(self, deadline: Deadline, wake: Sequence[int] = ()) -> Stop | None:
        """Wait until the running guest stops.

        :param wake: file descriptors; when one of them becomes readable, return None with the guest still running.
        :raise WaitTimeout: at the deadline; the guest is still running.
        """
        ...

    def interrupt(self) -> None:
        """Ask the running guest to stop; :meth:`wait` reports it (perhaps as another stop that came first)."""
        ...

    def monitor(self, command: str) -> str:
        """Run a command of QEMU's human monitor on the stopped guest and return its output."""
        ...

    def detach(self) -> None:
        """Remove all breakpoints and let the guest run on without us. The target cannot be used after that."""
        ...

    def close(self) -> None:
        """Free what the target holds (processes, sockets), without a word to the guest. May be called twice."""
        ...
