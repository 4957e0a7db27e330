"""From what happened to an exit code and a message. The codes are part of the interface."""

from __future__ import annotations

import traceback
from enum import IntEnum

from emu.errors import BootTimeout, CommandTimeout, EmuError, GuestLostError, LaunchError, SpecError
from fprobe_gdb.errors import (
    FprobeGdbError,
    GuestPanic,
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
    #: A handler or an assertion failed, or something on this machine is missing.
    FAILED = 1
    USAGE = 2
    #: No function matched.
    NO_MATCH = 3
    GUEST_DIED = 4
    TIMEOUT = 5
    INTERRUPTED = 130


class HandlerFailed(Exception):
    """A user's script raised; the cause is its exception."""


def exit_code(error: BaseException) -> ExitCode:
    """The exit code that an exception stands for."""
    if getattr(error, "no_match", False) or isinstance(error, SymbolNotFound):
        return ExitCode.NO_MATCH
    table: tuple[tuple[tuple[type[BaseException], ...], ExitCode], ...] = (
        ((KeyboardInterrupt,), ExitCode.INTERRUPTED),
        ((BootTimeout, CommandTimeout, WaitTimeout, TransportTimeout), ExitCode.TIMEOUT),
        ((TargetLost, GuestPanic, GuestLostError, LaunchError), ExitCode.GUEST_DIED),
        ((UsageError, SpecError, UnknownName, ProbeError), ExitCode.USAGE),
    )
    return next((code for types, code in table if isinstance(error, types)), ExitCode.FAILED)


def describe(error: BaseException) -> str:
    """What to tell the user. Our own errors explain themselves; a user's handler gets its traceback."""
    if isinstance(error, HandlerFailed) and error.__cause__ is not None:
        cause = error.__cause__
        return "a handler failed:\n" + "".join(traceback.format_exception(cause)).rstrip()
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, FprobeGdbError | EmuError | ImagesError | OSError):
        return str(error)
    return "".join(traceback.format_exception(error)).rstrip()
