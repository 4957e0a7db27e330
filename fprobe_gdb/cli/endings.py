"""Signals that ask the tool to end: SIGTERM and SIGHUP do what Ctrl-C does, so the summary is written and QEMU ends.

The exit code tells them apart, as a shell does: 128 + the signal's number.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from fprobe_gdb.cli.exits import ExitCode

__all__ = ["Endings", "endings"]


class Endings:
    """Which signal asked the tool to end, if it was not Ctrl-C."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @property
    def exit_code(self) -> int:
        """The exit code of an interrupted run."""
        return ExitCode.INTERRUPTED if self.signal is None else 128 + self.signal

    @property
    def by(self) -> str:
        """For messages: ``" by SIGTERM"``, empty for Ctrl-C."""
        return "" if self.signal is None else f" by {self.signal.name}"

    def note(self, signum: int, frame: FrameType | None) -> None:
        """The signals' handler: remember it and go the way of Ctrl-C, whoever handles that at the moment."""
        self.signal = self.signal or signal.Signals(signum)
        on_interrupt = signal.getsignal(signal.SIGINT)
        if not callable(on_interrupt):
            raise KeyboardInterrupt
        on_interrupt(signum, frame)


@contextlib.contextmanager
def endings() -> Iterator[Endings]:
    """Within the block, SIGTERM and SIGHUP raise KeyboardInterrupt. One that was ignored (nohup) stays ignored."""
    ended = Endings()
    taken = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) is signal.SIG_DFL]
    for one in taken:
        signal.signal(one, ended.note)
    try:
        yield ended
    finally:
        for one in taken:
            signal.signal(one, signal.SIG_IGN)
