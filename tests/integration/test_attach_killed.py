"""A tool that is killed while the guest of others is stopped by it, or has its breakpoints."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emu.deadline import Deadline
from fprobe_gdb.dispatch.base import RunEnd, stop_guest
from fprobe_gdb.errors import WaitTimeout
from fprobe_gdb.probe.fprobe import Fprobe
from fprobe_gdb.transport.let_go import let_go
from fprobe_gdb.transport.link import SocketLink
from fprobe_gdb.transport.rsp import frame
from fprobe_gdb.transport.rsp_session import Request, RspSession
from tests.integration.stranger import BUSY, NOT_BUSY, Stranger
from tests.integration.tool import Tool, wait_gone

pytestmark = pytest.mark.qemu


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stranger]:
    """Two busy CPUs, and a monitor."""
    path = tmp_path_factory.mktemp("killed")
    monitor = ("-qmp", f"unix:{path / 'qmp.sock'},server=on,wait=off")
    guest = Stranger("6.1", path / "gdb.sock", smp=2, extra_args=monitor)
    with guest.machine as machine:
        machine.wait_boot(Deadline(120))
        guest.shell(BUSY)
        yield guest
        guest.shell(NOT_BUSY)


# A tool that has seen some hits by breakpoints.
def traced(stranger: Stranger, tmp_path: Path, *more: str) -> Tool:
    where = (str(stranger.path), "-k", "6.1", "-f", "jsonl", "--dispatch", "breakpoint")
    tool = Tool("attach", *where, "-i", "__x64_sys_personality", "--timeout", "100", *more, tmp=tmp_path)
    tool.until_output('"exit"')
    return tool


@pytest.mark.parametrize("way", ["rsp", "rsp-qmp", "gdb"])
def test_the_guest_runs_on(stranger: Stranger, tmp_path: Path, way: str) -> None:
    """Whatever the tool was about; most of the time the guest is stopped."""
    monitor = ("--qmp", str(stranger.path.with_name("qmp.sock"))) if way == "rsp-qmp" else ()
    before = stranger.text()
    with traced(stranger, tmp_path, "--backend", way[:3], *monitor) as tool:
        children = tool.children()
        tool.kill()
        wait_gone(children)
    assert "alive" in stranger.shell("echo alive")
    assert stranger.text() == before


def test_a_guest_is_let_go_in_the_middle_of_anything(stranger: Stranger) -> None:
    """What a tool may have said to the stub as its last words."""
    with stranger.attach(dispatch="breakpoint") as k:
        ip = k.records.ftrace_location(k.address("__x64_sys_personality"))
    look, stop = frame(b"m%x,800" % ip), frame(b"Z0,%x,1" % ip)
    for last_words in (
        [],
        [frame(b"g"), look],
        [look[:-1]],
        [look[:-5]],
        [b"$"],
        [frame(b"Qqemu.PhyMemMode:1"), frame(b"m0,8")],
        [stop, frame(b"vCont;c")],
        [stop, frame(b"vCont;s:1")],
        [frame(b"D;1"), b"$", stop, frame(b"c")],
        [frame(b"D;1")],
    ):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(stranger.path))
            sock.sendall(b"".join(last_words))
            assert let_go(sock), last_words
        assert "alive" in stranger.shell("echo alive"), last_words
    # Virtual memory is meant again.
    assert stranger.text()


# A connection on which nobody says another word.
@contextmanager
def dead_client(stranger: Stranger) -> Iterator[tuple[RspSession, socket.socket]]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(stranger.path))
        session = RspSession(SocketLink(sock, "the gdbstub"), 60)
        # Of QEMU up to 8.0, since it has been stopped.
        session.exchange([Request(b"qC")])
        session.reports.clear()
        yield session, sock


# Leaves a vCPU, not the first one, with a step that it takes when it wakes up.
def halt_in_a_step(session: RspSession) -> None:
    deadline = Deadline(60)
    while True:
        session.resume(b"vCont;s:2")
        if not session.next_report(deadline.within(0.2)):
            return
        assert not deadline.expired, "never halted"
        # And a bit further.
        session.resume(b"c")
        assert not session.next_report(deadline.within(0.01))
        session.interrupt()
        assert session.next_report(deadline)


@pytest.mark.parametrize("backend", ["rsp", "gdb"])
@pytest.mark.parametrize("left", ["breakpoints", "step"])
def test_nothing_is_left_of_a_dead_client(stranger: Stranger, backend: str, left: str) -> None:
    """On no vCPU: both run, and nothing stops them."""
    with stranger.attach(dispatch="breakpoint") as k:
        ip = k.records.ftrace_location(k.address("__x64_sys_personality"))
    with dead_client(stranger) as (session, _):
        if left == "breakpoints":
            assert session.exchange([Request(b"Z0,%x,1" % ip)]) == [b"OK"]
        else:
            halt_in_a_step(session)
    with stranger.attach(dispatch="breakpoint", backend=backend) as k:
        k.target.resume()
        with pytest.raises(WaitTimeout):
            k.target.wait(Deadline(1))
        stop_guest(k.target)
    assert "alive" in stranger.shell("echo alive")


def test_a_guest_is_let_go_in_a_step(stranger: Stranger) -> None:
    with dead_client(stranger) as (session, sock):
        halt_in_a_step(session)
        assert let_go(sock)
    assert stranger.shell("workload calls 100") == "done calls=100\n"


def test_the_next_tool_finds_the_guest_where_nobody_stood_by(stranger: Stranger, tmp_path: Path) -> None:
    with traced(stranger, tmp_path) as tool:
        for pid in tool.children():
            os.kill(pid, signal.SIGKILL)
        tool.kill()
    with socket.socket(socket.AF_UNIX) as sock:
        # And another one, while it read physical memory.
        sock.connect(str(stranger.path))
        sock.sendall(frame(b"Qqemu.PhyMemMode:1"))
        sock.settimeout(60)
        seen = b""
        while b"$OK#" not in seen:
            seen += sock.recv(64)
    running = stranger.machine.agent.start("echo alive")
    with stranger.attach(dispatch="breakpoint") as k:
        probe = Fprobe(lambda fp, *_: k.stop() if fp.hits == 5 else None)
        k.register_fprobe(probe, "__x64_sys_personality")
        assert k.run(timeout_sec=120) is RunEnd.DONE
    assert running.wait(Deadline(120)).output == b"alive\n"
