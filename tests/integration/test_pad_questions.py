"""Pads and handlers are asked the same of one workload, and give one answer: what is shown, and how many are not.

``workload args N``: call i of ``vfs_fallocate(file, mode, offset, len)`` has mode 3 and returns 0 for even i, mode
0x100 and -EOPNOTSUPP for odd i; its offset is 4096 i, its length 8192 + i.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fprobe_gdb import Fprobe, Kernel
from fprobe_gdb.errors import SiteNoCode
from fprobe_gdb.events import EntryEvent, ExitEvent, SummaryEvent
from fprobe_gdb.session.judge import Judge, Questions
from fprobe_gdb.session.pad_questions import asked_by, guest_facts
from fprobe_gdb.session.record_tracer import RecordTracer
from fprobe_gdb.session.selection import select
from fprobe_gdb.session.tracer import Tracer
from tests.integration.guest_tracer import run as run_shell
from tests.integration.list_sink import ListSink
from tests.integration.tool import run_tool

pytestmark = pytest.mark.qemu

CALLS = 40
KERNELS = ("6.1", "6.12")
QUESTIONS = [
    Questions(filter="mode == 3"),
    Questions(filter='len > 8196 && comm == "workload" && offset / 4096 % 3 != 1'),
    Questions(filter='comm == "nobody"'),
    Questions(filter="pid == tgid && cpu < 2 && caller_ip > NULL"),
    Questions(filter="retval < 0"),
    Questions(filter="retval == 0 && offset >= 8192"),
    Questions(filter="len / (mode - 3) > 0"),
    Questions(errors=()),
    Questions(errors=("EOPNOTSUPP", "EIO")),
    Questions(errors=("ENOENT",)),
    Questions(filter="offset >= 4096", errors=(), min_duration="1ns"),
    Questions(min_duration="100s"),
    Questions(filter='file->f_path.dentry->d_name.name ~ "memfd:*" && file->f_inode->i_sb->s_magic && len > 8196'),
    Questions(filter='file->f_path.dentry->d_parent->d_name.name == "/" && task->real_parent->pid > 0 && retval < 0'),
    Questions(filter='task->comm == "workload" && file->f_op->fallocate != NULL && file->f_path.mnt->mnt_root'),
    # Of a pointer that leads nowhere, for some calls; and of what is on the task's stack, which is no direct mapping.
    Questions(filter='offset % 3 == 0 || cast(mode, "struct file *")->f_pos == 0'),
    Questions(filter='*cast(task->stack, "unsigned long *") == 0x57ac6e9d || is_err(retval)'),
]

Shown = tuple[list[tuple[int, ...]], list[int], list[str | None], SummaryEvent]


def run(k: Kernel, tracer: Tracer | RecordTracer, sink: ListSink) -> Shown:
    result = k.shell(f"workload args {CALLS}")
    assert result.status == 0
    summary = tracer.finish("command finished", 0)
    if isinstance(tracer, Tracer):
        tracer.unregister()
    entries = [event for event in sink.events if isinstance(event, EntryEvent)]
    args = [tuple(event.args[name] for name in ("si", "dx", "cx")) for event in entries]
    exits = [event for event in sink.events if isinstance(event, ExitEvent)]
    return args, [event.retval for event in exits], [event.result for event in exits], summary


def by_pads(k: Kernel, ips: list[int], questions: Questions, *, quiet: bool = False) -> Shown:
    judge = Judge(questions, k.knowledge, ips, k.records.name_at)
    sink = ListSink()
    tracer = RecordTracer(k, sink, asked=asked_by(judge, guest_facts(k)), quiet=quiet)
    tracer.register(ips)
    return run(k, tracer, sink)


def by_handlers(k: Kernel, ips: list[int], questions: Questions) -> Shown:
    sink = ListSink()
    tracer = Tracer(k, sink, judge=Judge(questions, k.knowledge, ips, k.records.name_at))
    tracer.register(ips)
    return run(k, tracer, sink)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("questions", QUESTIONS, ids=str)
def test_pads_show_what_handlers_show(guest: Callable[..., Kernel], kernel: str, questions: Questions) -> None:
    k = guest(kernel=kernel, smp=2, dispatch="trampoline")
    ips = list(select(k.records, ["vfs_fallocate"]))
    *expected, by_handler = by_handlers(k, ips, questions)
    assert by_handler.hits + by_handler.kept_out == CALLS, by_handler
    *found, summary = by_pads(k, ips, questions)
    assert found == expected
    assert (summary.hits, summary.missed, summary.lost) == (len(expected[0]), 0, 0)
    assert (summary.kept_out, summary.faults) == (by_handler.kept_out, by_handler.faults)
    assert summary.hits + summary.kept_out == CALLS
    # With nothing to show, the guest writes less; the figures are the same.
    *_, quiet = by_pads(k, ips, questions, quiet=True)
    assert (quiet.hits, quiet.exits, quiet.kept_out) == (summary.hits, summary.exits, summary.kept_out)


@pytest.mark.parametrize("kaslr", [False, True])
def test_text_of_the_users(guest: Callable[..., Kernel], kaslr: bool) -> None:
    """A name in user memory, and a structure on the stack of the task, with all that KASLR moves moved."""
    k = guest(kernel="6.1", smp=2, dispatch="trampoline", kaslr=kaslr)
    ips = list(select(k.records, ["do_sys_openat2"]))
    for filter_ in ('filename == "/etc/motd"', 'filename == "/etc/motd" && how->flags == 0x8000 && retval > 0'):
        sink = ListSink()
        judge = Judge(Questions(filter=filter_), k.knowledge, ips, k.records.name_at)
        tracer = RecordTracer(k, sink, asked=asked_by(judge, guest_facts(k)))
        tracer.register(ips)
        assert k.shell("cat /etc/motd /init /etc/motd").status == 0
        summary = tracer.finish("command finished", 0)
        shown = [event for event in sink.events if isinstance(event, EntryEvent)]
        assert len(shown) == summary.hits == 2
        # Of calls before: names on pages that the task has not touched yet are faults, as they are to handlers.
        assert summary.kept_out >= 3


def test_every_function_is_asked(guest: Callable[..., Kernel]) -> None:
    """Of all functions there are, calls by one task that fail; each kind of return value is asked in its own way."""
    k = guest(kernel="6.1", smp=2, dispatch="trampoline")
    ips = [location.ip for location in k.records.records]
    *_, summary = by_pads(k, ips, Questions(filter='$comm == "workload"', errors=()), quiet=True)
    assert summary.kept_out > 10_000
    of = {row.func: row.hits for row in summary.functions if row.hits}
    assert of["vfs_fallocate"] == CALLS // 2
    assert summary.hits == sum(of.values()) < summary.kept_out


def test_the_command_takes_pads_where_nobody_looks_at_calls(tmp_path: Path) -> None:
    arguments = ("trace", "--backend", "rsp", "-i", "vfs_fallocate", "-f", "summary")
    outcome = run_tool(*arguments, "--errors", "any", "--", f"workload args {CALLS}", tmp=tmp_path)
    assert outcome.status == 0, outcome.err
    assert "dispatch: trampoline (record)" in outcome.lines
    assert f"filtered: {CALLS // 2} more calls were kept out" in outcome.lines
    assert f"calls: {CALLS // 2} = {CALLS // 2} hits + 0 missed + 0 lost" in outcome.lines


def test_the_command_says_why_it_does_not(tmp_path: Path) -> None:
    arguments = ("trace", "--backend", "rsp", "-i", "vfs_fallocate", "--record")
    outcome = run_tool(*arguments, "--filter", 'comm ~ "*load"', "--", "workload args 2", tmp=tmp_path)
    assert outcome.status == 0, outcome.err
    (line,) = [line for line in outcome.lines if line.startswith("dispatch: ")]
    assert line.startswith("dispatch: trampoline (rsp); not recorded, since the pattern '*load' is more than")


def test_the_command_goes_on_with_handlers_where_pads_do_not_fit(tmp_path: Path) -> None:
    """Each function is asked something else, so each has a pad of its own."""
    arguments = ("trace", "--backend", "rsp", "-i", "s*", "-i", "vfs_fallocate", "-f", "summary")
    outcome = run_tool(*arguments, "--filter", "$ip != caller_ip", "--", f"workload args {CALLS}", tmp=tmp_path)
    assert outcome.status == 0, outcome.err
    (line,) = [line for line in outcome.lines if line.startswith("dispatch: ")]
    assert line == f"dispatch: trampoline (rsp); not recorded, since {SiteNoCode.why}"
    assert [line.split()[1] for line in outcome.lines if line.startswith("vfs_fallocate ")] == [str(CALLS)]


def test_a_pad_that_does_not_fit_changes_nothing(guest: Callable[..., Kernel]) -> None:
    """With all room for pads taken, a recorded function cannot be handled as well; it is recorded as before."""
    k = guest(kernel="6.1", smp=2, dispatch="trampoline")
    ip = k.records.ftrace_location(k.address("__x64_sys_personality"))
    probe = k.record([ip], lambda batch: None)
    recorder = k._dispatch.recorder  # type: ignore[attr-defined]
    code, recorder._code = recorder._code, recorder._zone.stubs
    text = k.target.read_memory(ip, 5)
    fp = Fprobe(lambda *_: None)
    try:
        with pytest.raises(SiteNoCode, match="no room for the pads"):
            k.register_fprobe(fp, "__x64_sys_personality")
        assert k.fprobes == []
        run_shell(k, "workload calls 3")
        assert k.target.read_memory(ip, 5) == text
    finally:
        recorder._code = code
    k.register_fprobe(fp, "__x64_sys_personality")
    run_shell(k, "workload calls 2")
    k.unregister_fprobe(fp)
    run_shell(k, "workload calls 4")
    k.stop_recording(probe)
    assert (probe.hits, probe.nmissed, probe.lost, fp.hits) == (9, 0, 0, 2)
