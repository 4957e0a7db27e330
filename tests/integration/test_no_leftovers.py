"""However the tool ends, nothing of it stays: no QEMU, no gdb, no file."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.tool import Tool, wait_gone

pytestmark = pytest.mark.qemu

ENDLESS = "while :; do cat /etc/motd; done"


def in_qemu(tool: Tool) -> None:
    tool.until_child("qemu")


def in_gdb(tool: Tool) -> None:
    tool.until_child("gdb")


# Python looks by a file of its own whether it may write there.
def directories(tmp: Path) -> list[Path]:
    return [path for path in tmp.iterdir() if path.is_dir()]


def with_socket_file(tool: Tool, tmp: Path) -> None:
    tool.until(lambda: bool(directories(tmp)), "directory for the connection of gdb and QEMU")


def in_trace(tool: Tool) -> None:
    tool.until_output("vfs_read(")


def trace(backend: str, tmp: Path) -> Tool:
    return Tool("trace", "-i", "vfs_read", "--backend", backend, "--", ENDLESS, tmp=tmp)


def assert_nothing_left(pids: list[int], tmp: Path) -> None:
    wait_gone(pids)
    assert list(tmp.iterdir()) == []


@pytest.mark.gdb
@pytest.mark.parametrize(
    ("backend", "moment"),
    [("gdb", in_qemu), ("gdb", in_gdb), ("gdb", in_trace), ("rsp", in_qemu), ("rsp", in_trace)],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_killed_with_9(backend: str, moment: Callable[[Tool], None], tmp_path: Path) -> None:
    """The kernel and a guard of our own do what the tool cannot do any more."""
    with trace(backend, tmp_path) as tool:
        moment(tool)
        pids = tool.children()
        assert pids
        tool.kill(signal.SIGKILL)
        assert tool.finish().status == -signal.SIGKILL
    assert_nothing_left(pids, tmp_path)


@pytest.mark.gdb
def test_killed_with_9_while_the_socket_has_a_name(tmp_path: Path) -> None:
    """gdb can only connect to a socket with a name; it does not outlive a kill in that second."""
    with trace("gdb", tmp_path) as tool:
        with_socket_file(tool, tmp_path)
        (directory,) = directories(tmp_path)
        assert directory.stat().st_mode & 0o777 == 0o700
        pids = tool.children()
        tool.kill(signal.SIGKILL)
        tool.finish()
    assert_nothing_left(pids, tmp_path)


@pytest.mark.gdb
def test_socket_has_no_name_once_gdb_is_connected(tmp_path: Path) -> None:
    """While tracing, there is nothing that somebody else could connect to, and no guard any more."""
    with trace("gdb", tmp_path) as tool:
        in_trace(tool)
        assert list(tmp_path.iterdir()) == []
        names = sorted(os.path.basename(os.readlink(f"/proc/{pid}/exe")) for pid in tool.children())
        assert names == ["gdb", "qemu-system-x86_64"]
        assert not listening_inodes() & set(socket_inodes(tool.pid))
        for pid in tool.children():
            assert not listening_inodes() & set(socket_inodes(pid)), names
        pids = tool.children()
        tool.kill(signal.SIGTERM)
        assert tool.finish().status == 128 + signal.SIGTERM
    assert_nothing_left(pids, tmp_path)


# Inodes of TCP sockets in state LISTEN (0A), of both families.
def listening_inodes() -> set[str]:
    lines = [line for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {line.split()[9] for line in lines if line.split()[3] == "0A"}


def socket_inodes(pid: int) -> list[str]:
    links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    return [link.removeprefix("socket:[").rstrip("]") for link in links if link.startswith("socket:[")]
