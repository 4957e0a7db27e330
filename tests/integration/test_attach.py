"""Attaching to a guest that somebody else started, with KASLR on, and letting go of it again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import images
from emu.deadline import Deadline
from emu.machine import Machine
from emu.spec import MachineSpec
from fprobe_gdb import Fprobe, Kernel
from fprobe_gdb.dispatch.base import RunEnd
from fprobe_gdb.errors import ImageError, TransportError, UsageError
from images.initramfs import build
from images.modules import module_files

pytestmark = pytest.mark.qemu

BUSY = "while workload calls 1 >/dev/null; do :; done"


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A booted guest with a busy loop in it, whose gdbstub listens at a socket."""
    path = tmp_path_factory.mktemp("gdb") / "gdb.sock"
    kernel = images.kernel("6.1")
    root = build(files=module_files(kernel, ["dummy"]))
    monitor = ("-qmp", f"unix:{path.with_name('qmp.sock')},server=on,wait=off")
    spec = MachineSpec(kernel.vmlinuz, root, smp=2, gdb_socket=path, extra_args=monitor)
    with Machine(spec) as machine:
        machine.wait_boot(Deadline(120))
        yield machine


def alive(machine: Machine) -> bool:
    return machine.agent.run("echo alive", Deadline(60)).output == b"alive\n"


@pytest.mark.parametrize(
    ("backend", "with_monitor"), [("rsp", False), ("rsp", True), ("gdb", False)], ids=["rsp", "rsp-qmp", "gdb"]
)
def test_attach_trace_and_let_go(stranger: Machine, backend: str, with_monitor: bool) -> None:
    path = stranger.spec.gdb_socket
    assert path is not None
    running = stranger.agent.start(BUSY)
    qmp = path.with_name("qmp.sock") if with_monitor else None
    with Kernel.attach(path, "6.1", backend=backend, qmp=qmp) as k:
        fp = Fprobe(None, lambda fp, *_: k.stop() if fp.exits == 20 else None)
        k.register_fprobe(fp, "__x64_sys_personality")
        assert k.run(timeout_sec=120) is RunEnd.DONE
        with pytest.raises(UsageError, match="no commands"):
            k.shell("true")
    stranger.agent.interrupt("KILL")
    running.wait(Deadline(60))
    assert (fp.hits, fp.exits, fp.nmissed) == (20, 20, 0)
    assert alive(stranger)


def test_another_kernel_is_refused_and_the_guest_runs_on(stranger: Machine) -> None:
    assert stranger.spec.gdb_socket is not None
    with pytest.raises(ImageError, match="does not run this kernel"):
        Kernel.attach(stranger.spec.gdb_socket, "6.12", backend="rsp")
    assert alive(stranger)


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="no gdbstub"):
        Kernel.attach(tmp_path / "none.sock", "6.1", backend="rsp")


def test_command_line(stranger: Machine) -> None:
    """``fprobe-gdb attach`` traces for a time and leaves the guest as it was."""
    running = stranger.agent.start(BUSY)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "fprobe_gdb", "attach", str(stranger.spec.gdb_socket)),
            *("-i", "__x64_sys_personality", "--max-hits", "5", "--timeout", "60", "-f", "jsonl", "--stack"),
            "f:oracle/never do_coredump",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    stranger.agent.interrupt("KILL")
    running.wait(Deadline(60))
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["type"] for event in events].count("entry") == 5
    assert all(event["stack"][0].startswith("__x64_sys_personality+") for event in events if event["type"] == "entry")
    assert events[-1]["ended"] == "max-hits"
    assert {row["func"]: row["hits"] for row in events[-1]["functions"]} == {
        "__x64_sys_personality": 5, "oracle/never": 0,
    }  # fmt: skip
    assert alive(stranger)


def test_a_module_that_comes_and_goes_in_a_guest_of_others(stranger: Machine) -> None:
    """Whatever its state is when we get hold of the guest."""
    assert stranger.spec.gdb_socket is not None
    running = stranger.agent.start("while modprobe dummy && ip link add d1 type dummy && rmmod dummy; do :; done")
    with Kernel.attach(stranger.spec.gdb_socket, "6.1", backend="rsp") as k:
        loads: list[bool] = []
        k.on_module = lambda change: loads.append(change.loaded)
        fp = Fprobe(None, lambda fp, entry_ip, *_: names.add(k.records.name_at(entry_ip)))
        names: set[str] = set()
        k.register_fprobe_mod(fp, "dummy_setup [dummy]")
        assert k.run(timeout_sec=120, until=lambda: loads.count(False) >= 3) is RunEnd.DONE
        assert (fp.exits, names) == (fp.hits, {"dummy_setup [dummy]"})
        assert fp.hits >= 4
        assert k.locations(fp) == []
    stranger.agent.interrupt("KILL")
    running.wait(Deadline(60))
    assert alive(stranger)
    assert stranger.agent.run("rmmod dummy; modprobe dummy && rmmod dummy", Deadline(60)).status == 0
