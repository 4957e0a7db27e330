"""Our folder of downloads: where it is, who may change it, and how things get into it whole.

Rule 1: a folder under its final name is complete. Things are made under ``tmp-*`` beside it and renamed.
Rule 2: only the holder of a lock makes ``tmp-*`` beside it, so whoever gets the lock may remove what a killed
process left.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emu.deadline import Deadline
from images.errors import FetchTimeout

__all__ = ["cache_dir", "locked", "put_file", "workshop"]

_LOCK_POLL_SEC = 0.1


def cache_dir() -> Path:
    """Where downloads and compiled programs are kept.

    ``$FPROBE_GDB_CACHE``, else ``$XDG_CACHE_HOME/fprobe-gdb``, else ``~/.cache/fprobe-gdb``. Not made here.
    """
    if own := os.environ.get("FPROBE_GDB_CACHE"):
        return Path(own).absolute()
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification: a relative path there is invalid and must be ignored.
    base = Path(xdg) if xdg.startswith("/") else Path.home() / ".cache"
    return base / "fprobe-gdb"


@contextmanager
def locked(folder: Path, deadline: Deadline) -> Iterator[None]:
    """Hold the lock of a folder, which is made if need be. The kernel frees it when we die.

    :raise FetchTimeout: another process held it too long.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if deadline.expired:
                    raise FetchTimeout(f"the lock of {folder}", deadline.seconds) from None
                # flock has no time limit of its own.
                time.sleep(min(_LOCK_POLL_SEC, deadline.remaining_sec))
        yield
    finally:
        os.close(handle)


@contextmanager
def workshop(folder: Path) -> Iterator[Path]:
    """A fresh folder ``tmp-*`` inside ``folder``, gone at the end. The caller holds the lock of ``folder``."""
    for leftover in folder.glob("tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix="tmp-", dir=folder))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def put_file(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file so that others see the old one or the whole new one. Needs no lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix="tmp-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            os.fchmod(stream.fileno(), mode)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
