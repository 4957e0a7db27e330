"""What recording comes to in guests of others is what it comes to in our own; and where it cannot be had, handlers
serve, and the summary says why.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.deadline import Deadline
from fprobe_gdb import Fprobe, Kernel
from fprobe_gdb.cli.exits import ExitCode
from fprobe_gdb.dispatch.base import RunEnd
from fprobe_gdb.errors import RecordNoRing, RecordNoTrampolines, SiteNoCode
from fprobe_gdb.events import SummaryEvent
from fprobe_gdb.output.aggregate_count_by import CountBy
from fprobe_gdb.session import errand
from fprobe_gdb.session import guest as guest_module
from fprobe_gdb.session.judge import Questions
from fprobe_gdb.session.record_tracer import RecordTracer
from fprobe_gdb.session.selection import select
from fprobe_gdb.session.tracer import Tracer
from tests.integration.stranger import BUSY, NOT_BUSY, Stranger
from tests.integration.test_pad_sums import CALLS, QUESTIONS, counts, handler_tracer, pad_tracer
from tests.integration.test_probe_events import COMMANDS, TRACEPOINTS
from tests.integration.test_recorded_events import ODD, OTHERS, STACK, Both, texts
from tests.integration.tool import Tool, run_tool

pytestmark = pytest.mark.qemu

# What the loop of BUSY calls.
CALLED = "__x64_sys_personality"
PROBED = ("-i", CALLED)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stranger]:
    guest = Stranger("6.1", tmp_path_factory.mktemp("recorded") / "gdb.sock", smp=2)
    with guest.machine as machine:
        machine.wait_boot(Deadline(120))
        yield guest


@pytest.fixture
def busy(stranger: Stranger) -> Iterator[Stranger]:
    """The guest with a loop of calls in it."""
    stranger.shell(BUSY)
    yield stranger
    stranger.shell(NOT_BUSY)


def attach(guest: Stranger, *arguments: str) -> list[str]:
    """Lines of a trace by the command, which must have gone well."""
    done = run_tool("attach", str(guest.path), "-k", guest.kernel, *arguments)
    assert done.status == 0, done.err
    assert done.err == ""
    return done.lines


def shell(guest: Stranger, k: Kernel, command: str) -> str:
    """What a command of the guest's says, whose probes fire meanwhile."""
    running = guest.machine.agent.start(command)
    assert k.run(timeout_sec=120, until=guest.ended(running)) is RunEnd.DONE
    result = running.poll()
    assert result is not None
    return result.text


def add_up(guest: Stranger, k: Kernel, tracer: Tracer | RecordTracer, workload: str) -> SummaryEvent:
    shell(guest, k, f"workload {workload}")
    summary = tracer.finish("command finished", 0)
    if isinstance(tracer, Tracer):
        tracer.unregister()
    return summary


def dispatch(lines: list[str]) -> str:
    (line,) = [line for line in lines if line.startswith("dispatch: ")]
    return line.removeprefix("dispatch: ")


def calls(lines: list[str]) -> tuple[int, int, int, int]:
    """Calls, hits, missed and lost."""
    (line,) = [line for line in lines if line.startswith("calls: ")]
    found = re.fullmatch(r"calls: (\d+) = (\d+) hits \+ (\d+) missed \+ (\d+) lost.*", line.replace(",", ""))
    assert found, line
    all_calls, hits, missed, lost = map(int, found.groups())
    return all_calls, hits, missed, lost


def test_what_pads_cannot_ask_is_asked_by_handlers(busy: Stranger) -> None:
    lines = attach(busy, *PROBED, "--record", "--filter", 'comm ~ "*load"', "--max-hits", "5", "--timeout", "60")
    assert dispatch(lines).startswith("trampoline (rsp); not recorded, since the pattern '*load' is more than")
    assert calls(lines) == (5, 5, 0, 0)


