"""What a dispatch is to the rest: it runs the guest, and feeds the hits of its probes to the probe core."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import Protocol

from emu.deadline import Deadline
from fprobe_gdb.dispatch.clock import GuestClock
from fprobe_gdb.dispatch.cpu_state import CpuState
from fprobe_gdb.target.base import Target

__all__ = ["Dispatch", "RunEnd", "stop_guest"]

# How long a running guest may take to stop when asked: on a loaded host a vCPU thread may have to be scheduled first.
_STOP_SEC = 30.0


class RunEnd(Enum):
    """Why :meth:`Dispatch.run` came back."""

    DONE = "done"
    TIMEOUT = "timeout"


class Dispatch(Protocol):
    """See :mod:`~fprobe_gdb.dispatch.breakpoint` and :mod:`~fprobe_gdb.dispatch.trampoline`."""

    #: What users call it.
    name: str
    clock: GuestClock
    #: Host time that went into hits, in nanoseconds.
    stopped_ns: int
    #: A number that changes whenever the guest may have changed under a handler's feet.
    epoch: int
    #: Location of ``do_task_dead``, watched while calls are in flight; None when there is none, and calls of tasks that
    #: die then keep their nodes. To be set while no call is in flight.
    task_dead_ip: int | None
    #: Locations of guest functions that somebody else listens to, asked for whenever what is planted is brought up to
    #: date, and what is called when one is entered: behind the handlers of fprobes there. It may register and change
    #: fprobes; what it raises is treated as what a handler raises.
    watches: Callable[[], Mapping[int, Callable[[CpuState], None]]]

    def run(self, deadline: Deadline, done: Callable[[], bool], wake: Sequence[int] = ()) -> RunEnd:
        """Let the stopped guest run, with probes, until ``done()``; it is stopped again afterwards.

        :param done: asked now and then, and whenever one of the ``wake`` file descriptors is readable.
        :raise BaseException: the first exception that a handler raised; its fprobes are unregistered by then.
        """
        ...

    def stop(self) -> None:
        """From a handler: end :meth:`run` behind this hit; another one of the same moment waits for the next run."""
        ...

    def admit(self, ips: Collection[int], planted: Collection[int] = ()) -> None:
        """Check that these locations can be planted, before the core takes them.

        :param planted: all that the core has already.
        :raise PlantRefused: when one cannot.
        """
        ...

    def withdraw(self) -> None:
        """Take everything out of the stopped guest again, so that it can run on without us."""
        ...

    def close(self) -> None:
        """Free what the host holds, without a word to the guest. May be called twice."""
        ...

    @property
    def current(self) -> CpuState:
        """The vCPU of the hit that is being handled.

        :raise StateError: outside handlers.
        """
        ...

    @property
    def in_handler(self) -> bool:
        """Whether a handler is running."""
        ...

    def now_ns(self) -> int:
        """Guest time of the hit that is being handled, or of the stopped guest outside handlers."""
        ...

    def waited_ns(self, task: int) -> int:
        """Guest time that a task has spent waiting for handlers, as far as it went on meanwhile."""
        ...

    def call(self, addr: int, args: tuple[int, ...], deadline: Deadline) -> int:
        """Run a guest function on the vCPU of the hit that is being handled, and return its ``ax``.

        :raise GuestCallError: outside handlers, or when it has not come back at the deadline.
        """
        ...

    def read_memory(self, addr: int, size_bytes: int) -> bytes:
        """Read guest virtual memory, as the vCPU of the hit that is being handled sees it.

        :raise MemoryFault: when any of it is not mapped.
        """
        ...

    def write_memory(self, addr: int, data: bytes) -> None:
        """Write guest virtual memory, in the same view.

        :raise MemoryFault: when any of it is not mapped.
        """
        ...

    def recover_return(self, slot_addr: int, value: int) -> int | None:
        """What a return slot held before this dispatch put ``value`` there; None when it did not."""
        ...


def stop_guest(target: Target) -> None:
    """Stop a running guest. It may stop for something else just before.

    :raise WaitTimeout: when it does not.
    :raise TargetLost: when it is gone.
    """
    target.interrupt()
    target.wait(Deadline(_STOP_SEC))
