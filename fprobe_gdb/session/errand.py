"""Work that needs a task of the guest: it is done in a system call that the guest's shell makes for us; in a guest of
others, in one that any of its tasks makes.

There a function may be called that sleeps, or takes a mutex (:meth:`~fprobe_gdb.session.guest.Kernel.call`): nothing is
locked, interrupts are on, and the task is nobody else's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from emu.machine import Machine
from fprobe_gdb.errors import GuestCallError
from fprobe_gdb.probe.fprobe import FPROBE_FL_ANY_FUNCTION, Fprobe
from fprobe_gdb.session.passing_cpus import SLEEPERS

if TYPE_CHECKING:
    from fprobe_gdb.session.guest import Kernel

__all__ = ["GATE", "run_errand"]

#: The last system call before a command begins: the agent's ``setsid`` (``images/init``, ``execute``). Its function has
#: an address of its own in every x86_64 kernel since 4.17 (arch/x86/entry/syscall_64.c).
GATE = "__x64_sys_setsid"

T = TypeVar("T")


def run_errand(k: Kernel, body: Callable[[], T], *, timeout_sec: float = 60.0) -> T:
    """Do something in a handler, in a task of the guest. The guest is stopped before and after; probes fire meanwhile.

    :param body: called once.
    :return: what it returns.
    :raise GuestCallError: where the kernel has no such system call, or it is not made in time.
    :raise AgentError: when the guest's shell cannot be asked now: another command runs.
    :raise BaseException: what ``body`` raises.
    """
    results: list[T] = []
    begun = False

    def on_entry(*_args: object) -> None:
        nonlocal begun
        # Other tasks may pass here as well, also while it is done: the guest runs for that.
        if not begun:
            begun = True
            results.append(body())

    ours = isinstance(k.machine, Machine)
    gates = [name for name in ((GATE,) if ours else SLEEPERS) if k.records.addresses(name)]
    fp = Fprobe(on_entry, flags=FPROBE_FL_ANY_FUNCTION, name="errand")
    k.register_fprobe_syms(fp, gates)
    try:
        if ours:
            k.shell(":", timeout_sec=timeout_sec)
        else:
            k.run(timeout_sec=timeout_sec, until=lambda: bool(results))
    finally:
        if fp in k.fprobes:
            k.unregister_fprobe(fp)
    if not results:
        where = GATE if ours else "a system call"
        raise GuestCallError(f"no task of the guest came to {where}, where a function was to be called")
    return results[0]