def test_what_has_no_room_is_handled(busy: Stranger) -> None:
    """Each function is asked something else, so each has a pad of its own."""
    before = busy.text()
    lines = attach(busy, "-i", "s*", *PROBED, "-f", "summary", "--filter", "$ip != caller_ip", "--timeout", "3")
    assert dispatch(lines) == f"trampoline (rsp); not recorded, since {SiteNoCode.why}"
    all_calls, *parts = calls(lines)
    assert all_calls == sum(parts) > 100
    assert busy.text() == before


def test_without_trampolines_breakpoints_serve(busy: Stranger) -> None:
    lines = attach(busy, *PROBED, "--record", "--dispatch", "breakpoint", "--max-hits", "5", "--timeout", "60")
    assert dispatch(lines) == "breakpoint (rsp, sw); not recorded, since recording needs trampolines"
    assert calls(lines) == (5, 5, 0, 0)
    with busy.attach(dispatch="breakpoint") as k, pytest.raises(RecordNoTrampolines, match="attach with dispatch="):
        k.record([k.records.ftrace_location(k.address(CALLED))], lambda _: None)


def test_a_function_without_fentry_is_handled(busy: Stranger) -> None:
    lines = attach(busy, "-i", "__schedule", "--record", "--max-hits", "5", "--timeout", "60")
    assert dispatch(lines) == "trampoline (rsp); not recorded, since a function has no fentry instruction"
    # Other CPUs may be in it while the fifth hit is handled, and when we leave.
    all_calls, hits, *others = calls(lines)
    assert all_calls == hits + sum(others)
    assert hits >= 5


def test_a_guest_with_little_memory_lends_less(stranger: Stranger) -> None:
    """Handlers can do with that, exactly; and it has all of it back."""
    before, free_mib = stranger.text(), stranger.free_mib()
    hog = "mkdir -p /hog && mount -t tmpfs -o size=100% none /hog && dd if=/dev/zero of=/hog/file bs=1M"
    stranger.shell(f"{hog} count={free_mib - 20}")
    try:
        left_mib = stranger.free_mib()
        why = r"room for a ring of records for each of 2 CPUs, since the guest has no \d+ MiB of memory to lend"
        with stranger.attach(recording=True) as k:
            with pytest.raises(RecordNoRing, match=why):
                k.record([k.records.ftrace_location(k.address(CALLED))], lambda _: None)
            probe = Fprobe(None, lambda *_: None)
            k.register_fprobe_syms(probe, [CALLED])
            running = stranger.machine.agent.start("workload calls 300")
            assert k.run(timeout_sec=120, until=stranger.ended(running)) is RunEnd.DONE
            assert (probe.hits, probe.exits, probe.nmissed, probe.lost) == (300, 300, 0, 0)
        assert stranger.free_mib() >= left_mib - 3
        stranger.shell(BUSY)
        lines = attach(stranger, *PROBED, "--record", "--max-hits", "5", "--timeout", "60")
        stranger.shell(NOT_BUSY)
        assert re.match(rf"trampoline \(rsp\); not recorded, since the landing zone has no {why}", dispatch(lines))
        assert calls(lines) == (5, 5, 0, 0)
    finally:
        stranger.shell("umount /hog")
    assert stranger.text() == before
    assert stranger.free_mib() >= free_mib - 3


def test_pads_add_up_what_handlers_do(stranger: Stranger) -> None:
    """And leave nothing."""
    before, free_mib = stranger.text(), stranger.free_mib()
    for questions in QUESTIONS:
        with stranger.attach(recording=True) as k:
            ips = list(select(k.records, ["vfs_fallocate"]))
            expected, found = (
                add_up(stranger, k, tracer(k, ips, questions), f"args {CALLS}")
                for tracer in (handler_tracer, pad_tracer)
            )
        assert counts(found) == counts(expected)
        assert found.hits + found.kept_out == CALLS
        assert [one.as_dict() for one in found.aggregates] == [one.as_dict() for one in expected.aggregates]
    assert stranger.text() == before
    assert stranger.free_mib() >= free_mib - 3


