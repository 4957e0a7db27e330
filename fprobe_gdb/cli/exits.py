"""From what happened to an exit code and a message. The codes are part of the interface."""

from __future__ import annotations

import traceback
from enum import IntEnum
from types import TracebackType

from emu.errors import AgentLost, BootTimeout, CommandTimeout, EmuError, GuestLostError, LaunchError, SpecError
from fprobe_gdb.errors import (
    ExprError,
    FprobeGdbError,
    GuestPanic,
    ImageError,
    ProbeError,
    SymbolNotFound,
    TargetLost,
    TransportTimeout,
    UsageError,
    WaitTimeout,
)
from images.errors import ImagesError, UnknownName

__all__ = ["ExitCode", "HandlerFailed", "describe", "exit_code"]


class ExitCode(IntEnum):
    """How ``fprobe-gdb`` ends."""

    OK = 0
    #: A handler or an assertion failed, or something on this machine is missing or full.
    FAILED = 1
    USAGE = 2
    #: No function matched.
    NO_MATCH = 3
    GUEST_DIED = 4
    TIMEOUT = 5
    INTERRUPTED = 130


_CODES: tuple[tuple[tuple[type[BaseException], ...], ExitCode], ...] = (
    ((KeyboardInterrupt,), ExitCode.INTERRUPTED),
    ((BootTimeout, CommandTimeout, WaitTimeout, TransportTimeout), ExitCode.TIMEOUT),
    ((TargetLost, GuestPanic, GuestLostError, AgentLost), ExitCode.GUEST_DIED),
    ((UsageError, SpecError, UnknownName, ExprError, ProbeError, ImageError), ExitCode.USAGE),
)


class HandlerFailed(Exception):
    """A user's script raised ``__cause__``.

    :param script: its file; a traceback begins there.
    """

    def __init__(self, script: str) -> None:
        super().__init__(f"{script} failed")
        self.script = script


def exit_code(error: BaseException) -> ExitCode:
    """The exit code that an exception stands for."""
    cause = error.__cause__ if isinstance(error, HandlerFailed) else error
    if getattr(cause, "no_match", False) or isinstance(cause, SymbolNotFound):
        return ExitCode.NO_MATCH
    if isinstance(error, LaunchError):
        # A QEMU that was never there is a matter of this machine, not of the guest.
        return ExitCode.FAILED if error.exit_code is None else ExitCode.GUEST_DIED
    return next((code for types, code in _CODES if isinstance(error, types)), ExitCode.FAILED)


def describe(error: BaseException) -> str:
    """What to tell the user. Our own errors explain themselves; a user's handler gets its traceback."""
    if isinstance(error, HandlerFailed) and error.__cause__ is not None:
        return f"{error}:\n" + _traceback(error.__cause__, error.script)
    if isinstance(error, FprobeGdbError | EmuError | ImagesError | OSError):
        return str(error)
    return "this is a bug of fprobe-gdb, please report it:\n" + _traceback(error, "")


# From the user's own code on: how we came there is nothing to him.
def _traceback(error: BaseException, script: str) -> str:
    first = error.__traceback__
    while first is not None and first.tb_frame.f_code.co_filename != script:
        first = first.tb_next
    return _formatted(error, first or error.__traceback__)


def _formatted(error: BaseException, begin: TracebackType | None) -> str:
    return "".join(traceback.format_exception(type(error), error, begin)).rstrip()
