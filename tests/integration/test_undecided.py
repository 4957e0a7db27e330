"""Calls about which their return decides, and that have not returned when the trace ends: each is in a counter, too."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fprobe_gdb import Fprobe, Kernel
from fprobe_gdb.events import SummaryEvent
from fprobe_gdb.session.judge import Judge, Questions
from fprobe_gdb.session.pad_questions import asked_by, guest_facts
from fprobe_gdb.session.pad_sums import pad_sums
from fprobe_gdb.session.record_tracer import RecordTracer
from fprobe_gdb.session.selection import select
from fprobe_gdb.session.tracer import Tracer
from tests.integration.list_sink import ListSink
from tests.integration.tool import run_tool

pytestmark = pytest.mark.qemu

# Some calls of vfs_read() wait for long; do_exit() does not return, and nor does what a killed task was in.
FUNCTIONS = ["vfs_read", "hrtimer_nanosleep", "do_exit"]
COMMAND = "sleep 1000 & sleep 0.05; cat /etc/motd; (sleep 1000 & kill -9 $!); sleep 1000 | cat >/dev/null & sleep 0.1"
NOT_BUSY = "killall -9 sleep; sleep 0.01"


def accounted(summary: SummaryEvent) -> int:
    return summary.hits + summary.missed + summary.lost + summary.kept_out + summary.undecided


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
@pytest.mark.parametrize("how", ["records", "quiet", "sums"])
def test_by_pads(guest: Callable[..., Kernel], kernel: str, how: str) -> None:
    """A recording of the same functions that asks nothing counts their calls."""
    k = guest(kernel=kernel, smp=2, dispatch="trampoline")
    ips = list(select(k.records, FUNCTIONS))
    assert len(ips) == len(FUNCTIONS)
    judge = Judge(Questions(min_duration="1ms", count_by=("func",)), k.knowledge, ips, k.records.name_at)
    facts = guest_facts(k)
    asked = asked_by(judge, facts)
    sums = pad_sums(judge, facts, asked) if how == "sums" else None
    tracer = RecordTracer(k, ListSink(), asked=asked, quiet=how != "records", sums=sums)
    every = k.record(ips, lambda batch: None, entry_only=True, by_function=False)
    tracer.register(ips)
    assert k.shell(COMMAND).status == 0
    k.stop_recording(tracer.probe, every)
    summary = tracer.finish("command finished", 0)
    assert accounted(summary) == every.hits + every.lost > 0
    assert summary.undecided > 3
    assert summary.hits > 0 < summary.kept_out
    k.shell(NOT_BUSY)


@pytest.mark.parametrize("dispatch", ["trampoline", "breakpoint"])
def test_by_handlers(guest: Callable[..., Kernel], dispatch: str) -> None:
    k = guest(kernel="6.1", smp=2, dispatch=dispatch)
    ips = list(select(k.records, FUNCTIONS))
    tracer = Tracer(k, ListSink(), judge=Judge(Questions(min_duration="1ms"), k.knowledge, ips, k.records.name_at))
    every = Fprobe(lambda *_: None)
    k.register_fprobe_ips(every, ips)
    tracer.register(ips)
    assert k.shell(COMMAND).status == 0
    summary = tracer.finish("command finished", 0)
    tracer.unregister()
    assert accounted(summary) == every.hits + every.nmissed > 0
    assert summary.undecided > 3
    assert summary.hits > 0 < summary.kept_out
    k.shell(NOT_BUSY)


@pytest.mark.parametrize("more", [("-f", "summary"), ("--dispatch", "breakpoint")], ids=["pads", "handlers"])
def test_the_command_says_so(more: tuple[str, ...]) -> None:
    outcome = run_tool("trace", "--backend", "rsp", "-i", "do_exit", "--errors", "any", *more, "--", "(exit 3); true")
    assert outcome.status == 0, outcome.err
    (line,) = [line for line in outcome.lines if line.startswith("undecided:")]
    assert line.endswith("more calls had not returned, and their returns decide")
    assert "calls: 0 = 0 hits + 0 missed + 0 lost" in outcome.lines
