"""Filters and sums of ``fprobe-gdb trace`` over a workload whose calls are known one by one.

``workload args N``: call i has mode 3 and returns 0 for even i, mode 0x100 and -EOPNOTSUPP for odd i; its offset is
4096 i, its length 8192 + i.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fprobe_gdb import Kernel
from fprobe_gdb.errors import ExprError, UsageError
from fprobe_gdb.events import EntryEvent, ExitEvent, SummaryEvent
from fprobe_gdb.output.aggregate_count_by import CountBy
from fprobe_gdb.output.aggregate_histogram import Histogram
from fprobe_gdb.session.judge import Judge, Questions
from fprobe_gdb.session.selection import select
from fprobe_gdb.session.tracer import Tracer
from tests.integration.list_sink import ListSink

pytestmark = pytest.mark.qemu

Guest = Callable[..., Kernel]
CALLS = 10


def traced(k: Kernel, questions: Questions, **more: bool) -> tuple[list[int], list[int], SummaryEvent]:
    """Offsets of the entries shown, return values of the exits shown, and the summary."""
    ips = select(k.records, ["vfs_fallocate"])
    judge = Judge(questions, k.knowledge, ips, k.records.name_at, **more)
    sink = ListSink()
    tracer = Tracer(k, sink, judge=judge, **more)
    tracer.register(ips)
    assert k.shell(f"workload args {CALLS}").status == 0
    summary = tracer.finish("command finished", 0)
    k.unregister_fprobe(tracer.fprobe)
    # The probe itself has seen every call.
    assert tracer.fprobe.hits == CALLS
    assert summary.hits + summary.kept_out == CALLS
    entries = [event.args["dx"] for event in sink.events if isinstance(event, EntryEvent)]
    exits = [event.retval for event in sink.events if isinstance(event, ExitEvent)]
    return entries, exits, summary


EVEN, ODD = [4096 * i for i in range(0, CALLS, 2)], [4096 * i for i in range(1, CALLS, 2)]
SOME = [4096 * i for i in range(CALLS) if 8192 + i > 8196]


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
@pytest.mark.parametrize(
    ("questions", "shown"),
    [
        (Questions(filter="mode == 3"), EVEN),
        (Questions(filter='len > 8196 && comm == "workload"'), SOME),
        (Questions(filter='file->f_path.dentry->d_name.name ~ "memfd:*"'), sorted(EVEN + ODD)),
        (Questions(filter='comm == "nobody"'), []),
        (Questions(filter="retval < 0"), ODD),
        (Questions(filter="retval == 0 && offset >= 8192"), EVEN[1:]),
        (Questions(errors=()), ODD),
        (Questions(errors=("EOPNOTSUPP", "EIO")), ODD),
        (Questions(errors=("ENOENT",)), []),
        (Questions(min_duration="100s"), []),
        (Questions(min_duration="1ns"), sorted(EVEN + ODD)),
    ],
    ids=str,
)
def test_only_what_passes_is_shown(guest: Guest, kernel: str, questions: Questions, shown: list[int]) -> None:
    k = guest(kernel=kernel)
    entries, exits, summary = traced(k, questions)
    assert entries == shown
    assert len(exits) == len(shown)
    assert summary.faults == 0


def test_sums(guest: Guest) -> None:
    k = guest()
    _, _, summary = traced(k, Questions(filter="offset >= 8192", hist=("len", "duration"), count_by=("mode, retval",)))
    length, duration, modes = summary.aggregates
    assert isinstance(length, Histogram)
    assert isinstance(duration, Histogram)
    assert isinstance(modes, CountBy)
    assert [(bucket.low, count) for bucket, count in length.rows()] == [(8192, 8)]
    assert sum(count for _, count in duration.rows()) == 8
    assert sorted((key, figures.count) for key, figures in modes.rows()) == [((3, 0), 4), ((0x100, "-EOPNOTSUPP"), 4)]


def test_mistakes_are_told_before_anything_is_planted(guest: Guest) -> None:
    k = guest()
    ips = select(k.records, ["vfs_fallocate"])
    with pytest.raises(ExprError, match="no_such_argument"):
        Judge(Questions(filter="no_such_argument > 1"), k.knowledge, ips, k.records.name_at)
    with pytest.raises(UsageError, match="entry-only"):
        Judge(Questions(errors=()), k.knowledge, ips, k.records.name_at, entry_only=True)
