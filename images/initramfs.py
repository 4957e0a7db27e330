"""The guest's root filesystem: busybox, our ``/init``, the workload and the user's files, as an uncompressed cpio.

Not compressed: at 3 MB neither gzip, lz4 nor zstd makes an emulated machine boot measurably faster (README.md).
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from images import workload_build
from images.cpio import Archive
from images.errors import BadGuestFile, BuildError, MissingProgram, NotStatic

__all__ = ["BUSYBOX", "build"]

#: Where Debian's busybox-static puts it.
BUSYBOX = Path("/bin/busybox")

#: What ``cat /etc/motd`` shows, the README's first example.
MOTD = b"Hello from the guest of fprobe-gdb.\n"

_FOLDERS = {"proc": 0o555, "sys": 0o555, "tmp": 0o1777, "dev": 0o755, "root": 0o700, "run": 0o755, "etc": 0o755}
# Numbers from the kernel's Documentation/admin-guide/devices.txt.
_NODES = {"console": (5, 1), "null": (1, 3), "ttyS0": (4, 64), "ttyS1": (4, 65)}


def build(
    *,
    files: Mapping[str, bytes | Path] | None = None,
    init: bytes | None = None,
    busybox: Path = BUSYBOX,
    workload: bool = True,
) -> bytes:
    """Make an initramfs.

    :param files: guest path to content, host file or host folder. Modes of host files are kept; content is
        executable when it is a script or a program. These come last, so they replace ours.
    :param init: the guest's ``/init``; None takes the one of this package.
    :param busybox: a static busybox; all its applets are linked in ``/bin``.
    :param workload: whether ``/bin/workload`` is in; compiled with gcc the first time.
    :raise MissingProgram: no busybox, or no gcc for the workload.
    :raise NotStatic: the busybox needs shared libraries.
    :raise BadGuestFile: one of ``files`` cannot be read or put in.
    :raise BuildError: this package's own ``/init`` is missing.
    """
    archive = Archive()
    for name, mode in _FOLDERS.items():
        archive.add_dir(name, mode)
    for name, (major, minor) in _NODES.items():
        archive.add_char_device(f"dev/{name}", major, minor, 0o666 if name == "null" else 0o600)
    archive.add_file("bin/busybox", _static_program(busybox), 0o755)
    for applet in _applets(busybox, busybox.stat().st_mtime_ns):
        if applet != "busybox":
            archive.add_symlink(f"bin/{applet}", "busybox")
    for name, target in {"sbin": "bin", "usr/bin": "../bin", "usr/sbin": "../bin"}.items():
        archive.add_symlink(name, target)
    archive.add_file("etc/motd", MOTD)
    archive.add_file("init", _own_init() if init is None else init, 0o755)
    if workload:
        archive.add_file("bin/workload", workload_build.build().read_bytes(), 0o755)
    for guest_path, source in (files or {}).items():
        _add(archive, guest_path, source)
    return archive.to_bytes()


def _own_init() -> bytes:
    try:
        return resources.files("images").joinpath("init").read_bytes()
    except FileNotFoundError:
        raise BuildError("this installation lacks images/init; reinstall it, or give an init of your own") from None


# Bytes of the program, once we know that the guest can run it.
def _static_program(path: Path) -> bytes:
    if not path.is_file():
        raise MissingProgram(str(path), "busybox-static", "for the guest's shell")
    try:
        with path.open("rb") as stream:
            elf = ELFFile(stream)
            # A static-pie program has PT_DYNAMIC but asks for no interpreter.
            static = elf["e_machine"] == "EM_X86_64" and all(
                segment["p_type"] != "PT_INTERP" for segment in elf.iter_segments()
            )
    except ELFError:
        static = False
    if not static:
        raise NotStatic(str(path), "apt-get install busybox-static")
    return path.read_bytes()


# The time of change is there so that an upgraded busybox is asked again.
@lru_cache(maxsize=4)
def _applets(busybox: Path, mtime_ns: int) -> tuple[str, ...]:
    run = subprocess.run([busybox, "--list"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    if run.returncode != 0 or not run.stdout:
        raise BuildError(f"{busybox} --list failed ({run.stderr.strip() or run.returncode}); is it a busybox?")
    return tuple(run.stdout.split())


def _add(archive: Archive, guest_path: str, source: bytes | Path) -> None:
    if isinstance(source, bytes):
        archive.add_file(guest_path, source, 0o755 if source.startswith((b"#!", b"\x7fELF")) else 0o644)
        return
    try:
        mode = source.stat().st_mode
        if stat.S_ISDIR(mode):
            _add_folder(archive, guest_path, source)
        elif stat.S_ISREG(mode):
            archive.add_file(guest_path, source.read_bytes(), stat.S_IMODE(mode))
        else:
            raise BadGuestFile(guest_path, f"{source} is neither a file nor a folder")
    except OSError as error:
        raise BadGuestFile(guest_path, f"{source}: {error.strerror}") from error


# Links inside a folder stay links; sorted, so that the same folder gives the same bytes.
def _add_folder(archive: Archive, guest_path: str, source: Path) -> None:
    if guest_path.strip("/"):
        archive.add_dir(guest_path, stat.S_IMODE(source.stat().st_mode))
    with os.scandir(source) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        inside = f"{guest_path.rstrip('/')}/{entry.name}"
        if entry.is_symlink():
            archive.add_symlink(inside, os.readlink(entry.path))
        else:
            _add(archive, inside, Path(entry.path))
