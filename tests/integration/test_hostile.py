"""Everything that can go wrong while tracing ends with a clear message, the right exit code, and no guest lost."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import images
from fprobe_gdb import Fprobe, Kernel
from fprobe_gdb.errors import MemoryFault, TargetLost
from tests.integration.tool import WAIT_SEC, Outcome, Tool, run_tool, wait_gone

pytestmark = pytest.mark.qemu

ENDLESS = "while :; do cat /etc/motd; done"
TRACE = ("trace", "--backend", "rsp", "-i", "vfs_read")
# Python's own words for an exception, which no user should see but for his own code.
TRACEBACK = "Traceback (most recent call last)"


def assert_guest_is_well(k: Kernel) -> None:
    """Nothing is planted, and the guest does as before."""
    assert k.calls_in_flight == 0
    counted = Fprobe()
    k.register_fprobe(counted, "__x64_sys_personality")
    assert k.shell("workload calls 7").status == 0
    assert counted.hits == 7
    k.unregister_fprobe(counted)


# Section: handlers that fail, on a guest that lives on


@pytest.mark.parametrize("backend", ["rsp", pytest.param("gdb", marks=pytest.mark.gdb)])
@pytest.mark.parametrize("side", ["entry", "exit"])
def test_handler_raises(guest: Callable[..., Kernel], backend: str, side: str) -> None:
    """The first exception comes out of shell(); all probes are gone and the guest is usable."""
    k = guest(backend=backend)
    raised: list[Exception] = []

    def fail(*_: object) -> None:
        raised.append(ValueError(f"number {len(raised)}"))
        raise raised[-1]

    bad = Fprobe(fail) if side == "entry" else Fprobe(lambda *_: None, fail)
    other = Fprobe(lambda *_: None, lambda *_: None)
    k.register_fprobe(bad, "__x64_sys_personality")
    k.register_fprobe(other, "__x64_sys_personality")
    with pytest.raises(ValueError, match="number 0") as caught:
        k.shell("workload calls 5")
    assert caught.value is raised[0]
    assert len(raised) == 1
    assert_guest_is_well(k)


def test_unmapped_address_in_a_handler(guest: Callable[..., Kernel]) -> None:
    """A typed error with the address; a handler that catches it goes on, and so does the guest."""
    k = guest()
    faults: list[MemoryFault] = []

    def read_nowhere(*_: object) -> None:
        for addr in (0, 0xDEAD_BEEF_0000, 0xFFFF_FFFF_FFFF_FFF8):
            with pytest.raises(MemoryFault) as caught:
                k.read_u64(addr)
            faults.append(caught.value)

    fp = Fprobe(read_nowhere)
    k.register_fprobe(fp, "__x64_sys_personality")
    assert k.shell("workload calls 2").status == 0
    k.unregister_fprobe(fp)
    assert [fault.addr for fault in faults] == [0, 0xDEAD_BEEF_0000, 0xFFFF_FFFF_FFFF_FFF8] * 2
    assert {fault.size_bytes for fault in faults} == {8}
    assert_guest_is_well(k)


def test_agent_is_killed_by_the_command() -> None:
    """kill -9 of everything but init: the guest's agent is started anew, the command's fate is said to be unknown."""
    outcome = run_tool(*TRACE, "--", "kill -9 -1; kill -9 $PPID; kill -9 $(pgrep -P 1)")
    assert outcome.status == 4, outcome
    assert "is unknown" in outcome.err
    assert TRACEBACK not in outcome.err
    assert "ended: guest died" in outcome.out


# Section: guests that die


@pytest.mark.parametrize(
    ("command", "message", "console"),
    [
        ("echo c > /proc/sysrq-trigger", "the guest's kernel panicked", "sysrq triggered crash"),
        ("poweroff -f", "powered off or rebooted from inside", "reboot: Power down"),
    ],
    ids=["panic", "poweroff"],
)
def test_guest_ends_while_traced(command: str, message: str, console: str) -> None:
    """Exit 4, the reason and the last console lines on standard error, and the summary all the same."""
    outcome = run_tool(*TRACE, "-f", "jsonl", "--", command)
    assert outcome.status == 4, outcome
    assert message in outcome.err
    assert console in outcome.err
    assert TRACEBACK not in outcome.err
    events = [json.loads(line) for line in outcome.lines]
    assert events[-1]["type"] == "summary"
    assert events[-1]["ended"] == "guest died"
    assert events[-1]["hits"] == sum(event["type"] == "entry" for event in events) > 0
    assert any(console in event["line"] for event in events if event["type"] == "console")


@pytest.mark.parametrize(
    ("backend", "victim", "message"),
    [
        ("rsp", "qemu", "signal 9"),
        pytest.param("gdb", "qemu", "signal 9", marks=pytest.mark.gdb),
        pytest.param("gdb", "gdb", "gdb", marks=pytest.mark.gdb),
    ],
)
def test_program_behind_is_killed(backend: str, victim: str, message: str) -> None:
    """QEMU or gdb is killed in the middle of a trace: exit 4, the reason, the summary, and no process left."""
    with Tool("trace", "--backend", backend, "-i", "vfs_read", "--", ENDLESS) as tool:
        tool.until_output("vfs_read(")
        pids = tool.children()
        os.kill(tool.until_child(victim), signal.SIGKILL)
        outcome = tool.finish()
    assert outcome.status == 4, outcome
    assert message in outcome.err
    assert TRACEBACK not in outcome.err
    assert "ended: guest died" in outcome.out
    wait_gone(pids)


@pytest.mark.parametrize("began", [False, True])
def test_qemu_is_killed_between_two_runs(began: bool) -> None:
    """Whoever sees it first, the agent or the debugger: one error, with the reason."""
    with Kernel.boot("6.1", backend="rsp") as k:
        if began:
            k.start("sleep 100")
        qemu = os.pidfd_open(k.machine.pid)
        try:
            os.kill(k.machine.pid, signal.SIGKILL)
            assert select.select([qemu], [], [], WAIT_SEC)[0]
        finally:
            os.close(qemu)
        for use in (lambda: k.start("true"), lambda: k.shell("true"), lambda: k.run(timeout_sec=10)):
            with pytest.raises(TargetLost, match="signal 9"):
                use()


def with_init(tmp_path: Path, script: str, *options: str) -> Outcome:
    init = tmp_path / "init"
    init.write_text(script)
    init.chmod(0o755)
    return run_tool(*TRACE, "--append", "rdinit=/other", "--file", f"/other={init}", *options, "--", "true")


def test_guest_without_our_agent(tmp_path: Path) -> None:
    """An init that never reports: exit 5 after --boot-timeout, with what the console said."""
    script = "#!/bin/busybox sh\necho I am not the agent >/dev/console\nexec /bin/busybox sleep 1000000\n"
    said = False
    # On a busy machine the guest gets there later.
    for timeout_sec in (4, 16, 64):
        if not said:
            outcome = with_init(tmp_path, script, "--boot-timeout", str(timeout_sec))
            assert outcome.status == 5, outcome
            assert f"not up after {timeout_sec} s" in outcome.err
            assert outcome.out == ""
            said = "I am not the agent" in outcome.err
    assert said, outcome.err


def test_init_that_ends(tmp_path: Path) -> None:
    """The kernel panics for want of a first process: exit 4 at once, not a timeout."""
    outcome = with_init(tmp_path, "#!/bin/busybox sh\nexit 3\n")
    assert outcome.status == 4, outcome
    assert "Attempted to kill init" in outcome.err
    assert TRACEBACK not in outcome.err


# Section: being asked to end


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_interrupted_while_tracing(signum: int, status: int) -> None:
    """In the middle of a flood of hits, console lines and kernel messages: the summary, and nothing left."""
    noise = "while :; do cat /etc/motd; echo noise >/dev/kmsg; printf 'a\\033[2J\\033]0;x\\007b\\n'; done"
    with Tool(*TRACE, "-f", "jsonl", "--append", "loglevel=7", "--", noise) as tool:
        # The console is behind the trace, and it is not our reading that delays the signal.
        tool.until_output('"exit"')
        tool.until_output('"source":"command"')
        pids = tool.children()
        tool.kill(signum)
        outcome = tool.finish()
    assert outcome.status == status, outcome.err
    assert "interrupted" in outcome.err
    assert TRACEBACK not in outcome.err
    # A line is written whole, and what the guest prints cannot reach the terminal as it is.
    events = [json.loads(line) for line in outcome.lines]
    assert "\x1b" not in outcome.out
    assert "\x07" not in outcome.out
    assert (events[-1]["type"], events[-1]["ended"]) == ("summary", "interrupted")
    assert events[-1]["hits"] == sum(event["type"] == "entry" for event in events)
    wait_gone(pids)


@pytest.mark.parametrize("seed", range(3))
def test_interrupted_at_any_moment_before_the_trace(seed: int) -> None:
    """While symbols are read, while QEMU starts, while the guest boots: exit 130, a word, and no QEMU."""
    with Tool(*TRACE, "--", ENDLESS) as tool:
        tool.until_listening()
        if seed % 2:
            tool.until_child("qemu")
        signal_after_sec = random.Random(seed).uniform(0, 1.2)
        with pytest.raises(subprocess.TimeoutExpired):
            tool.wait(signal_after_sec)
        pids = tool.children()
        tool.kill(signal.SIGINT)
        outcome = tool.finish()
    assert outcome.status == 130, outcome
    assert "fprobe-gdb: interrupted" in outcome.err
    assert TRACEBACK not in outcome.err
    wait_gone(pids)


def test_second_interrupt_ends_an_endless_handler(tmp_path: Path) -> None:
    """A handler that never returns: the first Ctrl-C waits for it, the second one does not."""
    script = tmp_path / "endless.py"
    script.write_text(
        "from fprobe_gdb import Fprobe\n"
        "def forever(*_):\n"
        "    print('in the handler', flush=True)\n"
        "    while True: pass\n"
        "def probe(k):\n"
        "    k.register_fprobe(Fprobe(forever), 'vfs_read')\n"
        "def report(k):\n"
        "    print('reported', flush=True)\n"
    )
    with Tool("run", str(script), "--backend", "rsp", "--", "true") as tool:
        tool.until_output("in the handler")
        pids = tool.children()
        tool.kill(signal.SIGINT)
        tool.until(lambda: not tool.pending(signal.SIGINT), "first signal taken")
        tool.kill(signal.SIGINT)
        outcome = tool.finish()
    assert outcome.status == 130, outcome
    assert outcome.lines == ["in the handler", "reported"]
    assert TRACEBACK not in outcome.err
    wait_gone(pids)


def test_command_that_never_ends() -> None:
    """--timeout: exit 5, the command named, the summary."""
    outcome = run_tool(*TRACE, "--timeout", "1", "--", "echo started; sleep 1000000")
    assert outcome.status == 5, outcome
    assert "'echo started; sleep 1000000' has not ended after 1 s" in outcome.err
    assert "ended: timeout" in outcome.out


# Section: scripts that fail


def test_run_shows_the_traceback_of_a_handler(tmp_path: Path) -> None:
    """Exit 1, and the user's own frames: where in his script it happened."""
    script = tmp_path / "bad.py"
    script.write_text(
        "from fprobe_gdb import Fprobe\n"
        "def check(fp, entry_ip, ret_ip, regs, data):\n"
        "    assert regs.di == 42, 'di is not what I thought'\n"
        "def probe(k):\n"
        "    k.register_fprobe(Fprobe(check), 'vfs_read')\n"
        "def report(k):\n"
        "    print('not after a failure')\n"
    )
    outcome = run_tool("run", str(script), "--backend", "rsp", "--", "cat /etc/motd")
    assert outcome.status == 1, outcome
    assert "AssertionError: di is not what I thought" in outcome.err
    assert 'bad.py", line 3, in check' in outcome.err
    assert "breakpoint.py" not in outcome.err
    assert outcome.out == ""


