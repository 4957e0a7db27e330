"""Signals that ask the tool to end: SIGTERM and SIGHUP do what Ctrl-C does, so the summary is written and QEMU ends.

The exit code tells them apart, as a shell does: 128 + the signal's number.
"""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING

from fprobe_gdb.cli.exits import ExitCode

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

__all__ = ["Endings", "endings"]


# One to end the work, one more to end the ending, which may hang. A third finds the tool on its way out.
_INTERRUPTS = 2

# By then Python has left the code whose exceptions it ignores; if not, the interrupt comes once more.
_AGAIN_AFTER_SEC = 0.01


class Endings:
    """Which signal asked the tool to end, if it was not Ctrl-C."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        #: Nothing is left to interrupt but Python's own end.
        self.over = False
        self._interrupts = 0

    @property
    def exit_code(self) -> int:
        """The exit code of an interrupted run."""
        return ExitCode.INTERRUPTED if self.signal is None else 128 + self.signal

    @property
    def by(self) -> str:
        """For messages: ``" by SIGTERM"``, empty for Ctrl-C."""
        return "" if self.signal is None else f" by {self.signal.name}"

    def interrupt(self, _signum: int, _frame: FrameType | None) -> None:
        """The handler of Ctrl-C: raises KeyboardInterrupt as Python's own does, but not for ever."""
        self._interrupts += 1
        if self._interrupts <= _INTERRUPTS and not self.over:
            raise KeyboardInterrupt

    def note(self, signum: int, frame: FrameType | None) -> None:
        """The signals' handler: remember it and go the way of Ctrl-C, whoever handles that at the moment."""
        self.signal = self.signal or signal.Signals(signum)
        on_interrupt = signal.getsignal(signal.SIGINT)
        if not callable(on_interrupt):
            raise KeyboardInterrupt
        on_interrupt(signum, frame)

    def unraisable(self, ignored: UnraisableHookArgs) -> None:
        """For ``sys.unraisablehook``: an interrupt that Python ignores is not lost, but comes again.

        Python calls signal handlers between any two instructions, also in those of ``__del__`` and of the callbacks of
        weak references (the import system has some), where it prints what is raised and goes on.
        """
        if not issubclass(ignored.exc_type, KeyboardInterrupt):
            sys.__unraisablehook__(ignored)
            return
        while True:
            self._interrupts -= 1
            # SIGINT may be ignored where SIGTERM is not. The main thread is the one that waits and has to be woken.
            signum = self.signal or signal.SIGINT
            again = threading.Timer(_AGAIN_AFTER_SEC, signal.pthread_kill, (threading.main_thread().ident, signum))
            again.daemon = True
            try:
                again.start()
                return
            except KeyboardInterrupt:
                # On a busy machine it comes before this has ended, where Python would ignore it, too.
                continue

    def ignore(self) -> None:
        """Once all is over: Python takes handlers away while it exits, and the exit code would be the signal's."""
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)


def endings() -> Endings:
    """From here on SIGTERM and SIGHUP raise KeyboardInterrupt. One that was ignored (nohup) stays ignored.

    For good: nothing comes behind but the end of the process.
    """
    ended = Endings()
    sys.unraisablehook = ended.unraisable
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, ended.interrupt)
    for signum in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) is signal.SIG_DFL:
            signal.signal(signum, ended.note)
    return ended
