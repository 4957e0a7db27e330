"""The command line on real kernels: what it prints, in which form, and with which exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pexpect
import pytest

import images
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from images.workload_counts import counts
from tests.integration.tool import WAIT_SEC, Tool, run_tool

# A QEMU that is not there: whoever tried to boot would say so.
NO_BOOT = ("--qemu", "/nonexistent/qemu")
HEX = re.compile(r"0x(0|[1-9a-f][0-9a-f]{0,15})")
HIT = {"type": str, "func": str, "entry_ip": HEX, "ret_ip": HEX, "cpu": int, "task": HEX, "time_ns": int}
KEYS: dict[str, dict[str, Any]] = {
    "entry": {**HIT, "args": dict, "caller": str, "depth": int},
    "exit": {**HIT, "retval": HEX, "duration_ns": int, "caller": str, "depth": int},
    "missed": {**HIT, "reason": str, "depth": int},
    "lost": {**HIT, "reason": str, "count": int, "depth": int},
    "console": {"type": str, "source": str, "line": str, "time_ns": int},
    "summary": {
        "type": str, "functions": list, "hits": int, "missed": int, "lost": int, "exits": int, "exits_missed": int,
        "host_ns_per_hit": int, "ended": str, "command_status": int, "dispatch": str,
    },
}  # fmt: skip


def events_of(text: str) -> list[dict[str, Any]]:
    """Parse a stream of JSON lines, and check the form of each."""
    assert text.endswith("\n")
    assert text.isascii()
    events = [json.loads(line) for line in text.splitlines()]
    for event in events:
        assert next(iter(event)) == "type"
        form = KEYS[event["type"]]
        # Fields may be added; none of these may go, change its type or its place among them.
        assert [key for key in event if key in form] == list(form), event
        for key, kind in form.items():
            value = event[key]
            assert kind.fullmatch(value) if isinstance(kind, re.Pattern) else type(value) is kind, (key, event)
        if event["type"] == "entry":
            assert list(event["args"]) == ["di", "si", "dx", "cx", "r8", "r9"]
            assert all(HEX.fullmatch(value) for value in event["args"].values())
    assert [event["type"] for event in events].count("summary") == 1
    return events


# Section: trace


@pytest.mark.qemu
@pytest.mark.gdb
def test_jsonl_with_misses(tmp_path: Path) -> None:
    """Recursion with a pool of one node: the default backend on 6.12, into a file; every call is accounted for."""
    path = tmp_path / "events.jsonl"
    workload = ("recursive", "4", "3")
    outcome = run_tool(
        "trace", "-k", "6.12", "-i", "ep_loop_check_proc", "--maxactive", "1", "-f", "jsonl", "-o", str(path),
        "--", "workload", *workload,
    )  # fmt: skip
    assert (outcome.status, outcome.out, outcome.err) == (0, "", "")
    events = events_of(path.read_text())
    summary = events[-1]
    types = Counter(event["type"] for event in events)
    (count,) = counts(workload)
    assert summary["hits"] + summary["missed"] + summary["lost"] == count.entries
    assert summary["missed"] > 0
    assert (summary["hits"], summary["missed"]) == (types["entry"], types["missed"])
    assert (summary["exits"], summary["lost"]) == (types["exit"], types["lost"])
    assert summary["hits"] == summary["exits"]
    assert {event["reason"] for event in events if event["type"] == "missed"} == {"pool"}
    (row,) = summary["functions"]
    assert {key: row[key] for key in ("func", "hits", "missed", "lost", "exits")} == {
        "func": "ep_loop_check_proc", "hits": types["entry"], "missed": types["missed"], "lost": 0,
        "exits": types["exit"],
    }  # fmt: skip
    durations = [event["duration_ns"] for event in events if event["type"] == "exit"]
    assert (row["min_ns"], row["max_ns"]) == (min(durations), max(durations))
    assert (summary["ended"], summary["command_status"]) == ("command finished", 0)
    assert summary["dispatch"] == "trampoline (gdb)"
    times = [event["time_ns"] for event in events if "time_ns" in event]
    assert times == sorted(times)


@pytest.mark.qemu
def test_text_begins_with_the_command_itself() -> None:
    """Words behind -- stay words; nothing of the guest's agent is seen; the command's status is told, not ours."""
    outcome = run_tool(
        "trace", "--backend", "rsp", "--smp", "2", "-i", "__x64_sys_execve", "-i", "__x64_sys_personality", "--",
        "sh", "-c", "printf '%s|' \"$@\"; workload calls 3; exit 7", "sh", "a b", "c'd", "$HOME",
    )  # fmt: skip
    assert (outcome.status, outcome.err) == (0, "")
    assert "command | a b|c'd|$HOME|" in outcome.out
    assert "ended: command finished, status 7" in outcome.out
    entries = [line for line in outcome.lines if "→" in line]
    # The first is the agent's own last act: it becomes the shell of the command.
    assert "→ __x64_sys_execve(" in entries[0]
    assert len([line for line in entries if "personality" in line]) == 3
    assert re.search(r"^__x64_sys_personality +3 +0 +0 +3 ", outcome.out, re.MULTILINE)
    assert "\x1b" not in outcome.out


@pytest.mark.qemu
def test_max_hits_and_exclusion_and_entry_only() -> None:
    """The command never ends; the trace does, after its third hit of what is left to probe."""
    outcome = run_tool(
        "trace", "--backend", "rsp", "-i", "vfs_read*", "-x", "vfs_readv", "-x", "vfs_readlink", "--entry-only",
        "--max-hits", "3", "-f", "jsonl", "--", "while :; do cat /etc/motd; done",
    )  # fmt: skip
    assert (outcome.status, outcome.err) == (0, "")
    *events, summary = [json.loads(line) for line in outcome.lines]
    assert [event["func"] for event in events if event["type"] == "entry"] == ["vfs_read"] * 3
    assert (summary["hits"], summary["exits"], summary["ended"]) == (3, 0, "max-hits")
    assert summary["command_status"] is None


@pytest.mark.qemu
def test_from_boot() -> None:
    """The boot and then the command, in one trace, with the kernel's first function first."""
    functions = ("start_kernel", "proc_sys_init", "__x64_sys_sysinfo")
    includes = [word for name in functions for word in ("-i", name)]
    outcome = run_tool("trace", "--backend", "rsp", "--from-boot", *includes, "-f", "jsonl", "--", "free")
    assert (outcome.status, outcome.err) == (0, "")
    *events, summary = [json.loads(line) for line in outcome.lines]
    assert [event["func"] for event in events if event["type"] == "entry"] == list(functions)
    assert (summary["hits"], summary["exits"], summary["ended"]) == (3, 2, "command finished")
    assert summary["dispatch"].startswith("trampoline")


