"""A tool is killed while the guest of others runs a function for it: the task goes on as if nobody had asked it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emu.deadline import Deadline
from fprobe_gdb import Fprobe
from tests.integration import killed_caller
from tests.integration.stranger import BUSY, NOT_BUSY, Stranger
from tests.integration.tool import wait_gone

pytestmark = pytest.mark.qemu

# Each call is checked by the workload; what it is to do is behind a pointer in a register when the function is entered.
CALLS = "workload read 20 64"
DONE = b"done reads=20 bytes=1280 "
OOPS = "dmesg | grep -A40 -E 'BUG|Oops|WARNING|general protection|double fault'"
ENDED_SEC = 120.0


@pytest.fixture(scope="module", params=["6.1", "6.12"])
def stranger(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stranger]:
    guest = Stranger(request.param, tmp_path_factory.mktemp("call") / "gdb.sock", smp=2)
    with guest.machine as machine:
        machine.wait_boot(Deadline(ENDED_SEC))
        yield guest


# A tool that is killed at the end of the block, when it has come to this; with the process that would let the guest go,
# and its gdb, if it is not guarded. Then the next tool lets the guest go.
@contextmanager
def killed(stranger: Stranger, backend: str, phase: str, *, guarded: bool) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-m", killed_caller.__name__, str(stranger.path), stranger.kernel, backend, phase]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as tool:
        try:
            yield tool
            assert tool.stdout is not None
            assert tool.stdout.readline() == f"{phase}\n".encode()
            children = [int(pid) for pid in Path(f"/proc/{tool.pid}/task/{tool.pid}/children").read_text().split()]
            for pid in () if guarded else children:
                os.kill(pid, signal.SIGKILL)
        finally:
            tool.kill()
    wait_gone(children)
    if not guarded:
        with stranger.attach(dispatch="breakpoint"):
            pass


@pytest.mark.parametrize(
    ("backend", "phase", "guarded"),
    [
        ("rsp", "before", True),
        ("rsp", "inside", True),
        ("rsp", "inside", False),
        ("rsp", "ended", True),
        ("rsp", "ended", False),
        ("rsp", "behind", False),
        pytest.param("gdb", "inside", True, marks=pytest.mark.gdb),
        pytest.param("gdb", "ended", False, marks=pytest.mark.gdb),
    ],
)
def test_the_task_goes_on(stranger: Stranger, backend: str, phase: str, guarded: bool) -> None:
    with killed(stranger, backend, phase, guarded=guarded) as tool:
        assert tool.stdout is not None
        assert tool.stdout.readline() == b"ready\n"
        running = stranger.machine.agent.start(CALLS)
    result = running.wait(Deadline(ENDED_SEC))
    assert (result.status, stranger.shell(OOPS)) == (0, "")
    assert result.output.startswith(DONE)
    # And nothing stops it again.
    assert stranger.shell(CALLS).encode().startswith(DONE)


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
def test_a_tick_goes_on_in_which_memory_was_lent(stranger: Stranger, guarded: bool) -> None:
    stranger.shell(BUSY)
    try:
        with killed(stranger, "rsp", "lent", guarded=guarded):
            pass
        with stranger.attach() as k:
            counted = Fprobe(lambda *_: None, lambda *_: None)
            k.register_fprobe(counted, "__x64_sys_pread64")
            running = stranger.machine.agent.start(CALLS)
            k.run(timeout_sec=ENDED_SEC, until=stranger.ended(running))
            assert (counted.hits, counted.exits, counted.nmissed, counted.lost) == (20, 20, 0, 0)
    finally:
        stranger.shell(NOT_BUSY)
    assert stranger.shell(OOPS) == ""
