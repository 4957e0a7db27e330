"""``--count-by`` and ``--hist`` added up by pads are what handlers add up, and what the workload is known to have done.

``workload args N``: call i of ``vfs_fallocate(file, mode, offset, len)`` has mode 3 and returns 0 for even i, mode
0x100 and -EOPNOTSUPP for odd i; its offset is 4096 i, its length 8192 + i.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from fprobe_gdb import Kernel
from fprobe_gdb.errors import NotCompiled
from fprobe_gdb.events import EntryEvent, SummaryEvent
from fprobe_gdb.output.aggregate_count_by import CountBy
from fprobe_gdb.session.judge import Judge, Questions
from fprobe_gdb.session.pad_questions import asked_by, guest_facts
from fprobe_gdb.session.pad_sums import pad_sums
from fprobe_gdb.session.record_sums import need_recorded
from fprobe_gdb.session.record_tracer import RecordTracer
from fprobe_gdb.session.selection import select
from fprobe_gdb.session.tracer import Tracer
from tests.integration.guest_tracer import GROUP, TRACING
from tests.integration.list_sink import ListSink
from tests.integration.tool import run_tool

pytestmark = pytest.mark.qemu

CALLS = 40
KERNELS = ("6.1", "6.12")
READS = 20_000
QUESTIONS = [
    Questions(count_by=("func", "comm", "caller", "ip", "pid == tgid"), hist=("len", "offset - 8192")),
    Questions(count_by=("mode, retval", "retval", "comm, mode % 2, caller"), hist=("retval", "mode")),
    Questions(filter="len > 8200 && mode == 3", count_by=("len, offset",), hist=("len",)),
    Questions(filter="retval < 0", count_by=("offset, retval",), hist=("offset",)),
    Questions(errors=(), min_duration="1ns", count_by=("comm, offset / 8192",), hist=("duration > 0", "retval")),
    # Without a value for some calls, and by way of pointers.
    Questions(count_by=("len / (mode - 3)", 'cast(mode, "struct file *")->f_pos'), hist=("len / (mode - 3)",)),
    Questions(count_by=("file->f_inode->i_sb->s_magic, file->f_op",), hist=("file->f_path.dentry->d_name.len",)),
]


def add_up(k: Kernel, tracer: Tracer | RecordTracer, command: str) -> SummaryEvent:
    result = k.shell(command)
    assert result.status == 0
    summary = tracer.finish("command finished", 0)
    if isinstance(tracer, Tracer):
        tracer.unregister()
    return summary


def pad_tracer(k: Kernel, ips: Sequence[int], questions: Questions, **options: Any) -> RecordTracer:
    entry_only = options.get("entry_only", False)
    judge = Judge(questions, k.knowledge, ips, k.records.name_at, entry_only=entry_only)
    facts = guest_facts(k)
    sums = pad_sums(judge, facts, asked_by(judge, facts))
    tracer = RecordTracer(k, ListSink(), quiet=True, sums=sums, **options)
    tracer.register(ips)
    return tracer


def handler_tracer(k: Kernel, ips: Sequence[int], questions: Questions) -> Tracer:
    tracer = Tracer(k, ListSink(), judge=Judge(questions, k.knowledge, ips, k.records.name_at))
    tracer.register(ips)
    return tracer


def by_pads(k: Kernel, ips: Sequence[int], questions: Questions, command: str, **options: Any) -> SummaryEvent:
    return add_up(k, pad_tracer(k, ips, questions, **options), command)


def by_handlers(k: Kernel, ips: Sequence[int], questions: Questions, command: str) -> SummaryEvent:
    return add_up(k, handler_tracer(k, ips, questions), command)


def counts(summary: SummaryEvent) -> tuple[object, ...]:
    rows = [(of.func, of.hits, of.missed, of.lost, of.exits) for of in summary.functions]
    return rows, summary.hits, summary.exits, summary.missed, summary.lost, summary.kept_out, summary.faults


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("questions", QUESTIONS, ids=str)
def test_pads_add_up_what_handlers_do(guest: Callable[..., Kernel], kernel: str, questions: Questions) -> None:
    k = guest(kernel=kernel, smp=2, dispatch="trampoline")
    ips = list(select(k.records, ["vfs_fallocate"]))
    expected = by_handlers(k, ips, questions, f"workload args {CALLS}")
    found = by_pads(k, ips, questions, f"workload args {CALLS}")
    assert counts(found) == counts(expected)
    assert found.hits + found.kept_out == CALLS
    assert [one.as_dict() for one in found.aggregates] == [one.as_dict() for one in expected.aggregates]


@pytest.mark.parametrize(
    "questions",
    [
        Questions(count_by=("func", "comm", "caller, pid > 0", "ip", "mode"), hist=("len", "offset - 8192")),
        Questions(count_by=("retval", "comm, caller"), hist=("retval", "duration > 0")),
        Questions(filter="retval < 0", count_by=("offset, retval, mode",), hist=("len", "retval")),
    ],
    ids=str,
)
def test_records_that_are_shown_are_added_up(guest: Callable[..., Kernel], questions: Questions) -> None:
    k = guest(kernel="6.1", smp=2, dispatch="trampoline")
    ips = list(select(k.records, ["vfs_fallocate"]))
    expected = by_handlers(k, ips, questions, f"workload args {CALLS}")
    judge, sink = Judge(questions, k.knowledge, ips, k.records.name_at), ListSink()
    need_recorded(judge, decided=bool(judge.at_exit), has_names=True)
    tracer = RecordTracer(k, sink, asked=asked_by(judge, guest_facts(k)), judge=judge)
    tracer.register(ips)
    found = add_up(k, tracer, f"workload args {CALLS}")
    assert counts(found) == counts(expected)
    assert len([event for event in sink.events if isinstance(event, EntryEvent)]) == found.hits
    assert [one.as_dict() for one in found.aggregates] == [one.as_dict() for one in expected.aggregates]


@pytest.mark.parametrize("text", ["file->f_op", "tgid", "mode, retval", "task->pid", "$reg.bx"])
def test_what_is_not_in_records(guest: Callable[..., Kernel], text: str) -> None:
    k = guest(kernel="6.1", smp=2, dispatch="trampoline")
    ips = list(select(k.records, ["vfs_fallocate"]))
    judge = Judge(Questions(count_by=(text,)), k.knowledge, ips, k.records.name_at)
    with pytest.raises(NotCompiled, match="is not in records"):
        need_recorded(judge, decided=False, has_names=True)


def test_each_way_of_showing_a_word(guest: Callable[..., Kernel]) -> None:
    """Of functions that return numbers, pointers and truth values, and of enumerations among their arguments."""
    k = guest(kernel="6.1", smp=2, dispatch="trampoline")
    ips = list(select(k.records, ["vfs_fallocate", "do_filp_open", "capable", "kernel_read_file"]))
    # Others may do so meanwhile.
    ours = 'comm == "workload" || comm == "cat"'
    questions = Questions(filter=ours, count_by=("func, retval",), hist=("retval",))
    command = f"workload args {CALLS}; cat /nope || true"
    expected = by_handlers(k, ips, questions, command)
    found = by_pads(k, ips, questions, command)
    assert counts(found)[:-2] == counts(expected)[:-2]
    keys = [{row for row, _ in of.aggregates[1].rows()} for of in (expected, found)]  # type: ignore[attr-defined]
    # Addresses differ.
    named = [{key for key in of if not str(key[1]).startswith("0x")} for of in keys]
    assert named[0] == named[1] >= {("vfs_fallocate", "-EOPNOTSUPP"), ("vfs_fallocate", 0), ("do_filp_open", "-ENOENT")}
    assert any(str(key[1]).startswith("0xffff") for key in keys[1])


def test_the_agents_reads_do_not_look_like_those_of_a_command(guest: Callable[..., Kernel]) -> None:
    """A command comes through the agent's port in pieces of any size, one byte among them."""
    k = guest(kernel="6.1", smp=2, dispatch="trampoline")
    ips = list(select(k.records, ["vfs_read"]))
    found = by_pads(k, ips, Questions(count_by=("comm",)), "true" + " " * 3000)
    (by_comm,) = found.aggregates
    assert isinstance(by_comm, CountBy)
    assert "dd" not in {comm for comm, *_ in (key for key, _ in by_comm.rows())}
    assert found.hits > 1