@pytest.mark.parametrize("at", ["boot", "trace"])
@pytest.mark.qemu
def test_terminal_is_left_clean(at: str) -> None:
    """A spinner while there is nothing else to see, wiped before the first event; Ctrl-C on the keyboard ends all."""
    argv = ["-m", "fprobe_gdb", "trace", "--backend", "rsp", "-i", "vfs_read", "--", "while :; do cat /etc/motd; done"]
    tool = pexpect.spawn(sys.executable, argv, env=terminal_env(), timeout=WAIT_SEC, dimensions=(24, 100))
    try:
        tool.expect("booting the guest")
        seen = tool.before + tool.after
        if at == "trace":
            tool.expect("FUNCTION")
            progress, seen = tool.before, b""
            # The spinner's line is erased, and the cursor shown again.
            assert progress.rindex(b"\x1b[2K") > progress.rindex(b"booting")
            assert b"\x1b[?25h" in progress
            tool.expect("vfs_read")
            # NO_COLOR: not one colour in what follows.
            assert b"\x1b" not in tool.before
        tool.sendintr()
        tool.expect(pexpect.EOF)
        rest = seen + tool.before
        tool.close()
    finally:
        tool.close(force=True)
    assert tool.exitstatus == 130
    assert b"fprobe-gdb: interrupted" in rest
    assert b"Traceback" not in rest
    assert rest.rfind(b"\x1b[?25h") >= rest.rfind(b"\x1b[?25l")
    if at == "trace":
        assert b"ended: interrupted" in rest


