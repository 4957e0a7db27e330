"""``fprobe-gdb run``: a script of handlers."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import rich_click as click

from emu.deadline import Deadline
from emu.errors import CommandTimeout, EmuError
from fprobe_gdb.cli.exits import HandlerFailed
from fprobe_gdb.cli.guest_command import TakesGuestCommand, follow, shell_text
from fprobe_gdb.cli.options import boot_options, guest_options, timeout_option
from fprobe_gdb.cli.progress import working
from fprobe_gdb.errors import FprobeGdbError, GuestPanic, OutputClosed, TargetLost, TransportError, UsageError
from fprobe_gdb.session.guest import Kernel

__all__ = ["run"]


@click.command("run", cls=TakesGuestCommand)
@timeout_option
@guest_options
@click.argument("script", metavar="PROBE.py", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("command", nargs=-1, metavar="[-- COMMAND...]", type=click.UNPROCESSED)
def run(script: Path, command: tuple[str, ...], timeout_sec: float, **values: Any) -> None:
    """Boot a kernel, let a Python script register its fprobes, and run COMMAND in the guest.

    Examples:

    \b
    fprobe-gdb run examples/opened_files.py
    fprobe-gdb run examples/slow_calls.py --smp 2 -- 'find / | wc -l'

    The script has a function probe(k), which registers fprobes on the Kernel k. It may have report(k), which is called
    at the end, and COMMAND, a text for the guest's shell that is used when none is given. What its handlers print is
    the output; an exception or a failed assertion in it ends the run with exit code 1.
    """
    probes = _Script(script)
    options = boot_options(values)
    text = shell_text(command) if command else probes.command
    with working("booting the guest") as progress:
        k = Kernel.boot(options=options, progress=progress)
    with k:
        probes.guard(lambda: probes.probe(k))
        deadline = Deadline(timeout_sec)
        lines = _Lines()
        try:
            running = k.start(text, keep_output=False)
            try:
                probes.guard(lambda: follow(k, running, deadline, lines.show))
            finally:
                lines.end()
        except (KeyboardInterrupt, CommandTimeout):
            probes.report(k)
            raise
        probes.report(k)


# The user's module. What its code raises comes out as HandlerFailed.
class _Script:
    def __init__(self, path: Path) -> None:
        self._file = str(path.resolve())
        self._path = path
        self._module = self._load()
        self.probe = self._function("probe")
        self._report = self._function("report") if hasattr(self._module, "report") else None

    # The command that the script itself names.
    @property
    def command(self) -> str:
        text = getattr(self._module, "COMMAND", None)
        if not isinstance(text, str):
            raise UsageError(f"what shall the guest run? Give a command behind --, or set COMMAND in {self._path}")
        return text

    # Let the script say its last words.
    def report(self, k: Kernel) -> None:
        report = self._report
        if report is not None:
            self.guard(lambda: report(k))

    # Call something that may run code of the script. HandlerFailed stands for an exception that came out of that code
    # and does not mean that the guest is gone.
    def guard(self, function: Callable[[], object]) -> None:
        try:
            function()
        except (TargetLost, GuestPanic, TransportError, EmuError, OutputClosed, BrokenPipeError):
            raise
        except Exception as error:
            if isinstance(error, FprobeGdbError) and not self._is_in(error):
                raise
            raise HandlerFailed(self._file) from error

    def _is_in(self, error: BaseException) -> bool:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != self._file:
            trace = trace.tb_next
        return trace is not None

    def _load(self) -> ModuleType:
        spec = importlib.util.spec_from_file_location(self._path.stem, self._file)
        if spec is None or spec.loader is None:
            raise UsageError(f"{self._path} is not a Python file; its name must end with .py")
        module = importlib.util.module_from_spec(spec)
        # So that it can import what lies beside it, as a script started by python can.
        sys.path.insert(0, str(Path(self._file).parent))
        loader = spec.loader
        self.guard(lambda: loader.exec_module(module))
        return module

    def _function(self, name: str) -> Callable[[Kernel], object]:
        function = getattr(self._module, name, None)
        if not callable(function):
            raise UsageError(f"{self._path} has no function {name}(k); see fprobe-gdb run --help")
        return function  # type: ignore[no-any-return]


# Shows output of the guest's command by whole lines: what handlers print comes at any moment, and must not get in
# between. A carriage return ends a line too, for progress bars.
class _Lines:
    def __init__(self) -> None:
        self._partial = b""

    def show(self, data: bytes) -> None:
        end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        if end:
            sys.stdout.write((self._partial + data[:end]).decode(errors="replace"))
            sys.stdout.flush()
            self._partial = b""
        self._partial += data[end:]

    # What is left of a line that was never ended.
    def end(self) -> None:
        if self._partial:
            self.show(b"\n")
