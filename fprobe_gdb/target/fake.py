"""A guest in memory: deterministic, no process, no clock. For tests, ours and those of probe authors.

It runs machine code (:mod:`~fprobe_gdb.target.fake_cpu`), only inside :meth:`FakeTarget.wait`,
:meth:`FakeTarget.step` and :meth:`FakeTarget.run`. It behaves as QEMU's gdbstub does where that is awkward: a vCPU that
is resumed on a breakpoint stops there again at once, and one stop may stand for several vCPUs.

>>> from fprobe_gdb.target.fake_asm import Assembler
>>> asm = Assembler(0x1000).label("f").nop5().ret()
>>> guest = FakeTarget(vcpus=2)
>>> guest.load(asm.origin, asm.assemble())
>>> guest.set_registers(0, ip=asm.address("f"))
"""

from __future__ import annotations

import heapq
import select
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import count, cycle

from emu.deadline import Deadline
from fprobe_gdb.errors import (
    BreakpointRefused,
    MemoryFault,
    StateError,
    TargetLost,
    UsageError,
    WaitTimeout,
)
from fprobe_gdb.registers import GENERAL_REGISTERS, MASK64, REGISTERS, Registers
from fprobe_gdb.target.base import BreakpointKind, Stop, StopKind, TargetState
from fprobe_gdb.target.fake_cpu import FakeCpu
from fprobe_gdb.target.fake_memory import FakeMemory

__all__ = ["FakeTarget"]

_WRITABLE = frozenset((*GENERAL_REGISTERS, "ip", "flags"))
# How often, in instructions, a running fake looks at the wake descriptors.
_WAKE_EVERY = 256