def terminal_env() -> dict[str, str]:
    return {**os.environ, "NO_COLOR": "1", "TERM": "xterm", "COLUMNS": "100"}


# Section: run


@pytest.mark.qemu
def test_run_a_script(tmp_path: Path) -> None:
    """probe(), handlers that print, the command's output, report(); COMMAND is what runs when none is given."""
    script = tmp_path / "personality.py"
    (tmp_path / "beside.py").write_text("NAME = '__x64_sys_personality'\n")
    script.write_text(
        "import beside\n"
        "from fprobe_gdb import Fprobe\n"
        "COMMAND = 'workload calls 4 >/dev/null; echo done'\n"
        "calls = Fprobe(lambda *_: print('hit'))\n"
        "def probe(k):\n"
        "    k.register_fprobe(calls, beside.NAME)\n"
        "def report(k):\n"
        "    print('hits', calls.hits)\n"
    )
    outcome = run_tool("run", str(script), "--backend", "rsp")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.lines == ["hit"] * 4 + ["done", "hits 4"]


@pytest.mark.qemu
def test_run_with_a_probe_that_matches_nothing(tmp_path: Path) -> None:
    """Exit 3, the near names, and the line of the script."""
    script = tmp_path / "none.py"
    script.write_text(
        "from fprobe_gdb import Fprobe\ndef probe(k):\n    k.register_fprobe(Fprobe(print), 'vfs_raed')\n"
    )
    outcome = run_tool("run", str(script), "--backend", "rsp", "--", "true")
    assert outcome.status == 3, outcome
    assert "did you mean vfs_read" in outcome.err
    assert 'none.py", line 3, in probe' in outcome.err


# Section: what needs no guest


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_list(kernel: str) -> None:
    """Just the locations of the functions that match, by address."""
    locations = KernelKnowledge.load(images.kernel(kernel).vmlinuz).locations
    wanted = [record for record in locations.records if record.name.startswith("vfs_")]
    outcome = run_tool("list", "-k", kernel, "vfs_*", "vfs_read")
    assert (outcome.status, outcome.err) == (0, "")
    assert [line.split()[0] for line in outcome.lines] == [f"{record.ip:016x}" for record in wanted]
    assert [line.split()[-1] for line in outcome.lines] == [record.name for record in wanted]
    assert len(wanted) > 30


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_list_verbose_says_why_not(kernel: str) -> None:
    """What matches and cannot be traced is listed with the reason, behind what can."""
    outcome = run_tool("list", "-v", "-k", kernel, "do_idle", "vmlinux_*", "jiffies", "start_kernel", "vfs_read")
    assert (outcome.status, outcome.err) == (0, "")
    reasons = dict(line.split(maxsplit=2)[2].split(": ", 1) for line in outcome.lines if line.split()[0] == "-")
    assert "data" in reasons["jiffies"]
    assert "init" in reasons["start_kernel"]
    assert any(re.search(r"fentry call .*\bvfs_read\b", line) for line in outcome.lines)


def test_list_tells_what_matches_nothing() -> None:
    """What matches is listed all the same; exit 3."""
    outcome = run_tool("list", "vfs_read", "vfs_reed", "no_such_function_*")
    assert outcome.status == 3
    assert [line.split()[-1] for line in outcome.lines] == ["vfs_read"]
    assert "'vfs_reed' matches no traceable function: no such kernel symbol; did you mean vfs_read" in outcome.err
    assert "'no_such_function_*' matches no traceable function" in outcome.err


def test_no_match_is_told_before_booting() -> None:
    """Near names, exit 3."""
    outcome = run_tool("trace", *NO_BOOT, "-i", "vfs_read", "-i", "vfs_raed", "--", "true")
    assert (outcome.status, outcome.out) == (3, "")
    assert "'vfs_raed' matches no traceable function" in outcome.err
    assert "did you mean vfs_read" in outcome.err


