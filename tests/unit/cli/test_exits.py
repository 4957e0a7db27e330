"""From exceptions to exit codes and messages."""

from __future__ import annotations

import pytest

from emu.errors import (
    AgentLost,
    BootTimeout,
    CommandTimeout,
    GuestLostError,
    GuestPanicError,
    LaunchError,
    SpecError,
)
from fprobe_gdb.cli.exits import ExitCode, HandlerFailed, describe, exit_code
from fprobe_gdb.errors import (
    GuestPanic,
    ImageError,
    InvalidProbe,
    MemoryFault,
    OutputError,
    ProbeBusy,
    ProbeNotFound,
    SymbolNotFound,
    TargetLost,
    TooManySites,
    TransportError,
    TransportTimeout,
    UsageError,
    WaitTimeout,
)


def no_match() -> InvalidProbe:
    error = InvalidProbe("nothing")
    error.no_match = True
    return error


def failed(cause: Exception) -> HandlerFailed:
    error = HandlerFailed("probe.py")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryFault(0, 8), 1),
        (OutputError("here", "disk full"), 1),
        (TransportError("cannot start gdb"), 1),
        (RuntimeError("a bug"), 1),
        (LaunchError(["qemu"], None, []), 1),
        (failed(AssertionError()), 1),
        (failed(MemoryFault(0, 8)), 1),
        # The script's own, though the same error of ours would be another code.
        (failed(ProbeBusy("twice")), 1),
        (UsageError("no"), 2),
        (SpecError("memory", "too little"), 2),
        (ImageError("bzImage", "truncated"), 2),
        (InvalidProbe("no handler"), 2),
        (TooManySites(300, 256, "too many"), 2),
        (no_match(), 3),
        (ProbeNotFound("no such symbol"), 3),
        (SymbolNotFound("vfs_raed"), 3),
        (failed(no_match()), 3),
        (TargetLost("gone"), 4),
        (GuestPanic([]), 4),
        (GuestPanicError([]), 4),
        (GuestLostError("ended", 0, []), 4),
        (LaunchError(["qemu"], 1, []), 4),
        (AgentLost("died"), 4),
        (BootTimeout(1, []), 5),
        (CommandTimeout("sleep", 1, b""), 5),
        (WaitTimeout(1), 5),
        (TransportTimeout("g", 1), 5),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else type(value).__name__,
)
def test_exit_code(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


def test_codes_are_what_is_documented() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0, "FAILED": 1, "USAGE": 2, "NO_MATCH": 3, "GUEST_DIED": 4, "TIMEOUT": 5, "INTERRUPTED": 130,
    }  # fmt: skip


def test_our_errors_speak_for_themselves() -> None:
    assert describe(UsageError("give a number")) == "give a number"
    assert "Traceback" not in describe(GuestPanic(["the last line"]))
    assert "the last line" in describe(GuestPanic(["the last line"]))


def test_bug_is_called_a_bug() -> None:
    try:
        raise RuntimeError("oops")
    except RuntimeError as error:
        text = describe(error)
    assert text.startswith("this is a bug of fprobe-gdb, please report it:\nTraceback")
    assert text.endswith("RuntimeError: oops")


def test_traceback_begins_in_the_script() -> None:
    """How we came to the user's code is nothing to the user."""
    code = compile("def handler():\n    1 / 0\n", "/home/me/probe.py", "exec")
    names: dict[str, object] = {}
    exec(code, names)
    try:
        names["handler"]()  # type: ignore[operator]
    except ZeroDivisionError as error:
        wrapped = HandlerFailed("/home/me/probe.py")
        wrapped.__cause__ = error
    text = describe(wrapped)
    assert text.startswith("/home/me/probe.py failed:\nTraceback")
    assert '"/home/me/probe.py", line 2, in handler' in text
    assert __file__ not in text
