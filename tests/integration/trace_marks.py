"""Cutting the same piece out of two records of one run: what each CPU did between its first and its last mark.

A mark is a call of a function that runs with interrupts off. So nothing else happens on its CPU between our breakpoint
and the guest's tracer behind it, and both see the same calls before and after it. Between CPUs there is no such order,
which is why the piece is cut for each alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TypeVar

#: Called by sched_setaffinity() with the run queue's lock held and interrupts off (kernel/sched/core.c, 6.1 and 6.12),
#: and by nothing else while no task changes its CPUs.
MARK = "__do_set_cpus_allowed"
#: Marks both CPUs, and leaves the shell where it was: the second call runs on CPU 0, the third on CPU 1.
MARK_BOTH_CPUS = "taskset 1 taskset 2 taskset 3 true"

T = TypeVar("T")


def between_marks(
    records: Iterable[T], cpu_of: Callable[[T], int], is_mark: Callable[[T], bool], cpus: int = 2
) -> dict[int, list[T]]:
    """For each CPU its records from the first mark to the last, the marks left out. Both must have marks."""
    by_cpu: dict[int, list[T]] = defaultdict(list)
    for record in records:
        by_cpu[cpu_of(record)].append(record)
    cut = {}
    for cpu in range(cpus):
        marks = [i for i, record in enumerate(by_cpu[cpu]) if is_mark(record)]
        assert len(marks) >= 2, f"CPU {cpu} has {len(marks)} marks"
        cut[cpu] = [record for record in by_cpu[cpu][marks[0] : marks[-1]] if not is_mark(record)]
    return cut
