"""The command ``fprobe-gdb`` as a process: what its tests need to watch it, hurt it, and see what it leaves behind."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from emu.deadline import Deadline

__all__ = ["WAIT_SEC", "Outcome", "Tool", "run_tool", "wait_gone"]

#: Generous: the machine may be busy with other tests.
WAIT_SEC = 120.0
_POLL_SEC = 0.005


@dataclass(frozen=True)
class Outcome:
    """How the tool ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Tool:
    """A running tool. Ended at the end of the ``with`` block, if it has not by then.

    :param tmp: its own folder for temporary files, so that what it leaves there is its own doing.
    """

    def __init__(self, *args: str, tmp: Path | None = None, stdout: Any = subprocess.PIPE, **env: str) -> None:
        environ = {**os.environ, **env}
        if tmp is not None:
            environ["TMPDIR"] = str(tmp)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fprobe_gdb", *args],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=environ,
        )
        self._out = bytearray()
        self._err = bytearray()
        assert self._process.stderr is not None
        self._streams = {self._process.stderr.fileno(): self._err}
        if self._process.stdout is not None:
            self._streams[self._process.stdout.fileno()] = self._out

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self, signum: int = signal.SIGKILL) -> None:
        self._process.send_signal(signum)

    def finish(self) -> Outcome:
        """Wait for the tool's end."""
        limit = Deadline(WAIT_SEC)
        while self._streams:
            self._read(limit)
        status = self._process.wait(limit.timeout_sec())
        return Outcome(status, self._out.decode(), self._err.decode())

    def wait(self, timeout_sec: float) -> int:
        """Wait for the tool's end, without reading its output.

        :raise subprocess.TimeoutExpired: when it still runs.
        """
        return self._process.wait(timeout_sec)

    def close_output(self) -> None:
        """Close our end of the tool's standard output."""
        assert self._process.stdout is not None
        del self._streams[self._process.stdout.fileno()]
        self._process.stdout.close()

    def pending(self, signum: int) -> bool:
        """Whether a signal was sent to the tool that has not reached it yet."""
        return bool(int(self._status("ShdPnd") or "0", 16) & 1 << (signum - 1))

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until something is true, and return it. The tool's output is read meanwhile."""
        limit = Deadline(WAIT_SEC)
        while not (found := condition()):
            gone = limit.expired or self._process.poll() is not None
            assert not gone, f"no {what}: {self._out!r} {self._err!r}"
            self._read(Deadline(_POLL_SEC))
        return found

    def until_output(self, text: str) -> None:
        """Wait until the tool has written something."""
        self.until(lambda: text.encode() in self._out, text)

    def until_listening(self) -> None:
        """Wait until the tool minds its signals: Python's own start is over."""
        mask = 1 << (signal.SIGTERM - 1)
        self.until(lambda: int(self._status("SigCgt") or "0", 16) & mask, "handler of SIGTERM")

    def until_child(self, program: str) -> int:
        """Wait until the tool has started a program, and return its process id."""
        return int(self.until(lambda: self.child(program), program))

    def child(self, program: str) -> int | None:
        """The process id of a program that the tool has started."""
        for pid in self.children():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/exe").readlink().name.startswith(program):
                    return pid
        return None

    def children(self) -> list[int]:
        """The process ids of all that the tool has started and that still runs."""
        with contextlib.suppress(OSError):
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        return []

    def _status(self, field: str) -> str | None:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith(field + ":"):
                    return line.split()[1]
        return None

    def _read(self, limit: Deadline) -> None:
        ready, _, _ = select.select(list(self._streams), [], [], limit.timeout_sec())
        for fd in ready:
            data = os.read(fd, 1 << 16)
            self._streams[fd].extend(data)
            if not data:
                del self._streams[fd]


def run_tool(*args: str, **options: Any) -> Outcome:
    """Run the tool to its end."""
    with Tool(*args, **options) as tool:
        return tool.finish()


def wait_gone(pids: list[int]) -> None:
    """Wait until processes that are not our children are gone."""
    limit = Deadline(30)
    for pid in pids:
        with _pidfd(pid) as fd:
            if fd is not None:
                assert select.select([fd], [], [], limit.timeout_sec())[0], f"process {pid} is still there"


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int | None]:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)