@pytest.mark.parametrize("kernel", KERNELS)
def test_known_counts_of_two_busy_cpus(guest: Callable[..., Kernel], kernel: str) -> None:
    k = guest(kernel=kernel, smp=2, dispatch="trampoline")
    ips = list(select(k.records, ["vfs_read", "vfs_write"]))
    dd = f"dd if=/dev/zero of=/dev/null bs=1 count={READS} 2>/dev/null"
    questions = Questions(
        filter='comm == "dd" && count == 1', count_by=("func, comm", "cpu"), hist=("count", "duration", "retval")
    )
    found = by_pads(k, ips, questions, f"{dd} & {dd}; wait")
    by_function, by_cpu = (one for one in found.aggregates if isinstance(one, CountBy))
    assert {key: of.count for key, of in by_function.rows()} == {
        ("vfs_read", "dd"): 2 * READS, ("vfs_write", "dd"): 2 * READS
    }  # fmt: skip
    assert sum(of.count for _, of in by_cpu.rows()) == 4 * READS
    assert {key for key, _ in by_cpu.rows()} <= {(0,), (1,)}
    count, duration, retval = (one.as_dict() for one in found.aggregates[:3])
    assert (count["count"], count["sum"], count["max"]) == (4 * READS, 4 * READS, 1)
    assert retval["buckets"] == count["buckets"] == [{"low": 1, "high": 2, "count": 4 * READS}]
    times = {of.func: of for of in found.functions}
    assert duration["count"] == found.exits == found.hits == 4 * READS
    assert duration["min"] == min(of.min_ns for of in times.values() if of.min_ns is not None)
    assert duration["max"] == max(of.max_ns for of in times.values() if of.max_ns is not None)


