"""From spec to QEMU's arguments, and what is refused on the way."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from emu.argv import TCG_CPU, QEMUFds, dry_run, kernel_cmdline, qemu_argv
from emu.errors import SpecError
from emu.spec import MachineSpec

FDS = QEMUFds(console=3, agent=4, qmp=5, gdb=6, initramfs=7)


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinuz"
    path.write_bytes(b"")
    return path


def value(argv: list[str], option: str) -> str:
    return argv[argv.index(option) + 1]


def test_ports_in_order_console_first(kernel: Path) -> None:
    argv = qemu_argv(MachineSpec(kernel=kernel, initramfs=b"x"), FDS)
    serials = [argv[i + 1] for i, arg in enumerate(argv) if arg == "-serial"]
    assert serials == ["chardev:console", "chardev:agent"]
    assert "socket,id=console,fd=3" in argv
    assert "socket,id=agent,fd=4" in argv
    assert "socket,id=qmp,fd=5" in argv
    assert value(argv, "-gdb") == "chardev:gdb"


def test_nothing_listens_and_no_device_is_there_by_default(kernel: Path) -> None:
    argv = qemu_argv(MachineSpec(kernel=kernel, initramfs=b"x"), FDS)
    assert "-nodefaults" in argv
    assert "-no-user-config" in argv
    assert not any("tcp" in arg or "server" in arg or arg == "-s" for arg in argv)


@pytest.mark.parametrize(
    ("initramfs", "expected"), [(b"bytes", "/proc/self/fd/7"), ("a,b c", "PATH"), (None, None)], ids=str
)
def test_initramfs(kernel: Path, initramfs: bytes | str | None, expected: str | None) -> None:
    if isinstance(initramfs, str):
        path = kernel.with_name(initramfs)
        path.write_bytes(b"")
        argv = qemu_argv(MachineSpec(kernel=kernel, initramfs=path), FDS)
        assert value(argv, "-initrd") == str(path)
        return
    argv = qemu_argv(MachineSpec(kernel=kernel, initramfs=initramfs), FDS)
    assert ("-initrd" in argv) == (expected is not None)
    if expected is not None:
        assert value(argv, "-initrd") == expected


def test_gdb_socket_takes_the_place_of_the_pair(kernel: Path, tmp_path: Path) -> None:
    argv = qemu_argv(MachineSpec(kernel=kernel, initramfs=None, gdb_socket=tmp_path / "g"), FDS)
    assert value(argv, "-gdb") == f"unix:{tmp_path / 'g'},server=on,wait=off"
    assert not any("id=gdb" in arg for arg in argv)
    assert "-gdb" not in qemu_argv(MachineSpec(kernel=kernel, initramfs=None, gdbstub=False), FDS)


def test_cpu(kernel: Path) -> None:
    def cpu(**fields: str) -> str | None:
        argv = qemu_argv(MachineSpec(kernel=kernel, initramfs=None, **fields), FDS)  # type: ignore[arg-type]
        assert argv.count("-cpu") <= 1
        return value(argv, "-cpu") if "-cpu" in argv else None

    assert cpu() == TCG_CPU
    # With it 6.12 dies in every second boot, of which there are dozens among the tests.
    assert "-cx16" in TCG_CPU
    assert cpu(cpu="max,la57=off") == "max,la57=off"
    assert cpu(accel="kvm") is None


@pytest.mark.parametrize(
    ("accel", "words"), [("tcg", "tcg,thread=single"), ("mttcg", "tcg,thread=multi"), ("kvm", "kvm")]
)
def test_accel(kernel: Path, accel: str, words: str) -> None:
    """One host thread for all vCPUs unless asked otherwise: patched code is never run from a stale translation."""
    assert value(qemu_argv(MachineSpec(kernel=kernel, initramfs=None, accel=accel), FDS), "-accel") == words


def test_words_of_the_spec_come_last(kernel: Path) -> None:
    spec = MachineSpec(kernel=kernel, initramfs=None, cmdline=("loglevel=7", "panic=5"), extra_args=("-d", "int"))
    words = kernel_cmdline(spec).split(" ")
    assert words[-2:] == ["loglevel=7", "panic=5"]
    assert words.index("panic=-1") < words.index("panic=5")
    assert qemu_argv(spec, FDS)[-2:] == ["-d", "int"]


@pytest.mark.parametrize(("accel", "there"), [("tcg", True), ("mttcg", True), ("kvm", False)])
def test_an_emulated_guest_does_not_count_timer_interrupts(kernel: Path, accel: str, there: bool) -> None:
    spec = MachineSpec(kernel=kernel, initramfs=None, accel=accel)
    assert ("no_timer_check" in kernel_cmdline(spec).split()) == there


def test_kaslr_and_start_stopped(kernel: Path) -> None:
    assert "nokaslr" in kernel_cmdline(MachineSpec(kernel=kernel, initramfs=None, kaslr=False)).split()
    assert "nokaslr" not in kernel_cmdline(MachineSpec(kernel=kernel, initramfs=None)).split()
    assert "-S" not in qemu_argv(MachineSpec(kernel=kernel, initramfs=None), FDS)
    assert "-S" in qemu_argv(MachineSpec(kernel=kernel, initramfs=None, start_stopped=True), FDS)


def test_dry_run_is_one_shell_line_under_comments(kernel: Path) -> None:
    spec = MachineSpec(kernel=kernel, initramfs=b"abc", cmdline=("x='y z'", "$(false)"), gdbstub=False)
    *comments, line = dry_run(spec).splitlines()
    assert all(comment.startswith("# ") for comment in comments)
    assert any("3 bytes" in comment for comment in comments)
    assert not any("gdbstub" in comment for comment in comments)
    argv = shlex.split(line)
    assert value(argv, "-append") == kernel_cmdline(spec)


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("memory_mib", 1),
        ("smp", 0),
        ("smp", 1000),
        ("accel", "xen"),
        ("kernel", Path("/nonexistent/vmlinuz")),
        ("initramfs", Path("/nonexistent/initrd")),
        ("cmdline", ("a\nb",)),
        ("cmdline", ("",)),
        ("extra_args", ("a\0b",)),
        ("gdb_socket", Path("/a,b")),
        ("gdb_socket", Path("/" + "x" * 107)),
        ("gdb_socket", Path("/nonexistent/g")),
    ],
)
def test_impossible_specs(kernel: Path, field: str, bad: object) -> None:
    fields: dict[str, object] = {"kernel": kernel, "initramfs": None, field: bad}
    with pytest.raises(SpecError) as caught:
        MachineSpec(**fields)  # type: ignore[arg-type]
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")


def test_gdb_socket_of_the_longest_length_is_taken(kernel: Path, tmp_path: Path) -> None:
    path = tmp_path / ("x" * (107 - len(str(tmp_path)) - 1))
    assert MachineSpec(kernel=kernel, initramfs=None, gdb_socket=path).gdb_socket == path


def test_qemu_that_is_not_there(kernel: Path) -> None:
    with pytest.raises(SpecError, match="apt-get install"):
        MachineSpec(kernel=kernel, initramfs=None, qemu="no-such-qemu").check_host()
