"""Scripts of handlers: loading them, and whose fault an exception is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from fprobe_gdb.cli.exits import HandlerFailed
from fprobe_gdb.cli.run import _Script
from fprobe_gdb.errors import GuestPanic, MemoryFault, TargetLost, UsageError


def script(tmp_path: Path, text: str, name: str = "probe.py") -> _Script:
    path = tmp_path / name
    path.write_text(text)
    return _Script(path)


def test_command_of_the_script(tmp_path: Path) -> None:
    assert script(tmp_path, "COMMAND = 'ls'\ndef probe(k): pass").command == "ls"


def test_no_command_at_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Give a command behind --, or set COMMAND in"):
        _ = script(tmp_path, "def probe(k): pass").command


@pytest.mark.parametrize("text", ["", "probe = 3", "def probe(k): pass\nreport = 3"])
def test_functions_that_are_missing_or_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"has no function (probe|report)\(k\)"):
        script(tmp_path, text)


def test_not_python(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must end with \.py"):
        script(tmp_path, "", "probe.txt")


@pytest.mark.parametrize("text", ["1 / 0", "def probe(k:", "import no_such_module_of_mine"])
def test_script_that_cannot_be_loaded(tmp_path: Path, text: str) -> None:
    with pytest.raises(HandlerFailed) as caught:
        script(tmp_path, text)
    assert isinstance(caught.value.__cause__, ZeroDivisionError | SyntaxError | ImportError)


def test_report_is_optional(tmp_path: Path) -> None:
    script(tmp_path, "def probe(k): pass").report(cast(Any, None))


def test_report_is_called(tmp_path: Path) -> None:
    k: list[int] = []
    script(tmp_path, "def probe(k): pass\ndef report(k): k.append(1)").report(cast(Any, k))
    assert k == [1]


def raised_by(tmp_path: Path, error: BaseException) -> BaseException | None:
    """What comes out of the script's guard when its own code raises an error."""
    ours = script(tmp_path, "def probe(error): raise error")
    try:
        ours.guard(lambda: ours.probe(cast(Any, error)))
    except BaseException as caught:
        return caught
    return None


@pytest.mark.parametrize("error", [AssertionError("no"), MemoryFault(0, 8), EOFError(), OSError(2, "no such file")])
def test_error_of_the_script_is_the_scripts(tmp_path: Path, error: Exception) -> None:
    caught = raised_by(tmp_path, error)
    assert isinstance(caught, HandlerFailed)
    assert caught.__cause__ is error


@pytest.mark.parametrize(
    "error", [TargetLost("gone"), GuestPanic([]), KeyboardInterrupt(), BrokenPipeError(), SystemExit(3)]
)
def test_end_of_the_guest_is_nobodys_fault(tmp_path: Path, error: BaseException) -> None:
    assert raised_by(tmp_path, error) is error


def test_our_error_outside_the_script_is_ours(tmp_path: Path) -> None:
    ours = script(tmp_path, "def probe(k): pass")

    def fail() -> None:
        raise MemoryFault(0, 8)

    with pytest.raises(MemoryFault):
        ours.guard(fail)
