"""``fprobe-gdb run``: a script of handlers."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import rich_click as click

from emu.errors import EmuError
from fprobe_gdb.cli.exits import ExitCode, HandlerFailed
from fprobe_gdb.cli.options import boot_options, guest_options
from fprobe_gdb.cli.progress import reporting, status
from fprobe_gdb.dispatch.breakpoint import RunEnd
from fprobe_gdb.errors import FprobeGdbError, UsageError
from fprobe_gdb.session.guest import Kernel
from images.errors import ImagesError

__all__ = ["run"]


@click.command("run")
@click.option("--timeout", "timeout_sec", default=600.0, show_default=True, metavar="S", help="For the command.")
@guest_options
@click.argument("script", metavar="PROBE.py", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("command", nargs=-1, metavar="[-- COMMAND...]", type=click.UNPROCESSED)
def run(script: Path, command: tuple[str, ...], timeout_sec: float, **values: Any) -> int:
    """Boot a kernel, let a Python script register its fprobes, and run COMMAND in the guest.

    The script has a function probe(k), which registers fprobes on the Kernel k; it may have report(k), which is called
    at the end, and COMMAND, a text for the guest's shell that is used when none is given. What its handlers print is
    the output; an exception or a failed assertion in it ends the run with exit code 1.

    \b
    fprobe-gdb run examples/opened_files.py
    fprobe-gdb run examples/slow_calls.py --smp 2 -- 'find / -type f | wc -l'
    """
    options = boot_options(values)
    module = _load(script)
    probe = _function(module, "probe", script)
    report = _function(module, "report", script) if hasattr(module, "report") else None
    text = _command(module, command, script)
    with reporting() as progress, status("booting the guest"):
        k = Kernel.boot(options=options, progress=progress)
    with k:
        _guarded(probe, k)
        running = k.start(text)

        def done() -> bool:
            result = running.poll()
            _show(running.take_output())
            return result is not None

        try:
            end = _guarded(lambda k: k.run(timeout_sec=timeout_sec, until=done), k)
        finally:
            if report is not None and sys.exc_info()[0] in (None, KeyboardInterrupt):
                _guarded(report, k)
    return ExitCode.TIMEOUT if end is RunEnd.TIMEOUT else ExitCode.OK


# What the user's own code raises is his; errors of ours say themselves what they mean.
def _guarded(function: Callable[[Kernel], Any], k: Kernel) -> Any:
    try:
        return function(k)
    except (FprobeGdbError, EmuError, ImagesError, KeyboardInterrupt):
        raise
    except BrokenPipeError:
        raise
    except Exception as error:
        raise HandlerFailed from error


def _load(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(script.stem, script)
    if spec is None or spec.loader is None:
        raise UsageError(f"{script} is not a Python file; its name must end with .py")
    module = importlib.util.module_from_spec(spec)
    # So that it can import what lies beside it, as a script started by python can.
    sys.path.insert(0, str(script.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise HandlerFailed from error
    return module


def _function(module: ModuleType, name: str, script: Path) -> Callable[[Kernel], Any]:
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"{script} has no function {name}(k); see fprobe-gdb run --help")
    return function  # type: ignore[no-any-return]


def _command(module: ModuleType, command: tuple[str, ...], script: Path) -> str:
    if command:
        return command[0] if len(command) == 1 else shlex.join(command)
    text = getattr(module, "COMMAND", None)
    if not isinstance(text, str):
        raise UsageError(f"what shall the guest run? give a command after --, or set COMMAND in {script}")
    return text


def _show(data: bytes) -> None:
    if data:
        sys.stdout.write(data.decode(errors="replace"))
        sys.stdout.flush()
