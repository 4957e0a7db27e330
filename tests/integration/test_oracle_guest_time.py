"""Guest time against the guest's own clocks: what handlers cost on the host is no time in the guest."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import pytest

from fprobe_gdb import Kernel
from tests.integration.call_recorder import CallRecorder, Seen
from tests.integration.guest_tracer import GROUP, Record, run, tracing

pytestmark = pytest.mark.qemu

FUNCTION = "vfs_fallocate"
CALLS = 10
WORKLOAD = f"workload args {CALLS}"
PAUSE_SEC = 0.05
PAUSE_NS = int(PAUSE_SEC * 1e9)
#: The resolution of /proc/uptime.
UPTIME_NS = 10_000_000
#: 6.1 runs on the HPET here, 6.12 on the TSC.
KERNELS = ["6.1", "6.12"]


def guest_of(guest: Callable[..., Kernel], name: str) -> Kernel:
    return guest(kernel=name, backend="rsp", smp=2, breakpoint="sw")


def durations_ns(seen: list[Seen]) -> list[int]:
    """Of calls that neither nest nor overlap."""
    assert [s.is_exit for s in seen] == [False, True] * (len(seen) // 2)
    return [leave.time_ns - enter.time_ns for enter, leave in zip(seen[::2], seen[1::2], strict=True)]


@pytest.mark.parametrize("name", KERNELS)
def test_durations_do_not_grow_with_the_cost_of_handlers(guest: Callable[..., Kernel], name: str) -> None:
    """Ten calls whose entry handler takes 50 ms of the host's time last as long as ten where it takes none."""
    k = guest_of(guest, name)
    found = {}
    host_sec = {}
    for pause_sec in (0.0, PAUSE_SEC):
        recorder = CallRecorder(k, [FUNCTION], pause=lambda: time.sleep(pause_sec))  # noqa: B023
        started = time.monotonic()
        run(k, WORKLOAD)
        host_sec[pause_sec] = time.monotonic() - started
        found[pause_sec] = durations_ns(recorder.stop())
    fast, slow = found.values()
    assert len(fast) == len(slow) == CALLS
    assert min(fast + slow) > 0
    assert host_sec[PAUSE_SEC] > CALLS * PAUSE_SEC
    assert median(slow) < median(fast) * 3 + PAUSE_NS / 10
    assert sum(slow) < sum(fast) + CALLS * PAUSE_NS / 2


@pytest.mark.parametrize("name", KERNELS)
def test_durations_are_those_of_the_guests_own_trace(guest: Callable[..., Kernel], name: str) -> None:
    """Each call's duration by our clock and by the guest's (CLOCK_MONOTONIC), in one run, with slow handlers."""
    k = guest_of(guest, name)
    events = [f"r100:{GROUP}/x_{FUNCTION} {FUNCTION}"]
    with tracing(k, functions=[FUNCTION], events=events, clock="mono") as tracer:
        recorder = CallRecorder(k, [FUNCTION], pause=lambda: time.sleep(PAUSE_SEC))
        run(k, WORKLOAD)
        seen = recorder.stop()
        records = tracer.stop()
    ours = durations_ns(seen)
    theirs = guest_durations_ns(records)
    assert len(ours) == len(theirs) == CALLS
    # The guest's tracer is entered behind our entry and left before our exit, so ours are the longer ones, but for the
    # microsecond that its text is cut off at, twice.
    slack_ns = 2000
    assert all(mine >= its - slack_ns for mine, its in zip(ours, theirs, strict=True))
    # What lies in between is guest code (retranslated after each stop), but no handler.
    assert median(mine - its for mine, its in zip(ours, theirs, strict=True)) < PAUSE_NS / 2
    # From the first entry to the last: ten handlers lie in between; a clock of another rate would show, too.
    enters = [s.time_ns for s in seen if not s.is_exit]
    their_enters = [r.time_ns for r in records if r.is_call]
    mine, its = enters[-1] - enters[0], their_enters[-1] - their_enters[0]
    assert abs(mine - its) < PAUSE_NS / 2 + mine / 50


def guest_durations_ns(records: list[Record]) -> list[int]:
    assert [r.is_call for r in records] == [True, False] * (len(records) // 2)
    return [leave.time_ns - enter.time_ns for enter, leave in zip(records[::2], records[1::2], strict=True)]


@pytest.mark.parametrize("name", KERNELS)
def test_uptime_advances_as_time_ns_does(guest: Callable[..., Kernel], name: str) -> None:
    """``/proc/uptime`` before and after half a second of handlers: the difference lies between what time_ns allows."""
    k = guest_of(guest, name)
    # Each reading of the guest's lies between two of ours.
    first = (k.time_ns, uptime_ns(k), k.time_ns)
    recorder = CallRecorder(k, [FUNCTION], pause=lambda: time.sleep(PAUSE_SEC))
    started_ns = time.monotonic_ns()
    run(k, WORKLOAD)
    assert len(durations_ns(recorder.stop())) == CALLS
    host_ns = time.monotonic_ns() - started_ns
    last = (k.time_ns, uptime_ns(k), k.time_ns)
    elapsed_ns = last[1] - first[1]
    assert last[0] - first[2] - UPTIME_NS <= elapsed_ns <= last[2] - first[0] + UPTIME_NS
    assert 0 < last[0] - first[2] < host_ns - CALLS * PAUSE_NS


def uptime_ns(k: Kernel) -> int:
    """The guest's own word for how long it has been running."""
    sec, _, hundredths = run(k, "cat /proc/uptime").split()[0].partition(".")
    return int(sec) * 1_000_000_000 + int(hundredths) * UPTIME_NS
