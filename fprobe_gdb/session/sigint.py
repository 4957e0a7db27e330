"""Ctrl-C at a safe point: never in the middle of an exchange with the debugger."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["DeferredInterrupt", "deferred_sigint"]


class DeferredInterrupt:
    """Whether Ctrl-C was pressed, and a file descriptor that tells ``select`` so."""

    def __init__(self) -> None:
        #: Ctrl-C was pressed.
        self.pending = False
        self._read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        """Readable once Ctrl-C was pressed."""
        return self._read_fd

    def note(self) -> None:
        """Remember a Ctrl-C. The second one raises at once: a handler may be in an endless loop."""
        if self.pending:
            raise KeyboardInterrupt
        self.pending = True
        os.write(self._write_fd, b"!")

    def close(self) -> None:
        """Free the pipe."""
        os.close(self._read_fd)
        os.close(self._write_fd)


@contextlib.contextmanager
def deferred_sigint() -> Iterator[DeferredInterrupt]:
    """Within the block, the first SIGINT is only noted; when the block ends normally it raises KeyboardInterrupt then.

    In other threads than the main one, where Python delivers no signals, nothing changes. A SIGINT that was ignored (a
    background job of a script) stays ignored.
    """
    interrupt = DeferredInterrupt()
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN

    def on_sigint(signum: int, _frame: FrameType | None) -> None:
        # Other signals come here through handlers of their own, which call this one.
        if signum != signal.SIGINT or not ignored:
            interrupt.note()

    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, on_sigint) if in_main else None
    try:
        yield interrupt
    finally:
        if in_main:
            signal.signal(signal.SIGINT, before)
        interrupt.close()
    if interrupt.pending:
        raise KeyboardInterrupt