def test_the_guests_own_histogram(guest: Callable[..., Kernel]) -> None:
    """Of a kprobe event at the same location, so that the pads are behind a stub."""
    k = guest(kernel="6.1", smp=2, dispatch="trampoline")
    trigger = f"{TRACING}/events/{GROUP}/asked/trigger"
    begin = f"echo 'p:{GROUP}/asked vfs_read' >>{TRACING}/dynamic_events && echo hist:keys=common_pid >{trigger}"
    assert k.shell(begin).status == 0
    dd = f"dd if=/dev/zero of=/dev/null bs=1 count={READS} 2>/dev/null"
    ips = list(select(k.records, ["vfs_read"]))
    found = by_pads(k, ips, Questions(count_by=("func, pid",)), f"{dd} & {dd}; wait")
    end = f"echo '!hist:keys=common_pid' >{trigger} && echo '-:{GROUP}/asked' >>{TRACING}/dynamic_events"
    result = k.shell(f"cat {TRACING}/events/{GROUP}/asked/hist && {end}")
    assert result.status == 0
    own = re.findall(r"common_pid: +(\d+) \} hitcount: +(\d+)", result.text)
    (by_pid,) = found.aggregates
    assert isinstance(by_pid, CountBy)
    # Others read before and behind, too.
    ours = {key: of.count for key, of in by_pid.rows() if of.count >= READS}
    assert ours == {("vfs_read", int(pid)): int(count) for pid, count in own if int(count) >= READS}
    assert len(ours) == 2


