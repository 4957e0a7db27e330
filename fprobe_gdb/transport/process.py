"""gdb as a child process, and the private place of the socket through which it reaches QEMU."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from emu.pdeathsig import die_with_parent
from fprobe_gdb.errors import ConnectionClosed, TransportError
from fprobe_gdb.transport.link import Link

__all__ = ["PrivateSocket", "ProcessLink"]


class ProcessLink(Link):
    """A child's standard input and output. The child dies with us, however we die.

    :param argv: the program, looked up in PATH, and its arguments.
    :param package: the Debian package that brings the program, for the error message.
    :raise TransportError: when it cannot be started.
    """

    def __init__(self, argv: Sequence[str], package: str) -> None:
        # Its complaints go to a nameless file: no pipe that could fill up, nothing left behind.
        self._stderr_fd = os.memfd_create("stderr", os.MFD_CLOEXEC)
        try:
            # In its own session, so that Ctrl-C on our terminal is ours to handle. It inherits no PYTHON* variables of
            # our venv, which its own Python would stumble over.
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr_fd,
                bufsize=0,
                start_new_session=True,
                preexec_fn=die_with_parent(),
                env={k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "DEBUGINFOD"))},
            )
        except OSError as error:
            os.close(self._stderr_fd)
            raise TransportError(
                f"cannot start {argv[0]} ({error.strerror}); on Debian it is in the package {package}: "
                f"apt-get install {package}"
            ) from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        super().__init__(self._process.stdout.fileno(), self._process.stdin.fileno(), argv[0])

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def complaints(self) -> str:
        """The end of what the child wrote to standard error."""
        if self._closed:
            return ""
        size_bytes = os.fstat(self._stderr_fd).st_size
        return os.pread(self._stderr_fd, 2000, max(0, size_bytes - 2000)).decode("utf-8", "replace").strip()

    def receive_error(self, error: ConnectionClosed) -> str:
        """Why the child is gone, in words."""
        status = self._process.poll()
        ended = "" if status is None else f" (killed by signal {-status})" if status < 0 else f" (status {status})"
        complaints = self.complaints()
        return f"{error}{ended}" + (f"; its last words: {complaints}" if complaints else "")

    def _close_fds(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        os.close(self._stderr_fd)


class PrivateSocket:
    """A path for a unix socket in a directory that only we may enter.

    Call :meth:`remove` as soon as the connection stands, so that nothing is left behind however we end.
    """

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="fprobe-gdb-"))  # mode 0700
        self.path = self._directory / "gdb"

    def remove(self) -> None:
        """Remove the socket's name and its directory. May be called twice; a connection that stands stays."""
        self.path.unlink(missing_ok=True)
        if self._directory.exists():
            self._directory.rmdir()

    def __enter__(self) -> PrivateSocket:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.remove()