def test_every_function_there_is_is_added_up_and_no_call_is_lost(stranger: Stranger) -> None:
    before = stranger.text()
    with stranger.attach(recording=True) as k:
        ips = [location.ip for location in k.records.records]
        questions = Questions(count_by=("$comm", "$func"), hist=("$duration",))
        found = add_up(stranger, k, pad_tracer(k, ips, questions), f"args {CALLS}")
    duration, by_task, by_function = found.aggregates
    assert isinstance(by_function, CountBy)
    assert isinstance(by_task, CountBy)
    assert by_task.hits == by_function.hits == found.hits > 10_000
    assert duration.as_dict()["count"] == found.exits
    of = {row.func: row for row in found.functions}
    assert {key[0]: row.count for key, row in by_function.rows()} == {
        name: row.hits for name, row in of.items() if row.hits
    }
    assert (of["vfs_fallocate"].hits, of["vfs_fallocate"].exits) == (CALLS, CALLS)
    assert "(other)" not in of
    assert found.lost == 0
    assert stranger.text() == before


def test_the_command_lets_pads_add_up(busy: Stranger) -> None:
    asked = ("--filter", '$comm == "workload"', "--count-by", "$func", "--hist", "$duration")
    lines = attach(busy, *PROBED, "-f", "summary", *asked, "--timeout", "3")
    assert dispatch(lines) == "trampoline (record)"
    all_calls, hits, missed, lost = calls(lines)
    assert all_calls == hits + missed > 10
    assert lost == 0
    assert any(line.startswith(f"@$func: {hits:,} hits, ") for line in lines)
    # A row of the functions' figures, and one of those by key.
    (row,) = {line.split()[1].replace(",", "") for line in lines if line.startswith(CALLED + " ")}
    assert 10 < int(row) <= hits


@pytest.mark.parametrize("definitions", [OTHERS, STACK, ODD], ids=["many", "stack", "odd"])
def test_records_of_events_show_what_handlers_show(stranger: Stranger, definitions: list[str]) -> None:
    """Pads follow pointers through a window of theirs, which is taken out again."""
    before, free_mib = stranger.text(), stranger.free_mib()
    with stranger.attach(recording=True) as k:
        both = Both(k, definitions, [*COMMANDS, "workload fork 3"], lambda command: shell(stranger, k, command))
        assert texts(both.recorded) == texts(both.handled)
    names = {re.split(r"[/ ]", definition)[1] for definition in definitions}
    assert {str(event.probe_event).partition("/")[2] for event in both.recorded} == names
    assert (both.summary.missed, both.summary.lost, both.summary.kept_out) == (0, 0, 0)
    assert stranger.text() == before
    assert stranger.free_mib() >= free_mib - 3


def test_the_window_of_a_killed_tool_is_taken_out(stranger: Stranger, tmp_path: Path) -> None:
    before, free_mib = stranger.text(), stranger.free_mib()
    stranger.shell(BUSY)
    where = (str(stranger.path), "-k", "6.1", "-f", "jsonl", "--record")
    definition = "f:oracle/open vfs_open name=path->dentry->d_name.name:string"
    with Tool("attach", *where, definition, "--timeout", "100", tmp=tmp_path) as tool:
        tool.until_output('"entry"')
        tool.kill()
    assert "alive" in stranger.shell("cat /etc/motd; echo alive")
    assert stranger.text() == before, "the next tool is the one that looks"
    done = run_tool("attach", *where, definition, "--max-hits", "5", "--timeout", "60")
    assert (done.status, done.err) == (0, "")
    events = [json.loads(line) for line in done.lines]
    names = [event["fields"]["name"] for event in events if event["type"] == "entry"]
    assert len(names) == 5
    assert "workload" in names
    # More may have been recorded than were shown.
    assert (events[-1]["dispatch"], events[-1]["lost"]) == ("trampoline (record)", 0)
    assert events[-1]["hits"] >= 5
    stranger.shell(NOT_BUSY)
    assert stranger.text() == before
    assert stranger.free_mib() >= free_mib - 3


