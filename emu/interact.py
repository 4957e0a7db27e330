"""A guest's shell on our terminal.

pexpect's ``interact`` exists for its pseudo-terminal processes only, and would not see the shell end; so this is a loop
of our own: terminal to console and back, until the agent says that the shell has ended.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import tty
from collections.abc import Iterator

from emu.agent import RunningCommand
from emu.deadline import Deadline
from emu.errors import EmuError
from emu.machine import Machine

__all__ = ["ESCAPE", "shell"]

#: Ctrl-] leaves the guest.
ESCAPE = b"\x1d"


def shell(machine: Machine) -> int:
    """Run an interactive shell on the guest's console, joined to our terminal, and return its exit status.

    The guest has to be up. Leaving with :data:`ESCAPE` is status 0.

    :raise EmuError: when our standard input is no terminal.
    :raise GuestLostError: when the guest ends (``poweroff`` is a way to leave, too).
    """
    if not sys.stdin.isatty():
        raise EmuError("standard input is not a terminal, so there can be no interactive shell; give a command")
    columns, rows = os.get_terminal_size(sys.stdin.fileno())
    # As a command of the agent, so that its end and its status come back. A command leads a session without a terminal,
    # so the console that it opens becomes its controlling terminal.
    running = machine.agent.start(
        f"stty sane rows {rows} cols {columns} </dev/ttyS0; exec sh -i </dev/ttyS0 >/dev/ttyS0 2>&1"
    )
    machine.console.tap = _to_terminal
    try:
        with _raw_terminal(sys.stdin.fileno()):
            return _relay(machine, running)
    finally:
        machine.console.tap = None


def _relay(machine: Machine, running: RunningCommand) -> int:
    stdin = sys.stdin.fileno()
    while (result := running.poll()) is None:
        ready, _, _ = select.select([stdin, *machine.filenos()], [], [])
        if stdin in ready:
            typed = os.read(stdin, 1024)
            if not typed or ESCAPE in typed:
                return 0
            machine.console.send(typed)
        machine.pump()
    machine.wait(Deadline(0))  # what the shell said last
    return result.status


def _to_terminal(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


@contextlib.contextmanager
def _raw_terminal(fd: int) -> Iterator[None]:
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
