"""A process that lets a guest of others run on if we are killed (:mod:`~fprobe_gdb.transport.let_go`)."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys

from fprobe_gdb.transport import let_go

__all__ = ["StubGuard"]

_END_SEC = 10.0


class StubGuard:
    """Stands by from now on. Who kills that process too leaves the guest to the next who attaches.

    :param stub: connected to the guest's gdbstub. The guard has a descriptor of its own: nobody else can connect before
        it has ended.
    """

    def __init__(self, stub: socket.socket) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", let_go.__file__, str(stub.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(stub.fileno(),),
            # Ctrl-C is for us, who will clean up.
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def dismiss(self) -> None:
        """The guest runs on without us, or is gone. May be called twice."""
        self._end(b".")

    def act(self) -> None:
        """Nobody else will let the guest run on."""
        self._end(b"")

    def _end(self, word: bytes) -> None:
        pipe = self._process.stdin
        if pipe is not None and not pipe.closed:
            with contextlib.suppress(BrokenPipeError):
                pipe.write(word)
                pipe.close()
            self._process.wait(_END_SEC)
