"""``fprobe-gdb doctor``: what is missing on this machine and how to get it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import rich_click as click

from fprobe_gdb.cli.exits import ExitCode
from images.cache import cache_dir
from images.errors import ImagesError
from images.initramfs import BUSYBOX, build

__all__ = ["Finding", "doctor", "examine"]

_VERSION_SEC = 20.0
_PTRACE_SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    ok: bool
    what: str
    #: What was found, or how to get it.
    detail: str
    #: Whether the tool can do without.
    optional: bool = False


@click.command("doctor")
def doctor() -> int:
    """Tell what is missing on this machine, and how to get it.

    Examples:

    \b
    fprobe-gdb doctor

    Exit code 1 when something is missing that the tool needs.
    """
    findings = list(examine())
    for finding in findings:
        mark = "ok     " if finding.ok else ("optional" if finding.optional else "MISSING")
        click.echo(f"{mark:<8} {finding.what}: {finding.detail}")
    return ExitCode.OK if all(finding.ok or finding.optional for finding in findings) else ExitCode.FAILED


def examine() -> Iterator[Finding]:
    """Look at what the tool needs, one thing after the other."""
    version = ".".join(map(str, sys.version_info[:3]))
    recent = sys.version_info >= (3, 11)
    yield Finding(recent, "Python", version + ("" if recent else "; 3.11 or later is needed"))
    yield _program("QEMU", "qemu-system-x86_64", "qemu-system-x86")
    yield _program("GDB", "gdb", "gdb", needed_for="--backend gdb, the default; --backend rsp does without")
    yield _program("C compiler", "gcc", "gcc libc6-dev", needed_for="the workload in the guest")
    yield _program("apt", "apt-get", "apt", needed_for="fetching kernels; -k PATH does without", optional=True)
    yield _drgn()
    yield _initramfs()
    yield _kvm()
    yield _tracing()
    yield _cache()


def _drgn() -> Finding:
    try:
        return Finding(True, "drgn", importlib.metadata.version("drgn"), optional=True)
    except importlib.metadata.PackageNotFoundError:
        return Finding(False, "drgn", "not installed, needed for k.drgn(): pip install 'fprobe-gdb[drgn]'", True)


def _program(
    what: str, program: str, packages: str, *, needed_for: str = "everything", optional: bool = False
) -> Finding:
    path = shutil.which(program)
    if path is None:
        return Finding(False, what, f"no {program}, needed for {needed_for}: apt-get install {packages}", optional)
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=_VERSION_SEC, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(
            False, what, f"{path} does not run: {error}; try: apt-get install --reinstall {packages}", optional
        )
    return Finding(True, what, (answer.stdout.splitlines() or [path])[0])


def _initramfs() -> Finding:
    try:
        size_bytes = len(build())
    except ImagesError as error:
        return Finding(False, "guest root filesystem", str(error))
    return Finding(True, "guest root filesystem", f"{size_bytes / 1e6:.1f} MB, from {BUSYBOX}")


# Only a guest that boots would prove that KVM works: in a virtual machine, say, the device may be there and of no use.
def _kvm() -> Finding:
    device = Path("/dev/kvm")
    if os.access(device, os.R_OK | os.W_OK):
        return Finding(True, "KVM", f"{device} can be opened, not tried; optional (--accel kvm), TCG does without")
    why = "not ours to open: join the group kvm" if device.exists() else "this machine has none"
    return Finding(False, "KVM", f"{why}; guests run under TCG, which is all this tool needs", optional=True)


# Only QEMU itself tells whether we may: it can have taken other rights, or live in another container.
def _tracing() -> Finding:
    try:
        scope = int(_PTRACE_SCOPE.read_text())
    except (OSError, ValueError):
        scope = 0
    what = "attach with trampolines"
    if not scope or not os.geteuid():
        return Finding(True, what, "memory of QEMUs of your user can be reached", optional=True)
    why = f"{_PTRACE_SCOPE} is {scope}: as root, with sysctl kernel.yama.ptrace_scope=0, or where QEMU shares its RAM"
    return Finding(False, what, f"{why}; breakpoints do without", optional=True)


def _cache() -> Finding:
    directory = cache_dir()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(directory).free
    except OSError as error:
        return Finding(False, "cache", f"{directory}: {error.strerror}; set FPROBE_GDB_CACHE to a writable folder")
    enough = free_bytes > 500_000_000
    return Finding(
        enough, "cache", f"{directory}, {free_bytes / 1e9:.1f} GB free" + ("" if enough else "; 0.5 GB needed")
    )