def test_more_keys_than_there_are_rows(guest: Callable[..., Kernel]) -> None:
    k = guest(kernel="6.1", smp=2, dispatch="trampoline")
    ips = list(select(k.records, ["vfs_fallocate"]))
    calls = 30_000
    found = by_pads(k, ips, Questions(count_by=("offset", "mode")), f"workload args {calls}", entry_only=True)
    by_offset, by_mode = found.aggregates
    assert isinstance(by_offset, CountBy)
    assert isinstance(by_mode, CountBy)
    assert by_offset.hits == found.hits == calls
    rows = by_offset.rows()
    assert 1000 < len(rows) < calls
    assert {of.count for _, of in rows} == {1}
    assert {key[0] for key, _ in rows} <= {4096 * number for number in range(calls)}
    assert by_offset.as_dict()["other"] == {"count": calls - len(rows)}
    assert [(key, of.count) for key, of in by_mode.rows()] == [((3,), calls // 2), ((0x100,), calls // 2)]


def test_calls_that_find_no_node_are_missed(guest: Callable[..., Kernel]) -> None:
    """A loop of forks has several calls in flight, and there is one node."""
    k = guest(kernel="6.1", smp=2, dispatch="trampoline")
    ips = list(select(k.records, ["do_wait", "kernel_clone"]))
    command = "for i in 1 2 3 4 5 6 7 8; do sh -c 'sleep 0.01' & done; wait"
    found = by_pads(k, ips, Questions(count_by=("func",)), command, nr_maxactive=1)
    (by_function,) = found.aggregates
    assert isinstance(by_function, CountBy)
    assert found.missed > 0
    assert by_function.hits == found.hits > 0
    assert {key[0]: of.count for key, of in by_function.rows()} == {
        of.func: of.hits for of in found.functions if of.hits
    }


def test_every_function_there_is(guest: Callable[..., Kernel]) -> None:
    k = guest(kernel="6.1", smp=2, dispatch="trampoline")
    ips = [location.ip for location in k.records.records]
    questions = Questions(count_by=("$comm", "$func"), hist=("$duration",))
    found = by_pads(k, ips, questions, f"workload args {CALLS}")
    duration, by_task, by_function = found.aggregates
    assert isinstance(by_function, CountBy)
    assert isinstance(by_task, CountBy)
    assert by_task.hits == by_function.hits == found.hits > 10_000
    assert duration.as_dict()["count"] == found.exits
    assert {key[0]: of.count for key, of in by_function.rows()} == {
        of.func: of.hits for of in found.functions if of.hits
    }
    of = {row.func: row for row in found.functions}
    assert (of["vfs_fallocate"].hits, of["vfs_fallocate"].exits) == (CALLS, CALLS)
    assert "(other)" not in of


@pytest.mark.parametrize("include", ["vfs_fallocate", "*"])
def test_the_command_lets_pads_add_up(tmp_path: Path, include: str) -> None:
    arguments = ("trace", "--backend", "rsp", "-i", include, "-f", "summary", "--filter", '$comm == "workload"')
    outcome = run_tool(*arguments, "--count-by", "$func", "--", f"workload args {CALLS}", tmp=tmp_path)
    assert outcome.status == 0, outcome.err
    assert "dispatch: trampoline (record)" in outcome.lines
    rows = [line.split()[1] for line in outcome.lines if line.startswith("vfs_fallocate ")]
    assert set(rows) == {str(CALLS)}
    (total,) = [line.split()[1] for line in outcome.lines if line.startswith("calls: ")]
    assert any(line.startswith(f"@$func: {total} hits, ") for line in outcome.lines)


def test_the_command_adds_up_what_it_shows(tmp_path: Path) -> None:
    arguments = ("trace", "--backend", "rsp", "-i", "vfs_fallocate", "-f", "jsonl", "--record", "--hist", "len")
    outcome = run_tool(*arguments, "--count-by", "retval", "--", f"workload args {CALLS}", tmp=tmp_path)
    assert outcome.status == 0, outcome.err
    events = [json.loads(line) for line in outcome.lines]
    assert [event["type"] for event in events].count("entry") == CALLS
    summary = events[-1]
    assert summary["dispatch"] == "trampoline (record)"
    lengths, by_retval = summary["aggregates"]
    assert lengths["sum"] == sum(8192 + number for number in range(CALLS))
    assert {row["key"][0]: row["count"] for row in by_retval["rows"]} == {0: CALLS // 2, "-EOPNOTSUPP": CALLS // 2}


def test_the_command_says_why_pads_do_not(tmp_path: Path) -> None:
    arguments = ("trace", "--backend", "rsp", "-i", "vfs_fallocate", "-f", "summary", "--record")
    outcome = run_tool(
        *arguments, "--count-by", "file->f_path.dentry->d_name.name", "--", "workload args 2", tmp=tmp_path
    )
    assert outcome.status == 0, outcome.err
    (line,) = [line for line in outcome.lines if line.startswith("dispatch: ")]
    assert line.startswith("dispatch: trampoline (rsp); not recorded, since a key has text")
    outcome = run_tool(*arguments, "--max-hits", "2", "--count-by", "func", "--", "workload args 4", tmp=tmp_path)
    assert "calls: 2 = 2 hits + 0 missed + 0 lost" in outcome.lines
