"""What the targets that reach a guest over a connection have in common: its states, and how it is lost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

from emu.deadline import Deadline
from fprobe_gdb.errors import (
    ConnectionClosed,
    MemoryFault,
    ProtocolError,
    StateError,
    TargetLost,
    TransportTimeout,
    UsageError,
)
from fprobe_gdb.registers import GENERAL_REGISTERS, MASK64, Registers
from fprobe_gdb.target.base import Stop, TargetState

__all__ = ["ConnectedTarget", "check_range"]

_WRITABLE = frozenset((*GENERAL_REGISTERS, "ip", "flags"))
#: How long a running guest may take to stop when we need it stopped ourselves, in seconds.
_STOP_SEC = 10.0
# Of cr3 under page table isolation: the root for user mode is the page behind the kernel's, and has a PCID of its own
# (arch/x86/include/asm/processor-flags.h, X86_CR3_PTI_PCID_USER_BIT; arch/x86/entry/calling.h).
_USER_ROOT = 1 << 12
_USER_PCID = 1 << 11


class ConnectedTarget(ABC):
    """The part of :class:`~fprobe_gdb.target.base.Target` that does not depend on what is at the other end.

    :param peer: what may fail, in words: "its gdbstub".
    """

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._state = TargetState.STOPPED
        self._lost_why = ""
        self._vcpus: tuple[int, ...] = ()
        #: Whether the guest's kernel isolates its page tables. Then memory is seen with the kernel's, also through a
        #: vCPU that is in user mode and has others.
        self.isolated = False
        # What is known since the stop.
        self._registers: dict[int, Registers] = {}

    @property
    def state(self) -> TargetState:
        """What the guest is doing."""
        return self._state

    @property
    def vcpus(self) -> Sequence[int]:
        """The vCPU numbers, ascending from 0."""
        return self._vcpus

    def registers(self, vcpu: int) -> Registers:
        """All registers of a vCPU. One exchange, none when they are known since the stop."""
        self._need_stopped("reading registers")
        self._fetch_registers([self._known(vcpu)])
        return dict(self._registers[vcpu])

    def instruction_pointers(self) -> list[int]:
        """The ``ip`` of every vCPU. One exchange, none when they are known since the stop."""
        self._need_stopped("reading registers")
        self._fetch_registers(self._vcpus)
        return [self._registers[vcpu]["ip"] for vcpu in self._vcpus]

    def read_memory(self, addr: int, size_bytes: int, *, vcpu: int = 0) -> bytes:
        """Read guest virtual memory. One pipelined exchange, whatever the size."""
        (data,) = self.read_many([(addr, size_bytes)], vcpu=vcpu)
        if isinstance(data, MemoryFault):
            raise data
        return data

    @abstractmethod
    def read_many(self, requests: Sequence[tuple[int, int]], *, vcpu: int = 0) -> list[bytes | MemoryFault]:
        """Read several pieces in one pipelined exchange."""

    @abstractmethod
    def wait(self, deadline: Deadline, wake: Sequence[int] = ()) -> Stop | None:
        """Wait until the guest stops."""

    @abstractmethod
    def interrupt(self) -> None:
        """Ask the running guest to stop."""

    @abstractmethod
    def close(self) -> None:
        """Free what the target holds, without a word to the guest. May be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # For the targets.

    # Make the registers of these vCPUs known.
    @abstractmethod
    def _fetch_registers(self, vcpus: Sequence[int]) -> None: ...

    # Why the peer has left, in words.
    @abstractmethod
    def _last_words(self, error: ConnectionClosed) -> str: ...

    def _need(self, required: TargetState, what: str) -> None:
        if self._state is TargetState.LOST:
            raise TargetLost(self._lost_why)
        if self._state is not required:
            raise StateError(what, self._state.value, required.value)

    def _need_stopped(self, what: str) -> None:
        self._need(TargetState.STOPPED, what)

    def _known(self, vcpu: int) -> int:
        if vcpu not in self._vcpus:
            raise UsageError(f"there is no vCPU {vcpu}; the guest has {len(self._vcpus)}")
        return vcpu

    def _need_writable(self, vcpu: int, values: Mapping[str, int]) -> None:
        self._need_stopped("writing registers")
        for name, value in values.items():
            if name not in _WRITABLE or not 0 <= value <= MASK64:
                raise UsageError(f"cannot set register {name!r} to {value:#x}; names: {', '.join(sorted(_WRITABLE))}")
        self._known(vcpu)

    def kernel_root(self, vcpu: int) -> int:
        """``cr3`` of a stopped vCPU; where that is a root for user mode, of page tables that are isolated, the kernel's
        of the same task.
        """
        lent = self._lent_root(vcpu)
        return lent[1] if lent else self.registers(vcpu)["cr3"]

    # The page table root of a vCPU, and the one that it has to be lent to see kernel memory; None where it need not be.
    def _lent_root(self, vcpu: int) -> tuple[int, int] | None:
        root = self.registers(vcpu)["cr3"] if self.isolated else 0
        return (root, root & ~(_USER_ROOT | _USER_PCID)) if root & _USER_ROOT else None

    def _stop_now(self) -> None:
        self.interrupt()
        self.wait(Deadline(_STOP_SEC))

    def _lose(self, why: str) -> None:
        if self._state is not TargetState.LOST:
            self._state, self._lost_why = TargetState.LOST, why

    @contextmanager
    def _lost_on_close(self) -> Iterator[None]:
        try:
            yield
        except ConnectionClosed as error:
            self._lose(self._last_words(error))
            raise TargetLost(self._lost_why) from error
        except TargetLost as error:
            self._lose(error.why)
            raise
        except (ProtocolError, TransportTimeout) as error:
            # What it would say next cannot be trusted to belong to what we ask next.
            self._lose(f"{self._peer} failed ({error})")
            raise


def check_range(addr: int, size_bytes: int) -> None:
    """Whether it is a range of 64-bit addresses.

    :raise UsageError, MemoryFault: when it begins nowhere, or ends beyond the last address.
    """
    if not 0 <= addr <= MASK64 or size_bytes < 0:
        raise UsageError(f"{addr:#x} with {size_bytes} bytes is no address range")
    if addr + size_bytes > MASK64 + 1:
        raise MemoryFault(addr, size_bytes)