# Section: output that cannot be written


def test_disk_full() -> None:
    """Exit 1 and the reason, without a traceback."""
    with open("/dev/full", "w") as full:
        outcome = run_tool(*TRACE, "--", "cat /etc/motd", stdout=full)
    assert outcome.status == 1, outcome
    assert "No space left on device" in outcome.err
    assert TRACEBACK not in outcome.err


def test_reader_goes_away() -> None:
    """``| head -3``: exit 0, not a word, and the endless command does not matter."""
    with Tool(*TRACE, "--", ENDLESS) as tool:
        tool.until_output("vfs_read(")
        pids = tool.children()
        tool.close_output()
        outcome = tool.finish()
    assert (outcome.status, outcome.err) == (0, "")
    wait_gone(pids)


# Section: kernels that are none


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "missing"])
def test_no_kernel(damage: str, tmp_path: Path) -> None:
    """A message that names the file, exit 2, and nothing is booted."""
    path = tmp_path / "bzImage"
    whole = images.kernel("6.1").vmlinuz.read_bytes()
    contents = {"truncated": whole[: len(whole) // 2], "text": b"# not a kernel\n" * 999, "empty": b""}
    if damage in contents:
        path.write_bytes(contents[damage])
    outcome = run_tool(*TRACE, "-k", str(path), "--", "true")
    assert outcome.status == 2, outcome
    assert str(path) in outcome.err
    assert TRACEBACK not in outcome.err
    assert outcome.out == ""
