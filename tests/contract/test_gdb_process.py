"""What belongs to gdb as a process: it may be missing or die, and it never outlives us."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emu.deadline import Deadline
from fprobe_gdb.errors import TargetLost, TransportError
from fprobe_gdb.target.base import TargetState
from fprobe_gdb.target.gdb import GdbTarget
from fprobe_gdb.transport.process import PrivateSocket
from tests.contract.rigs import Rig, qemu_rig

pytestmark = [pytest.mark.gdb, pytest.mark.qemu]


@pytest.fixture
def rig(guest_image: Path, qemu_argv: Callable[[str], list[str]]) -> Iterator[Rig]:
    with qemu_rig("gdb", qemu_argv("installed"), guest_image, 1) as rig:
        yield rig


def kill_gdb(rig: Rig) -> None:
    assert isinstance(rig.target, GdbTarget)
    os.kill(rig.target.pid, signal.SIGKILL)


def test_gdb_killed_while_the_guest_runs(rig: Rig) -> None:
    rig.target.resume()
    kill_gdb(rig)
    with pytest.raises(TargetLost, match="gdb"):
        rig.target.wait(Deadline(20))
    assert rig.target.state is TargetState.LOST


def test_gdb_killed_while_the_guest_is_stopped(rig: Rig) -> None:
    kill_gdb(rig)
    with pytest.raises(TargetLost, match="gdb"):
        rig.target.read_memory(0x200000, 8)
    with pytest.raises(TargetLost, match="gdb"):
        rig.target.resume()


def test_a_missing_gdb_names_its_package() -> None:
    with pytest.raises(TransportError, match="apt-get install gdb"):
        GdbTarget("/nonexistent/socket", gdb="no-such-gdb")


def test_nobody_at_the_socket(tmp_path: Path) -> None:
    with pytest.raises(TargetLost, match="cannot connect"):
        GdbTarget(tmp_path / "nobody")


def test_a_program_that_is_no_gdb() -> None:
    with pytest.raises(TargetLost):
        GdbTarget("/nonexistent/socket", gdb="true")


def test_the_private_socket_leaves_nothing_behind() -> None:
    with PrivateSocket() as place:
        assert place.path.parent.stat().st_mode & 0o777 == 0o700
        place.path.touch()
        place.remove()
        assert not place.path.parent.exists()
    place.remove()


def test_gdb_dies_with_us_even_by_sigkill() -> None:
    script = (
        "import sys, time\n"
        "from fprobe_gdb.transport.process import ProcessLink\n"
        "link = ProcessLink(('gdb', '--nx', '--quiet', '--interpreter=mi3'), 'gdb')\n"
        "print(link.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as tool:
        assert tool.stdout is not None
        pid = int(tool.stdout.readline())
        # Readable once the process has ended, whoever collects it.
        watched = os.pidfd_open(pid)
        tool.kill()
    try:
        assert select.select([watched], [], [], 20)[0]
    finally:
        os.close(watched)
