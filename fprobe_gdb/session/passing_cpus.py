"""Guest functions that are called on our own behalf, without a probe, on a CPU that comes by a fit place."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from emu.deadline import Deadline
from fprobe_gdb.dispatch.base import RunEnd
from fprobe_gdb.dispatch.breakpoint import BreakpointDispatch
from fprobe_gdb.dispatch.cpu_state import CpuState
from fprobe_gdb.target.base import TargetState

__all__ = ["SLEEPERS", "TICK", "PassingCpus"]

#: Entered at each tick of a CPU, in a hard interrupt, with no lock held (kernel/time/timer.c, 5.10 to 7.3).
TICK = "update_process_times"
#: Entered by tasks that hold no lock and may sleep.
SLEEPERS = tuple(
    f"__x64_sys_{name}"
    for name in (
        "read", "write", "openat", "close", "ioctl", "poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait",
        "futex", "nanosleep", "clock_nanosleep", "wait4", "waitid", "rt_sigaction", "rt_sigprocmask", "brk", "mmap",
        "newfstat", "newfstatat", "statx", "getpid", "personality", "recvmsg", "sendmsg", "recvfrom", "accept4",
    )
)  # fmt: skip


class PassingCpus:
    """Calls functions of one guest, which has no probes yet, or no more.

    :param run: lets the guest run until a deadline, or until something is true.
    :param locate: where a function is planted, 0 when this kernel has none of the name.
    """

    def __init__(
        self,
        dispatch: BreakpointDispatch,
        run: Callable[[Deadline, Callable[[], bool]], RunEnd],
        locate: Callable[[str], int],
    ) -> None:
        self._dispatch = dispatch
        self._run = run
        self._locate = locate
        self._busy = self._done = False

    def call(self, addr: int, args: tuple[int, ...], deadline: Deadline) -> int:
        """Within the work of :meth:`run`: call a guest function, and return its ``ax``.

        :raise GuestCallError: when it does not come back.
        """
        return self._dispatch.call(addr, args, deadline)

    def run(self, names: Iterable[str], work: Callable[[CpuState], bool], deadline: Deadline) -> bool:
        """Let the stopped guest run until a CPU enters one of these functions and some work is done there.

        The guest is stopped afterwards.

        :param work: given the CPU; whether it is done. Until it is, it is asked again at each entry.
        :return: False when it was not at the deadline.
        :raise BaseException: what ``work`` raises.
        """
        sites = {ip for name in names if (ip := self._locate(name))}
        self._busy = self._done = False
        before = self._dispatch.watches
        self._dispatch.watches = lambda: dict.fromkeys(sites, lambda state: self._came_by(state, work))
        try:
            self._run(deadline, lambda: self._done)
        finally:
            self._dispatch.watches = before
            if self._dispatch.target.state is TargetState.STOPPED:
                self._dispatch.sync()
        return self._done

    # A call within the work lets the guest run, so that others come by.
    def _came_by(self, state: CpuState, work: Callable[[CpuState], bool]) -> None:
        if self._busy or self._done:
            return
        self._busy = True
        try:
            self._done = work(state)
        finally:
            self._busy = False
        if self._done:
            self._dispatch.stop()
