"""Real guests: they boot, run commands exactly, end with a reason, and leave nothing behind."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

import images
from emu.agent import RunningCommand
from emu.deadline import Deadline
from emu.errors import (
    AgentLost,
    BootTimeout,
    CommandTimeout,
    GuestLostError,
    GuestPanicError,
    LaunchError,
    QMPError,
    TransferError,
)
from emu.machine import Machine
from emu.spec import MachineSpec
from images import initramfs

pytestmark = pytest.mark.qemu

KERNELS = ("6.1", "6.12")
BOOT_SEC = 120
COMMAND_SEC = 60


def spec(named: str = "6.1", **fields: object) -> MachineSpec:
    ours: dict[str, object] = {"kernel": images.kernel(named).vmlinuz, "initramfs": initramfs.build(workload=False)}
    return MachineSpec(**(ours | fields))  # type: ignore[arg-type]


@contextlib.contextmanager
def booted(spec: MachineSpec) -> Iterator[Machine]:
    with Machine(spec) as machine:
        machine.wait_boot(Deadline(BOOT_SEC))
        yield machine


@pytest.fixture(scope="module")
def guest() -> Iterator[Machine]:
    with booted(spec()) as machine:
        yield machine


def run(machine: Machine, command: str) -> tuple[int, bytes]:
    result = machine.agent.run(command, Deadline(COMMAND_SEC))
    return result.status, result.output


def await_output(machine: Machine, running: RunningCommand, wanted: bytes) -> None:
    limit = Deadline(COMMAND_SEC)
    got = b""
    while wanted not in got:
        assert not limit.expired, got
        machine.wait(limit)
        assert running.poll() is None
        got += running.take_output()


@pytest.mark.parametrize("smp", [1, 2])
@pytest.mark.parametrize("kernel", KERNELS)
def test_boots(kernel: str, smp: int) -> None:
    with booted(spec(kernel, smp=smp)) as machine:
        assert machine.agent.release == images.kernel(kernel).release
        assert run(machine, "uname -r; nproc; hostname") == (0, f"{machine.agent.release}\n{smp}\nguest\n".encode())
        status, mounts = run(machine, "while read -r dev dir type rest; do echo $type; done </proc/mounts")
        assert status == 0
        assert {b"proc", b"sysfs", b"devtmpfs", b"tracefs"} <= set(mounts.split())


@pytest.mark.parametrize("kernel", KERNELS)
def test_qemu_10(kernel: str) -> None:
    qemu = images.emulator("qemu-10.0")
    with booted(spec(kernel, smp=2, qemu=qemu.binary, data_dirs=qemu.data_dirs)) as machine:
        assert machine.qmp("query-version", Deadline(10))["qemu"]["major"] == 10
        assert run(machine, "echo $((6 * 7))") == (0, b"42\n")


@pytest.mark.parametrize(
    ("command", "status", "output"),
    [
        ("exit 3", 3, b""),
        ("exit 255", 255, b""),
        ("false", 1, b""),
        ("kill -9 $$", 128 + 9, b""),
        ("kill -INT $$; echo survived", 128 + 2, b""),
        ("kill -SEGV $$", 128 + 11, b""),
        ("echo out; echo err >&2; echo out", 0, b"out\nerr\nout\n"),
        (r"printf 'no newline, \000\001\377\r\n\t'", 0, b"no newline, \x00\x01\xff\r\n\t"),
        ("cat; [ -t 0 ] || [ -t 1 ] || [ -t 2 ] || echo no terminal", 0, b"no terminal\n"),
        ("printf '\\0\\1emu END 0123456789abcdef 0\\n'; exit 5", 5, b"\0\1emu END 0123456789abcdef 0\n"),
        ("echo \"$HOME\" '$HOME' `pwd` 'ä' ;# comment", 0, "/root $HOME / ä\n".encode()),
        ("for i in 1 2\ndo\n\techo $i\ndone\n", 0, b"1\n2\n"),
        ("", 0, b""),
        ("no-such-program 2>/dev/null", 127, b""),
        ("dmesg -n 8; echo '<3>noise on the console' >/dev/kmsg; echo clean", 0, b"clean\n"),
    ],
)
def test_status_and_output(guest: Machine, command: str, status: int, output: bytes) -> None:
    assert run(guest, command) == (status, output)


def test_a_syntax_error_is_the_commands(guest: Machine) -> None:
    status, output = run(guest, "if then; '")
    assert status == 2
    assert b"syntax error" in output
    assert run(guest, "echo still here") == (0, b"still here\n")


def test_a_megabyte_of_any_bytes(guest: Machine) -> None:
    data = random.Random(1).randbytes(1 << 16)
    limit = Deadline(COMMAND_SEC)
    guest.agent.put("/tmp/a b'c", data, limit)
    status, output = run(guest, """cd /tmp; f="a b'c"; for i in 1 2 3 4; do cat "$f" "$f" "$f" "$f"; done""")
    assert (status, len(output)) == (0, 1 << 20)
    assert hashlib.sha256(output).digest() == hashlib.sha256(data * 16).digest()
    assert guest.agent.get("/tmp/a b'c", limit) == data


def test_a_long_command(guest: Machine) -> None:
    text = "x" * 100_000
    assert run(guest, f"set -- {text}; echo ${{#1}}; exit 9") == (9, b"100000\n")


def test_transfer_that_fails(guest: Machine) -> None:
    with pytest.raises(TransferError, match="/nowhere/file"):
        guest.agent.put("/nowhere/file", b"x", Deadline(COMMAND_SEC))
    with pytest.raises(TransferError, match="No such file"):
        guest.agent.get("/nowhere/file", Deadline(COMMAND_SEC))


def test_background_children_do_not_hold_the_command(guest: Machine) -> None:
    assert run(guest, "(usleep 300000; echo late) & echo early") == (0, b"early\n")
    assert run(guest, "sleep 1; echo next") == (0, b"next\n")


def test_interrupt(guest: Machine) -> None:
    running = guest.agent.start("trap 'echo caught; exit 4' INT; echo go; while :; do usleep 10000; done")
    await_output(guest, running, b"go\n")
    guest.agent.interrupt()
    assert running.wait(Deadline(COMMAND_SEC)).status == 4
    running = guest.agent.start("sleep 1000 | cat")
    guest.agent.interrupt("KILL")  # perhaps before it has begun
    assert running.wait(Deadline(COMMAND_SEC)).status == 128 + 9


def test_deadline_then_result(guest: Machine) -> None:
    running = guest.agent.start("echo begun; sleep 1000")
    limit = Deadline(COMMAND_SEC)
    await_output(guest, running, b"begun\n")
    with pytest.raises(CommandTimeout) as caught:
        running.wait(Deadline(0.1))
    assert caught.value.output == b"begun\n"
    guest.agent.interrupt("TERM")
    result = running.wait(limit)
    assert (result.status, result.output) == (128 + 15, b"begun\n")


def test_background_children_live_on(guest: Machine) -> None:
    assert run(guest, "(usleep 200000; echo lived >/tmp/lived) >/dev/null & echo started") == (0, b"started\n")
    assert run(guest, "until [ -s /tmp/lived ]; do usleep 10000; done; cat /tmp/lived") == (0, b"lived\n")


def test_the_agent_is_replaced_when_it_dies(guest: Machine) -> None:
    running = guest.agent.start("echo parent $PPID; kill -9 $PPID; sleep 30")
    with pytest.raises(AgentLost):
        running.wait(Deadline(COMMAND_SEC))
    assert run(guest, "echo alive") == (0, b"alive\n")


def test_console_lines_come_while_a_command_runs(guest: Machine) -> None:
    guest.pump()
    assert run(guest, "echo '<0>a line of the kernel' >/dev/kmsg") == (0, b"")
    guest.console.expect("a line of the kernel", Deadline(COMMAND_SEC))
    assert any("a line of the kernel" in line for line in guest.pump())


def test_qmp(guest: Machine) -> None:
    limit = Deadline(COMMAND_SEC)
    assert guest.qmp("query-status", limit)["status"] == "running"
    with pytest.raises(QMPError, match="no-such-command"):
        guest.qmp("no-such-command", limit)
    for _ in range(200):
        guest.qmp("stop", limit)
        guest.qmp("cont", limit)
        guest.pump()
    assert run(guest, "echo on") == (0, b"on\n")


# Just enough of the remote protocol to stop and resume.
def read_packet(gdb: socket.socket, machine: Machine, limit: Deadline) -> bytes:
    data = b""
    while data[-3:-2] != b"#":
        ready, _, _ = select.select([gdb, *machine.filenos()], [], [], limit.timeout_sec())
        assert ready, "no answer from the gdbstub"
        machine.pump()
        if gdb in ready:
            data += gdb.recv(4096)
    return data


def test_debugger_stops_and_resumes_while_a_command_runs() -> None:
    limit = Deadline(BOOT_SEC)
    with Machine(spec(start_stopped=True)) as machine:
        gdb = machine.gdb_socket
        assert gdb is not None
        with pytest.raises(BootTimeout, match="nothing at all"):
            machine.wait_boot(Deadline(0.2))
        gdb.sendall(b"$c#63")
        machine.wait_boot(limit)
        assert gdb.recv(1) == b"+"
        running = machine.agent.start("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done")
        stops = 0
        while running.poll() is None:
            gdb.sendall(b"\x03")
            assert b"$T02" in read_packet(gdb, machine, limit)
            gdb.sendall(b"$c#63")
            while gdb.recv(1) != b"+":
                pass
            stops += 1
            machine.wait(limit.within(0.05))
        assert stops > 3
        result = running.wait(limit)
        assert result.output == b"".join(b"line %d\n" % i for i in range(3000))


def test_gdb_socket_at_a_path() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gdb"
        with booted(spec(gdb_socket=path)) as machine:
            assert machine.gdb_socket is None
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.sendall(b"$?#3f")
                assert select.select([client], [], [], COMMAND_SEC)[0]
        assert os.listdir(folder) == []


def test_panic() -> None:
    with booted(spec()) as machine:
        running = machine.agent.start("echo before; echo c >/proc/sysrq-trigger")
        with pytest.raises(GuestPanicError) as caught:
            running.wait(Deadline(COMMAND_SEC))
        tail = "\n".join(caught.value.console_tail)
        assert "sysrq triggered crash" in tail
        assert "Call Trace" in tail
        assert caught.value.exit_code == 0
        assert machine.poll() == 0
        assert running.take_output() == b"before\n"


@pytest.mark.parametrize("command", ["poweroff -f", "reboot -f"])
def test_the_guest_leaves(command: str) -> None:
    with booted(spec()) as machine:
        with pytest.raises(GuestLostError) as caught:
            machine.agent.run(command, Deadline(COMMAND_SEC))
        assert not isinstance(caught.value, GuestPanicError)
        with pytest.raises(GuestLostError, match="exit code 0"):
            machine.agent.start("true")
    with pytest.raises(AgentLost):
        machine.agent.start("true")


# Its sockets are closed then, too.
def kill_qemu(machine: Machine) -> None:
    qemu = os.pidfd_open(machine.pid)
    try:
        os.kill(machine.pid, signal.SIGKILL)
        assert select.select([qemu], [], [], COMMAND_SEC)[0]
    finally:
        os.close(qemu)


def test_qemu_is_killed_while_a_command_runs() -> None:
    with booted(spec()) as machine:
        running = machine.agent.start("sleep 100")
        kill_qemu(machine)
        machine.console.send("typed in vain")
        with pytest.raises(GuestLostError, match="signal 9"):
            running.poll()
        with pytest.raises(GuestLostError, match="signal 9"):
            running.wait(Deadline(COMMAND_SEC))


def test_qemu_is_killed_before_a_command() -> None:
    with booted(spec()) as machine:
        kill_qemu(machine)
        with pytest.raises(GuestLostError, match="signal 9"):
            machine.agent.run("sleep 100", Deadline(COMMAND_SEC))
        with pytest.raises(GuestLostError, match="signal 9"):
            machine.agent.get("/etc/motd", Deadline(COMMAND_SEC))


def test_qemu_is_killed_while_its_guest_is_waited_for() -> None:
    with booted(spec()) as machine:
        running = machine.agent.start("sleep 100")
        assert running.poll() is None
        kill_qemu(machine)
        # What RunningCommand.wait() does when it has found nothing.
        with pytest.raises(GuestLostError, match="signal 9"):
            machine.agent.wait_for_bytes(Deadline(COMMAND_SEC))


def test_no_root_filesystem_is_a_panic() -> None:
    with Machine(spec(initramfs=None)) as machine, pytest.raises(GuestPanicError, match="Unable to mount root"):
        machine.wait_boot(Deadline(BOOT_SEC))


def test_a_file_that_is_no_kernel(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(b"this is no kernel " * 1000)
    with Machine(spec(kernel=path)) as machine, pytest.raises(LaunchError) as caught:
        machine.wait_boot(Deadline(BOOT_SEC))
    assert caught.value.exit_code == 1
    assert caught.value.stderr_tail
    assert str(path) in str(caught.value)


def test_arguments_that_qemu_refuses() -> None:
    with Machine(spec(extra_args=("-no-such-option",))) as machine, pytest.raises(LaunchError) as caught:
        machine.wait_boot(Deadline(BOOT_SEC))
    assert caught.value.exit_code == 1
    assert any("no-such-option" in line for line in caught.value.stderr_tail)
    assert "-nodefaults" in str(caught.value)


def test_init_that_does_not_answer() -> None:
    silent = b"#!/bin/sh\nwhile :; do sleep 1000; done\n"
    machine = Machine(spec(initramfs=initramfs.build(init=silent, workload=False), cmdline=("loglevel=7",)))
    with machine:
        machine.console.expect("Run /init", Deadline(BOOT_SEC))
        with pytest.raises(BootTimeout) as caught:
            machine.wait_boot(Deadline(0.5))
    assert any("Run /init" in line for line in caught.value.last_lines)


HOLDER = """
import sys, signal
from pathlib import Path
from emu import Deadline, Machine, MachineSpec
machine = Machine(MachineSpec(kernel=Path(sys.argv[1]), initramfs=Path(sys.argv[2]).read_bytes()))
machine.launch()
if sys.argv[3] == "booted":
    machine.wait_boot(Deadline(120))