class FakeTarget:
    """A fake guest, stopped at first, all vCPUs halted until they get an ``ip`` (:meth:`set_registers`).

    :param vcpus: how many.
    :param quantum: instructions that a vCPU runs before the next one's turn.
    :param schedule: whose turn it is, one vCPU number a turn, repeated for ever; round-robin when None.
    :param run_limit: instructions after which one :meth:`wait` gives up as if its deadline had come.
    :param hardware_breakpoints: how many fit; None for no limit.
    """

    name = "fake"

    def __init__(
        self,
        *,
        vcpus: int = 1,
        quantum: int = 1,
        schedule: Iterable[int] | None = None,
        run_limit: int = 20_000,
        hardware_breakpoints: int | None = None,
    ) -> None:
        self.memory = FakeMemory()
        #: Instructions executed so far, by all vCPUs.
        self.instructions = 0
        #: Answers of the monitor by command.
        self.monitor_answers: dict[str, str] = {"info status": "VM status: paused\r\n"}
        #: Instructions that still run before :meth:`interrupt` stops the guest, to let other stops come first.
        self.interrupt_latency = 0
        self._cpus = [FakeCpu(self.memory, _reset_registers()) for _ in range(vcpus)]
        for cpu in self._cpus:
            cpu.halted = True
        turns = list(range(vcpus) if schedule is None else schedule)
        if not turns or any(turn not in range(vcpus) for turn in turns) or quantum < 1:
            raise UsageError(f"a fake guest of {vcpus} vCPUs cannot run the schedule {turns} by {quantum} instructions")
        self._order = cycle([turn for turn in turns for _ in range(quantum)])
        self._order_length = len(turns) * quantum
        self._run_limit = run_limit
        self._hardware_breakpoints = hardware_breakpoints
        self._state = TargetState.STOPPED
        self._lost_why = ""
        self._breakpoints: dict[BreakpointKind, set[int]] = {kind: set() for kind in BreakpointKind}
        self._held: frozenset[int] = frozenset()
        self._stop_requested = False
        self._events: list[tuple[int, int, Callable[[FakeTarget], object]]] = []
        self._event_number = count()

    # What a test does with it.

    def load(self, addr: int, code: bytes, *, physical: int | None = None) -> None:
        """Map memory and put bytes there."""
        self.memory.map(addr, len(code), physical=physical)
        self.memory.write(addr, code)

    def set_registers(self, vcpu: int, **values: int) -> None:
        """Set any registers, system registers too. Setting ``ip`` wakes a halted vCPU."""
        unknown = values.keys() - set(REGISTERS)
        if unknown:
            raise UsageError(f"no registers {', '.join(sorted(unknown))}")
        self._cpu(vcpu).registers.update({name: value & MASK64 for name, value in values.items()})
        if "ip" in values:
            self._cpu(vcpu).halted = False

    def halted(self, vcpu: int) -> bool:
        """Whether a vCPU idles in HLT."""
        return self._cpu(vcpu).halted

    def wake(self, vcpu: int) -> None:
        """End a vCPU's HLT, as an interrupt would."""
        self._cpu(vcpu).halted = False

    def after(self, instructions: int, action: Callable[[FakeTarget], object]) -> None:
        """Do something once so many more instructions have run: change registers, :meth:`lose`, :meth:`stop` ..."""
        heapq.heappush(self._events, (self.instructions + instructions, next(self._event_number), action))

    def interrupt_after(self, instructions: int) -> None:
        """Stop the running guest once so many more instructions have run, as somebody else's ``stop`` would."""
        self.after(instructions, FakeTarget.stop)

    def stop(self) -> None:
        """Stop the running guest before its next instruction."""
        self._stop_requested = True

    def lose(self, why: str = "the fake guest was killed") -> None:
        """Die, as QEMU would."""
        self._state, self._lost_why = TargetState.LOST, why

    def run(self, instructions: int) -> None:
        """Run a detached guest."""
        if self._state is not TargetState.DETACHED:
            raise StateError("running a guest without a debugger", self._state.value, TargetState.DETACHED.value)
        for _ in range(instructions):
            vcpu = self._next_vcpu()
            if vcpu is None:
                return
            self._execute(vcpu)

    @property
    def breakpoints(self) -> frozenset[int]:
        """The addresses of all breakpoints that are planted."""
        return frozenset().union(*self._breakpoints.values())

    # The Target protocol.

    @property
    def state(self) -> TargetState:
        """What the guest is doing."""
        return self._state

    @property
    def vcpus(self) -> Sequence[int]:
        """The vCPU numbers, ascending from 0."""
        return range(len(self._cpus))

    def registers(self, vcpu: int) -> Registers:
        """All registers of a vCPU."""
        self._need(TargetState.STOPPED, "reading registers")
        return dict(self._cpu(vcpu).registers)

    def instruction_pointers(self) -> list[int]:
        """The ``ip`` of every vCPU."""
        self._need(TargetState.STOPPED, "reading registers")
        return [cpu.registers["ip"] for cpu in self._cpus]

    def write_registers(self, vcpu: int, values: Mapping[str, int]) -> None:
        """Set registers of a vCPU."""
        self._need(TargetState.STOPPED, "writing registers")
        for name, value in values.items():
            if name not in _WRITABLE or not 0 <= value <= MASK64:
                raise UsageError(f"cannot set register {name!r} to {value:#x}; names: {', '.join(sorted(_WRITABLE))}")
        self._cpu(vcpu).registers.update(values)

    def read_memory(self, addr: int, size_bytes: int, *, vcpu: int = 0) -> bytes:
        """Read guest virtual memory."""
        self._need(TargetState.STOPPED, "reading memory")
        self._cpu(vcpu)
        _check_range(addr, size_bytes)
        return self.memory.read(addr, size_bytes)

    def read_many(self, requests: Sequence[tuple[int, int]], *, vcpu: int = 0) -> list[bytes | MemoryFault]:
        """Read several pieces."""
        answers: list[bytes | MemoryFault] = []
        for addr, size_bytes in requests:
            try:
                answers.append(self.read_memory(addr, size_bytes, vcpu=vcpu))
            except MemoryFault as fault:
                answers.append(fault)
        self._need(TargetState.STOPPED, "reading memory")
        return answers

    def write_memory(self, addr: int, data: bytes, *, vcpu: int = 0) -> None:
        """Write guest virtual memory."""
        self._need(TargetState.STOPPED, "writing memory")
        self._cpu(vcpu)
        _check_range(addr, len(data))
        self.memory.write(addr, data)

    def write_many(self, requests: Sequence[tuple[int, bytes]], *, vcpu: int = 0) -> None:
        """Write several pieces."""
        for addr, data in requests:
            self.write_memory(addr, data, vcpu=vcpu)

    def read_physical(self, addr: int, size_bytes: int) -> bytes:
        """Read guest physical memory or a device."""
        self._need(TargetState.STOPPED, "reading physical memory")
        _check_range(addr, size_bytes)
        return self.memory.read_physical(addr, size_bytes)

    def flush_tlb(self, vcpu: int) -> None:
        """There is nothing to forget."""
        self._need(TargetState.STOPPED, "flushing")

    def insert_breakpoint(self, addr: int, kind: BreakpointKind) -> None:
        """Plant a breakpoint. A second one at the same place is refused with a :class:`UsageError`."""
        self._need(TargetState.STOPPED, "planting a breakpoint")
        _check_range(addr, 1)
        planted = self._breakpoints[kind]
        if addr in planted:
            raise UsageError(f"there is a {kind.value} breakpoint at {addr:#x} already")
        limit = self._hardware_breakpoints
        if kind is BreakpointKind.HARDWARE and limit is not None and len(planted) >= limit:
            raise BreakpointRefused(addr, f"the fake guest has {limit} hardware breakpoints, all in use")
        planted.add(addr)

    def remove_breakpoint(self, addr: int, kind: BreakpointKind) -> None:
        """Remove a breakpoint. One that is not planted is a :class:`UsageError`."""
        self._need(TargetState.STOPPED, "removing a breakpoint")
        if addr not in self._breakpoints[kind]:
            raise UsageError(f"there is no {kind.value} breakpoint at {addr:#x}")
        self._breakpoints[kind].remove(addr)

    def resume(self, *, hold: Collection[int] = ()) -> None:
        """Let the guest run; it does so in :meth:`wait`."""
        self._need(TargetState.STOPPED, "resuming")
        held = frozenset(hold) & set(self.vcpus)
        self._held = held if len(held) < len(self._cpus) else held - {0}
        self._state = TargetState.RUNNING

    def step(self, vcpu: int, deadline: Deadline) -> None:
        """Run one instruction of one vCPU.

        :raise WaitTimeout: when it is halted.
        """
        self._need(TargetState.STOPPED, "stepping")
        if self._cpu(vcpu).halted:
            raise WaitTimeout(deadline.seconds, f"vCPU {vcpu} to finish one instruction; is it halted?")
        self._execute(vcpu)

    def wait(self, deadline: Deadline, wake: Sequence[int] = ()) -> Stop | None:
        """Run the guest until it stops.

        :raise WaitTimeout: when every vCPU idles, or after ``run_limit`` instructions; it is still running.
        """
        self._need(TargetState.RUNNING, "waiting for a stop")
        latency = self.interrupt_latency
        for executed in range(self._run_limit):
            if self._stop_requested and latency <= 0:
                return self._stopped(StopKind.INTERRUPT, 0)
            latency -= self._stop_requested
            if wake and executed % _WAKE_EVERY == 0 and _readable(wake):
                return None
            vcpu = self._next_vcpu()
            if vcpu is None:
                break
            if any(self._cpus[vcpu].registers["ip"] in planted for planted in self._breakpoints.values()):
                return self._stopped(StopKind.BREAKPOINT, vcpu)
            self._execute(vcpu)
            self._need(TargetState.RUNNING, "running")
        if self._stop_requested:
            return self._stopped(StopKind.INTERRUPT, 0)
        if wake and _readable(wake):
            return None
        raise WaitTimeout(deadline.seconds)

    def interrupt(self) -> None:
        """Stop the running guest, after ``interrupt_latency`` more instructions."""
        self._need(TargetState.RUNNING, "interrupting")
        self._stop_requested = True

    def monitor(self, command: str) -> str:
        """Answer from :attr:`monitor_answers`."""
        self._need(TargetState.STOPPED, "a monitor command")
        return self.monitor_answers.get(command, f"unknown command: '{command}'\r\n")

    def detach(self) -> None:
        """Remove all breakpoints and let go; :meth:`run` runs the guest from now on."""
        if self._state is not TargetState.RUNNING:
            self._need(TargetState.STOPPED, "detaching")
        for planted in self._breakpoints.values():
            planted.clear()
        self._held = frozenset()
        self._state = TargetState.DETACHED

    def close(self) -> None:
        """End it. May be called twice."""
        if self._state is not TargetState.DETACHED:
            self.lose(self._lost_why or "the connection was closed")

    def __enter__(self) -> FakeTarget:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # The machine.

    def _need(self, required: TargetState, what: str) -> None:
        if self._state is TargetState.LOST:
            raise TargetLost(self._lost_why)
        if self._state is not required:
            raise StateError(what, self._state.value, required.value)

    def _cpu(self, vcpu: int) -> FakeCpu:
        if vcpu not in self.vcpus:
            raise UsageError(f"there is no vCPU {vcpu}; the guest has {len(self._cpus)}")
        return self._cpus[vcpu]

    # Whose turn it is; None when everybody idles or is held.
    def _next_vcpu(self) -> int | None:
        for _ in range(self._order_length):
            vcpu = next(self._order)
            if vcpu not in self._held and not self._cpus[vcpu].halted:
                return vcpu
        return None

    def _execute(self, vcpu: int) -> None:
        self._cpus[vcpu].execute_one()
        self.instructions += 1
        while self._events and self._events[0][0] <= self.instructions:
            heapq.heappop(self._events)[2](self)

    def _stopped(self, kind: StopKind, vcpu: int) -> Stop:
        self._state = TargetState.STOPPED
        self._stop_requested = False
        return Stop(kind, vcpu)


def _reset_registers() -> Registers:
    return dict.fromkeys(REGISTERS, 0) | {"flags": 0x2, "cs": 0x10, "ss": 0x18}


def _readable(fds: Sequence[int]) -> bool:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _check_range(addr: int, size_bytes: int) -> None:
    if not 0 <= addr <= MASK64 or size_bytes < 0:
        raise UsageError(f"{addr:#x} with {size_bytes} bytes is no address range")
    if addr + size_bytes > MASK64 + 1:
        raise MemoryFault(addr, size_bytes)
