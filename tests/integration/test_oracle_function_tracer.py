"""Debian's 6.1 kernel, which has no fprobe: our probes against its function tracer and its kretprobes.

Both watch the same run at the same time: our breakpoint is at the very instruction that the guest's tracer has made a
call of. What both must agree on: which function, in which task, on which CPU, in which order, and what it returned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from fprobe_gdb import Kernel
from images.workload_counts import Count, counts
from tests.integration.call_recorder import CallRecorder, Seen
from tests.integration.guest_tracer import GROUP, Record, run, tracing
from tests.integration.trace_marks import MARK, MARK_BOTH_CPUS, between_marks

pytestmark = pytest.mark.qemu

WAY = {"kernel": "6.1", "backend": "rsp", "smp": 2, "breakpoint": "sw"}
MASK64 = (1 << 64) - 1

#: Called by tasks alone.
IN_TASKS = ("vfs_read", "vfs_write", "pipe_write", "kernel_clone", "ksys_write")
#: Called in soft and hard interrupts too, also in one that interrupts the other. Not the busiest ones: a guest that
#: stops at every tick, or whenever a task is woken, does hardly anything in between; and QEMU 7.2 with a thread a CPU
#: now and then goes on to execute the INT3 with which the guest has patched a function as hot as schedule().
IN_INTERRUPTS = ("__wake_up", "__queue_work", "sched_ttwu_pending")
RETURNING = ("vfs_read", "vfs_write", "vfs_readv", "vfs_fallocate", "kernel_clone", "kernel_waitid")


def test_busy_functions_with_interrupts_in_between(guest: Callable[..., Kernel]) -> None:
    """Every call of six busy functions on two CPUs: the same number in each task, and in tasks the same order."""
    k = guest(**WAY)
    with tracing(k, functions=[*IN_TASKS, *IN_INTERRUPTS, MARK]) as tracer:
        recorder = CallRecorder(k, [*IN_TASKS, *IN_INTERRUPTS, MARK], exits=False)
        # The pause is for work that the kernel queues once a second, rounded up to a whole one (mm/vmstat.c).
        run(k, f"{MARK_BOTH_CPUS}; workload pipe 15 & workload fork 3; wait; usleep 2500000; {MARK_BOTH_CPUS}")
        seen = recorder.stop()
        records = tracer.stop()
    assert recorder.missed == 0
    ours = between_marks(seen, lambda s: s.cpu, lambda s: s.function == MARK)
    theirs = between_marks(records, lambda r: r.cpu, lambda r: r.name == MARK)
    for cpu in ours:
        found = Counter((s.function, s.pid) for s in ours[cpu])
        assert found == Counter((r.name, r.pid) for r in theirs[cpu])
        assert [(s.function, s.pid) for s in ours[cpu] if s.function in IN_TASKS] == [
            (r.name, r.pid) for r in theirs[cpu] if r.name in IN_TASKS
        ]
    # None of this came about because nothing happened.
    total = Counter(s.function for calls in ours.values() for s in calls)
    assert set(total) == {*IN_TASKS, *IN_INTERRUPTS}
    assert min(total["vfs_write"], total["pipe_write"]) >= 30
    assert total["kernel_clone"] >= 5
    contexts = {r.context for calls in theirs.values() for r in calls}
    assert contexts >= {".", "s"}
    assert contexts & {"h", "H"}


def test_returns_and_their_values(guest: Callable[..., Kernel]) -> None:
    """Entries by the function tracer, returns and values by kretprobes: on each CPU the same sequence as ours."""
    k = guest(**WAY)
    events = [f"r100:{GROUP}/x_{f} {f} ret=$retval:s64" for f in RETURNING]
    with tracing(k, functions=[*RETURNING, MARK], events=events) as tracer:
        recorder = CallRecorder(k, RETURNING)
        marks = CallRecorder(k, [MARK], exits=False)
        marks.seen = recorder.seen
        run(
            k,
            f"{MARK_BOTH_CPUS}; workload interleave 5 & workload pipe 8 & workload args 6; wait; workload fork 2; "
            f"workload killed 2; {MARK_BOTH_CPUS}",
        )
        seen = recorder.stop()
        marks.stop()
        records = tracer.stop()
        assert tracer.kprobe_misses() == {f"x_{function}": 0 for function in RETURNING}
    assert recorder.missed == 0
    ours = between_marks(seen, lambda s: s.cpu, lambda s: s.function == MARK)
    theirs = between_marks(records, lambda r: r.cpu, lambda r: r.name == MARK)
    for cpu in ours:
        assert [_our_step(s) for s in ours[cpu]] == [_their_step(r) for r in theirs[cpu]]
    exits = Counter(s.function for calls in ours.values() for s in calls if s.is_exit)
    values = {_s32(s.values[0]) for calls in ours.values() for s in calls if s.is_exit}
    assert set(exits) == set(RETURNING)
    assert (exits["vfs_readv"], exits["vfs_fallocate"]) == (2 * 5 + 2 * 8 + 2, 6)
    assert {1, 0, -95, -512} <= values


def _our_step(seen: Seen) -> tuple[str, int, int | None]:
    return (seen.function, seen.pid, seen.values[0] if seen.is_exit else None)


def _their_step(record: Record) -> tuple[str, int, int | None]:
    if record.is_call:
        return (record.name, record.pid, None)
    return (record.name.removeprefix("x_"), record.pid, record.fields["ret"] & MASK64)


@pytest.mark.parametrize(
    "command",
    [("nested", "3"), ("recursive", "4", "3"), ("threads", "4", "5"), ("fork", "5"), ("exit_in", "4")],
    ids=" ".join,
)
def test_one_after_the_other(guest: Callable[..., Kernel], command: tuple[str, ...]) -> None:
    """The same workload twice, under the guest's tracers alone and under ours alone: the same counts and values."""
    k = guest(**WAY)
    functions = sorted(count.function for count in counts(command))
    events = [f"r100:{GROUP}/x_{f} {f} ret=$retval:s32" for f in functions]
    with tracing(k, functions=functions, events=events) as tracer:
        run(k, "workload " + " ".join(command))
        records = tracer.stop()
        assert set(tracer.kprobe_misses().values()) == {0}
    recorder = CallRecorder(k, functions)
    run(k, "workload " + " ".join(command))
    seen = recorder.stop()
    assert recorder.missed == 0
    for count in counts(command):
        theirs = Counter(r.fields.get("ret") for r in records if r.name.removeprefix("x_") == count.function)
        ours = Counter(_s32(s.values[0]) if s.is_exit else None for s in seen if s.function == count.function)
        _same_values(count, ours, theirs)


def _same_values(count: Count, ours: Counter[int | None], theirs: Counter[int | None]) -> None:
    assert (ours[None], ours.total() - ours[None]) == (count.entries, count.exits)
    if count.retval is None:
        # Process ids, which are others in the second run.
        assert (ours[None], ours.total()) == (theirs[None], theirs.total())
    else:
        assert ours == theirs


def _s32(value: int) -> int:
    return (value & 0xFFFFFFFF) - ((value & 0x80000000) << 1)
