"""Every error that ``emu`` raises.

::

    EmuError
    ├── SpecError            a machine that cannot be: a missing file, no /dev/kvm, ...; has .field
    ├── LaunchError          QEMU did not start; has .argv, .exit_code, .stderr_tail, .console_tail
    ├── BootTimeout          the guest did not come up in time; has .waited_sec and .last_lines
    ├── GuestLostError       the guest ended while it was needed; has .exit_code, .stderr_tail, .console_tail
    │   └── GuestPanicError  its kernel panicked
    ├── MachineStateError    the machine is not launched, or launched already
    ├── ConsoleTimeout       the console did not say what was expected; has .pattern and .last_lines
    ├── QMPError             QEMU refused a QMP command or did not answer; has .command
    └── AgentError           the command server in the guest
        ├── AgentNotReady    it has not come up yet
        ├── AgentBusy        it is running another command; has .command
        ├── AgentLost        it died and was started again, or its port was closed by us
        ├── CommandTimeout   the command is still running; has .command, .waited_sec and .output
        └── TransferError    a file could not be written or read in the guest; has .path and .status

``str(error)`` says what happened, to what, and what to try.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

__all__ = [
    "AgentBusy",
    "AgentError",
    "AgentLost",
    "AgentNotReady",
    "BootTimeout",
    "CommandTimeout",
    "ConsoleTimeout",
    "EmuError",
    "GuestLostError",
    "GuestPanicError",
    "LaunchError",
    "MachineStateError",
    "QMPError",
    "SpecError",
    "TransferError",
]


def _quote(title: str, lines: Sequence[str]) -> str:
    # Some lines of other programs' output, below our own message.
    return "".join([f"\n{title}:", *(f"\n  | {line}" for line in lines)]) if lines else ""


class EmuError(Exception):
    """Root of all errors of the ``emu`` package."""


class SpecError(EmuError):
    """A :class:`~emu.spec.MachineSpec` that no machine can be made from."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}")
        self.field = field


class LaunchError(EmuError):
    """QEMU did not start, or ended before the guest was up."""

    def __init__(
        self, argv: Sequence[str], exit_code: int | None, stderr_tail: Sequence[str], console_tail: Sequence[str] = ()
    ) -> None:
        how = "could not be started" if exit_code is None else f"ended with {_exit(exit_code)} before the guest was up"
        super().__init__(
            f"QEMU {how}{_quote('its messages', stderr_tail)}{_quote('the last console lines', console_tail)}"
            f"\nits command line: {shlex.join(argv)}"
        )
        self.argv = tuple(argv)
        self.exit_code = exit_code
        self.stderr_tail = tuple(stderr_tail)
        self.console_tail = tuple(console_tail)


class BootTimeout(EmuError):
    """The guest did not report in time that it is up. It is still running (or stopped by a debugger)."""

    def __init__(self, waited_sec: float, last_lines: Sequence[str]) -> None:
        tail = _quote("its last console lines", last_lines) or "; it has said nothing at all on its console"
        super().__init__(f"the guest was not up after {waited_sec:g} s{tail}")
        self.waited_sec = waited_sec
        self.last_lines = tuple(last_lines)


class GuestLostError(EmuError):
    """The guest ended: it was powered off or rebooted itself, or QEMU was killed."""

    def __init__(
        self, why: str, exit_code: int | None, console_tail: Sequence[str], stderr_tail: Sequence[str] = ()
    ) -> None:
        how = "" if exit_code is None else f" (QEMU ended with {_exit(exit_code)})"
        super().__init__(
            f"{why}{how}{_quote('the messages of QEMU', stderr_tail)}{_quote('the last console lines', console_tail)}"
        )
        self.exit_code = exit_code
        self.console_tail = tuple(console_tail)
        self.stderr_tail = tuple(stderr_tail)


class GuestPanicError(GuestLostError):
    """The guest's kernel panicked."""

    def __init__(self, console_tail: Sequence[str], exit_code: int | None = None) -> None:
        super().__init__("the guest's kernel panicked", exit_code, console_tail)


class MachineStateError(EmuError):
    """The operation needs a machine that is launched (or one that is not)."""


class ConsoleTimeout(EmuError):
    """The console did not say what was expected, in time."""

    def __init__(self, pattern: str, waited_sec: float, last_lines: Sequence[str]) -> None:
        super().__init__(f"no {pattern!r} on the console after {waited_sec:g} s{_quote('its last lines', last_lines)}")
        self.pattern = pattern
        self.waited_sec = waited_sec
        self.last_lines = tuple(last_lines)


class QMPError(EmuError):
    """QEMU refused a QMP command, or did not answer."""

    def __init__(self, command: str, why: str) -> None:
        super().__init__(f"QMP command {command!r}: {why}")
        self.command = command


class AgentError(EmuError):
    """Something about the command server in the guest."""


class AgentNotReady(AgentError):
    """The agent has not reported yet; wait for the boot first."""


class AgentBusy(AgentError):
    """The agent runs one command at a time, and is running one."""

    def __init__(self, command: str) -> None:
        super().__init__(f"the guest is still running {command!r}; wait for it or interrupt it")
        self.command = command


class AgentLost(AgentError):
    """The agent died in the guest, or its port is closed. Where a machine has ended, that is a GuestLostError."""


class CommandTimeout(AgentError):
    """A command did not end in time. It is still running: wait again, or interrupt it."""

    def __init__(self, command: str, waited_sec: float, output: bytes) -> None:
        tail = _quote("its last output", output.decode(errors="replace").splitlines()[-5:])
        super().__init__(f"{command!r} has not ended after {waited_sec:g} s in the guest{tail}")
        self.command = command
        self.waited_sec = waited_sec
        self.output = output


class TransferError(AgentError):
    """A file could not be written or read in the guest."""

    def __init__(self, path: str, status: int, output: bytes) -> None:
        super().__init__(f"{path} in the guest: {output.decode(errors='replace').strip() or f'status {status}'}")
        self.path = path
        self.status = status


def _exit(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"