print(machine.pid, flush=True)
signal.pause()
"""


@pytest.mark.parametrize("when", ["launched", "booted"])
def test_qemu_dies_with_a_killed_tool(tmp_path: Path, when: str) -> None:
    ramfs = tmp_path / "initramfs"
    ramfs.write_bytes(initramfs.build(workload=False))
    before = set(os.listdir(tempfile.gettempdir()))
    argv = [sys.executable, "-c", HOLDER, str(images.kernel().vmlinuz), str(ramfs), when]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)}) as tool:
        assert tool.stdout is not None
        qemu = os.pidfd_open(int(tool.stdout.readline()))
        try:
            assert not select.select([qemu], [], [], 0)[0], "QEMU had ended before"
            tool.kill()
            assert select.select([qemu], [], [], 30)[0], "QEMU outlived the tool"
        finally:
            os.close(qemu)
    assert os.listdir(tmp_path) == ["initramfs"]
    assert {name for name in set(os.listdir(tempfile.gettempdir())) - before if "qemu" in name.lower()} == set()


def test_shutdown_leaves_no_process_and_no_descriptor() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with booted(spec()) as machine:
        machine.qmp("query-status", Deadline(COMMAND_SEC))
        pid = machine.pid
    machine.shutdown()
    assert not Path(f"/proc/{pid}").exists()
    assert set(os.listdir("/proc/self/fd")) == before


def test_command_line(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "emu", "boot", "--kernel", str(images.kernel().vmlinuz)]
    done = subprocess.run(
        [*argv, "--smp", "2", "--", "nproc; echo err >&2; exit 7"], capture_output=True, timeout=BOOT_SEC
    )
    assert (done.returncode, done.stdout) == (7, b"2\nerr\n"), done.stderr
    done = subprocess.run([*argv, "--dry-run"], capture_output=True, timeout=BOOT_SEC)
    assert done.returncode == 0
    assert b"\nqemu-system-x86_64 -nodefaults" in done.stdout
    done = subprocess.run(
        [*argv[:-1], str(tmp_path / "missing")], capture_output=True, timeout=BOOT_SEC, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert b"missing is not a file" in done.stderr


def test_interactive_shell() -> None:
    argv = ["-m", "emu", "boot", "--kernel", str(images.kernel().vmlinuz)]
    with pexpect.spawn(sys.executable, argv, timeout=BOOT_SEC, dimensions=(30, 77)) as child:
        child.expect("# ")
        child.send("stty size; tty; trap 'echo caugh''t' INT; cat\r")
        child.expect("30 77\r\n/dev/ttyS0\r\n")
        child.send("\x03")  # Ctrl-C goes to the guest
        child.expect("caught")
        child.send("exit 5\r")
        child.expect(pexpect.EOF)
    assert child.exitstatus == 5