def test_names_behind_arguments_and_questions_about_them(busy: Stranger) -> None:
    where = ("-i", "vfs_open", "--record", "--filter", 'path->dentry->d_name.name ~ "workl*"')
    lines = attach(busy, *where, "--max-hits", "5", "--timeout", "60")
    assert dispatch(lines) == "trampoline (record)"
    assert calls(lines) == (5, 5, 0, 0)
    assert sum("vfs_open(path=0xffff" in line and '"workload"' in line for line in lines) == 5


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stranger]:
    """A kernel whose tracepoints have something to hang on them."""
    guest = Stranger("6.12", tmp_path_factory.mktemp("newer") / "gdb.sock", smp=2)
    with guest.machine as machine:
        machine.wait_boot(Deadline(120))
        yield guest


def switched_on(k: Kernel, names: list[str]) -> list[str]:
    enabled = k.btf.struct("tracepoint").find_member("key.enabled").bit_offset // 8
    return [name for name in names if k.read_u64(k.address(f"__tracepoint_{name}") + enabled) & 0xFFFFFFFF]


def test_tracepoints(newer: Stranger) -> None:
    """A task of the guest switches them on for us, whoever it is; and off."""
    before = newer.text()
    names = [definition.split()[1] for definition in TRACEPOINTS if definition[0] == "t"]
    newer.shell(BUSY)
    with newer.attach(recording=True) as k:
        k.tracepoints.switch_on(names)
        assert switched_on(k, names) == names
        commands = ["dd if=/etc/motd of=/dev/null bs=100", "workload fork 3"]
        both = Both(k, TRACEPOINTS, commands, lambda command: shell(newer, k, command))
        assert texts(both.recorded) == texts(both.handled)
    events = {re.split(r"[/ ]", definition)[1] for definition in TRACEPOINTS}
    assert {str(event.probe_event).partition("/")[2] for event in both.recorded} == events
    with newer.attach(dispatch="breakpoint") as k:
        assert switched_on(k, names) == []
    definition = "t:oracle/exec sched_process_exec p->comm:string"
    # By handlers, too, and with breakpoints.
    lines = attach(newer, "--dispatch", "breakpoint", definition, "--max-hits", "5", "--timeout", "60")
    assert sum('exec: __probestub_sched_process_exec(arg1="workload")' in line for line in lines) >= 4
    newer.shell(NOT_BUSY)
    with newer.attach(dispatch="breakpoint") as k:
        assert switched_on(k, names) == []
    assert newer.text() == before


def test_tracepoints_that_nobody_switches_off(newer: Stranger, monkeypatch: pytest.MonkeyPatch) -> None:
    """They stay on, and that is told; the rest of us is gone."""
    name, notes = "sched_process_exec", list[str]()
    newer.shell(BUSY)
    with monkeypatch.context() as patch, newer.attach(on_note=notes.append) as k:
        k.tracepoints.switch_on([name])
        patch.setattr(errand, "SLEEPERS", ("__x64_sys_kexec_load",))
        patch.setattr(guest_module, "_TRACEPOINT_SEC", 0.5)
    newer.shell(NOT_BUSY)
    (note,) = notes
    assert note.startswith(f"tracepoints stay on in the guest, and call an empty function ({name}): no task")
    with newer.attach(dispatch="breakpoint") as k:
        assert switched_on(k, [name]) == [name]


def test_a_kernel_that_has_nothing_to_hang_on_tracepoints(busy: Stranger) -> None:
    done = run_tool("attach", str(busy.path), "-k", "6.1", "--record", "t:oracle/ex sched_process_exit")
    assert done.status == ExitCode.USAGE
    assert "tracepoint 'sched_process_exit' cannot be probed: this kernel has no" in done.err
