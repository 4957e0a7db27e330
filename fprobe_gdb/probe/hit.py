"""A hit as the probe core is told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fprobe_gdb.probe.recursion import Context
from fprobe_gdb.probe.regs import PtRegs

__all__ = ["Hit", "KnownHit"]


class Hit(Protocol):
    """A CPU has reached a probed function's location, or the return address of a call in flight."""

    @property
    def ip(self) -> int:
        """Entry: the location. Exit: the return address."""

    @property
    def ret_ip(self) -> int:
        """Where the function returns to: the word at [sp] at entry, ``ip`` at exit."""

    @property
    def frame(self) -> int:
        """Address of the return slot: sp at entry, sp - 8 at exit."""

    @property
    def task(self) -> int:
        """``struct task_struct *`` of the running task."""

    @property
    def cpu(self) -> int:
        """The CPU."""

    @property
    def regs(self) -> PtRegs:
        """Its registers."""

    @property
    def context(self) -> Context:
        """What it was doing."""

    @property
    def kprobe_running(self) -> bool:
        """The guest's per-CPU ``current_kprobe`` is set."""

    @property
    def time_ns(self) -> int:
        """Guest time."""

    @property
    def calls(self) -> int:
        """How many calls it stands for: one, unless they were lost, and counted where nobody looked."""


@dataclass(slots=True)
class KnownHit:
    """A :class:`Hit` of which everything is known already."""

    ip: int
    ret_ip: int
    frame: int
    task: int
    cpu: int
    regs: PtRegs
    context: Context = Context.NORMAL
    kprobe_running: bool = False
    time_ns: int = 0
    calls: int = 1
