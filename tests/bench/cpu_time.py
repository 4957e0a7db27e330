"""Processor time of processes, in the scheduler's nanoseconds: a busy machine does not blur it as it does the clock."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["children", "cpu_seconds"]


def cpu_seconds(pids: Iterable[int]) -> float:
    """What these processes, all their threads that live, have had of the processor."""
    total_ns = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            # Linux Documentation/scheduler/sched-stats.rst: the first number is nanoseconds spent on the CPU.
            total_ns += int((task / "schedstat").read_text().split()[0])
    return total_ns / 1e9


def children() -> set[int]:
    """Our child processes."""
    pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {int(pid) for pid in pids}
