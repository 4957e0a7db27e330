"""Soak: millions of calls on two CPUs that have other work as well, some recorded, some handled; all of them add up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fprobe_gdb import Fprobe, Kernel
from images.workload_counts import counts
from tests.integration.guest_tracer import run

pytestmark = pytest.mark.qemu

THREADS = 4
FORKS = "i=0; while [ $i -lt {} ]; do /bin/busybox true; i=$((i+1)); done"
LIMIT_SEC = 3000.0


@pytest.mark.parametrize(
    ("recorded", "handled"), [(1_000_000, 4_000), pytest.param(10_000_000, 100_000, marks=pytest.mark.slow)]
)
def test_all_calls_add_up(guest: Callable[..., Kernel], recorded: int, handled: int) -> None:
    """By the workload's own count, while programs start and end, and all that has to do with the scheduler is recorded
    as well. Fewer nodes than threads: calls are missed."""
    k = guest(kernel="6.1", smp=2, dispatch="trampoline")
    commands = ("threads", str(THREADS), str(recorded // THREADS)), ("nested", str(handled))
    (calls, _), (asked, *_) = map(counts, commands)
    fp = Fprobe(lambda *_: None, lambda *_: None, nr_maxactive=THREADS)
    k.register_fprobe(fp, asked.function)
    beside = [location.ip for location in k.records.records if "sched" in location.name]
    functions = [k.records.ftrace_location(k.address(calls.function))]
    counted = k.record(functions, lambda batch: None, nr_maxactive=THREADS - 2, ordered=False)
    noise = k.record(beside, lambda batch: None, ordered=False)
    work = [f"workload {' '.join(command)} &" for command in commands]
    run(k, f"{' '.join(work)} {FORKS.format(recorded // 20_000)}; wait", timeout_sec=LIMIT_SEC)
    for probe in (counted, noise):
        k.stop_recording(probe)
    k.unregister_fprobe(fp)
    run(k, "true")
    assert counted.hits + counted.nmissed + counted.lost == calls.entries == recorded
    assert counted.exits + counted.lost_exits == counted.hits > 0
    assert fp.hits + fp.nmissed + fp.lost == asked.entries == handled
    assert (fp.exits, fp.exits_missed) == (fp.hits, 0)
    assert noise.hits > 1000
    assert sum(noise.losses.values()) == noise.lost