def test_everything_excluded() -> None:
    outcome = run_tool("trace", *NO_BOOT, "-i", "vfs_read", "-x", "vfs_rea?", "--", "true")
    assert (outcome.status, outcome.out) == (3, "")
    assert "vfs_rea? excludes everything that vfs_read matches" in outcome.err


def test_too_many_functions_are_refused_before_booting() -> None:
    """The number, the limit, the reason, and how to have it all the same."""
    outcome = run_tool("trace", *NO_BOOT, "--dispatch", "breakpoint", "-i", "*", "--", "true")
    assert (outcome.status, outcome.out) == (2, "")
    found = re.search(r"(\d+) functions match, but breakpoints serve 256: each one slows the whole guest", outcome.err)
    assert found
    assert int(found[1]) > 5_000
    assert f"--max-sites {found[1]}" in outcome.err


def test_limit_of_functions_can_be_moved() -> None:
    """--max-sites, down and up again."""
    few = ("trace", "--dispatch", "breakpoint", "--dry-run", "-i", "vfs_*", "--max-sites")
    refused = run_tool(*few, "3", "--", "true")
    assert refused.status == 2, refused
    assert "breakpoints serve 3" in refused.err
    wanted = re.search(r"--max-sites (\d+)", refused.err)
    assert wanted
    assert run_tool(*few, wanted[1], "--", "true").status == 0


def test_dry_run_boots_nothing() -> None:
    """QEMU's command line and the functions; QEMU itself need not exist."""
    outcome = run_tool(
        "trace", *NO_BOOT, "--dry-run", "--smp", "2", "--append", "foo=1 bar", "-i", "vfs_read", "--", "true"
    )
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.lines[-1] == "# 1 functions: vfs_read"
    argv = outcome.lines[-2]
    assert argv.startswith("/nonexistent/qemu ")
    assert "-smp 2" in argv
    assert "foo=1 bar'" in argv


def test_file_that_cannot_be_written() -> None:
    """Told before booting."""
    for path in ("/nonexistent/x", "/"):
        outcome = run_tool("trace", *NO_BOOT, "-i", "vfs_read", "-o", path, "--", "true")
        assert (outcome.status, outcome.out) == (2, "")
        assert f"-o {path}: " in outcome.err


def test_no_qemu() -> None:
    """What is missing, and the package that has it."""
    outcome = run_tool("trace", *NO_BOOT, "--backend", "rsp", "-i", "vfs_read", "--", "true")
    assert (outcome.status, outcome.out) == (2, "")
    assert "no program '/nonexistent/qemu'" in outcome.err
    assert "apt-get install qemu-system-x86" in outcome.err


def test_doctor_without_anything(tmp_path: Path) -> None:
    """An empty PATH: what is missing, the package of each, exit 1."""
    outcome = run_tool("doctor", PATH=str(tmp_path))
    assert outcome.status == 1
    missing = {line.split(maxsplit=1)[1].split(":")[0]: line for line in outcome.lines if line.startswith("MISSING")}
    assert {"QEMU", "GDB", "C compiler"} <= set(missing)
    for what, package in (("QEMU", "qemu-system-x86"), ("GDB", "gdb"), ("C compiler", "gcc libc6-dev")):
        assert missing[what].endswith(f"apt-get install {package}")


def test_closed_pipe_of_a_long_list() -> None:
    """``list '*' | head``: no complaint."""
    with Tool("list", "*") as tool:
        tool.until_output("fentry")
        tool.close_output()
        outcome = tool.finish()
    assert (outcome.status, outcome.err) == (0, "")


def test_signals_that_were_ignored_stay_ignored() -> None:
    """Under nohup a hang-up means nothing; SIGTERM still does."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        tool = Tool("list", "-v", "*")
    finally:
        signal.signal(signal.SIGHUP, before)
    with tool:
        tool.until_listening()
        tool.kill(signal.SIGHUP)
        tool.until_output("fentry")
        tool.kill(signal.SIGTERM)
        assert tool.finish().status == 128 + signal.SIGTERM
