"""What doctor says of machines that lack this or that."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from fprobe_gdb.cli import doctor as module
from fprobe_gdb.cli.doctor import Finding, _cache, _initramfs, _kvm, _program, _tracing
from images.errors import ImagesError


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> list[str | Exception]:
    """What the program says to --version; nothing: there is no such program."""
    box: list[str | Exception] = []

    def run(argv: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert argv == ["/bin/thing", "--version"]
        if isinstance(box[0], Exception):
            raise box[0]
        return subprocess.CompletedProcess(argv, 0, box[0], "")

    monkeypatch.setattr(shutil, "which", lambda _: "/bin/thing" if box else None)
    monkeypatch.setattr(subprocess, "run", run)
    return box


def test_program_is_there(answer: list[str | Exception]) -> None:
    answer.append("thing 1.2\nmore")
    assert _program("Thing", "thing", "thing-package") == Finding(True, "Thing", "thing 1.2")


def test_program_is_missing(answer: list[str | Exception]) -> None:
    assert answer == []
    finding = _program("Thing", "thing", "thing-package", needed_for="everything")
    assert not finding.ok
    assert finding.detail == "no thing, needed for everything: apt-get install thing-package"


@pytest.mark.parametrize(
    "error", [subprocess.CalledProcessError(1, "thing"), OSError(8, "format"), subprocess.TimeoutExpired("thing", 1)]
)
def test_program_is_broken(error: Exception, answer: list[str | Exception]) -> None:
    answer.append(error)
    finding = _program("Thing", "thing", "thing-package")
    assert not finding.ok
    assert "does not run" in finding.detail
    assert "apt-get install --reinstall thing-package" in finding.detail


@pytest.mark.parametrize("there", [True, False])
def test_kvm_is_never_claimed_to_work(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that can be opened proves nothing, and none is needed."""
    monkeypatch.setattr(os, "access", lambda *_: there)
    finding = _kvm()
    assert finding.ok or finding.optional
    assert "TCG" in finding.detail
    assert "not tried" in finding.detail or not there
    assert "usable" not in finding.detail


def test_cache_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FPROBE_GDB_CACHE", str(tmp_path / "file" / "cache"))
    finding = _cache()
    assert not finding.ok
    assert "FPROBE_GDB_CACHE" in finding.detail


def test_root_filesystem_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> bytes:
        raise ImagesError("no busybox: apt-get install busybox-static")

    monkeypatch.setattr(module, "build", fail)
    assert _initramfs() == Finding(False, "guest root filesystem", "no busybox: apt-get install busybox-static")


@pytest.mark.parametrize(("scope", "user", "ok"), [("0\n", 1000, True), ("1\n", 1000, False), ("1\n", 0, True)])
def test_reaching_the_memory_of_a_qemu_of_others(
    scope: str, user: int, ok: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ptrace_scope"
    path.write_text(scope)
    monkeypatch.setattr(module, "_PTRACE_SCOPE", path)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    finding = _tracing()
    assert (finding.ok, finding.optional) == (ok, True)
    assert ok or finding.detail.startswith(f"{path} is 1: as root")


def test_a_kernel_without_yama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PTRACE_SCOPE", tmp_path / "none")
    assert _tracing().ok
