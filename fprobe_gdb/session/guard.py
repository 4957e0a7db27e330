"""A directory that is gone when we are, however we end: also after SIGKILL, when no code of ours runs any more."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["guarded_directory"]

# Waits for the end of its standard input, which comes when the last process with the other end of the pipe is gone.
_GUARD = 'read -r _; rm -rf -- "$1"'
_END_SEC = 10.0


@contextlib.contextmanager
def guarded_directory(prefix: str) -> Iterator[Path]:
    """A new private directory (mode 0700) for the block.

    While the block runs, a small process of its own session stands by, and removes the directory if we are killed. It
    is not for long blocks: who kills that process too leaves the directory behind.
    """
    # The guard first: between the two nothing exists that could be left behind.
    directory = Path(tempfile.gettempdir()) / f"{prefix}{secrets.token_hex(4)}"
    guard = subprocess.Popen(
        ["/bin/sh", "-c", _GUARD, "sh", str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert guard.stdin is not None
    try:
        directory.mkdir(mode=0o700)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        guard.stdin.close()
        guard.wait(_END_SEC)
