"""A guest that somebody else started: we know its gdbstub's socket, and nothing of its QEMU, console or shell."""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from emu.deadline import Deadline
from fprobe_gdb.errors import TransportError, UsageError
from fprobe_gdb.session.debugger import connect_debugger, unix_socket
from fprobe_gdb.session.stub_guard import StubGuard
from fprobe_gdb.target.base import Target
from fprobe_gdb.target.qemu_ram import peer_pid
from fprobe_gdb.transport.let_go import take_over

__all__ = ["AttachedMachine", "connect"]


class _NoConsole:
    """Its console is its owner's."""

    def pump(self) -> list[str]:
        """No lines."""
        return []

    def tail(self, count: int = 20) -> list[str]:
        """No lines."""
        return []


class AttachedMachine:
    """Takes the place of :class:`emu.machine.Machine` where the machine is not ours.

    :param qemu_pid: who listens at its gdbstub's socket; 0 when that is not to be seen.
    :param guard: lets the guest run on where we cannot.
    """

    def __init__(self, qemu_pid: int, guard: StubGuard) -> None:
        self.console = _NoConsole()
        #: See the parameter.
        self.guard = guard
        #: See the parameter.
        self.qemu_pid = qemu_pid

    @property
    def agent(self) -> NoReturn:
        """There is none.

        :raise UsageError: always.
        """
        raise UsageError("a guest that was attached to takes no commands from here; run them in it, and use run()")

    def filenos(self) -> Sequence[int]:
        """Nothing to wait for."""
        return ()

    def pump(self) -> Sequence[str]:
        """No lines."""
        return ()

    def wait(self, deadline: Deadline) -> None:
        """Wait until the deadline: nobody tells more."""
        select.select((), (), (), deadline.timeout_sec(0.0))

    def poll(self) -> None:
        """Whether its QEMU has ended is not ours to know."""

    def shutdown(self) -> None:
        """It is not ours to end. Where we have not let go of it, it is let go now, as far as that can be done."""
        self.guard.act()


def connect(path: Path, backend: str, qmp: Path | None = None) -> tuple[AttachedMachine, Target]:
    """Connect to a gdbstub at a unix socket. The guest is stopped afterwards.

    :param backend: ``"gdb"`` or ``"rsp"``.
    :param qmp: the unix socket of a QMP monitor that nobody else uses: then stops cost less.
    :raise TransportError: when nobody listens there, or answers.
    """
    stub = unix_socket(path, "gdbstub", "-gdb")
    qemu_pid, guard = peer_pid(stub), StubGuard(stub)
    try:
        _take_over(stub, path)
        monitor = unix_socket(qmp, "QMP monitor", "-qmp") if qmp else None
        return AttachedMachine(qemu_pid, guard), connect_debugger(stub, backend, monitor)
    except BaseException:
        stub.close()
        guard.act()
        raise


# From whoever was connected before, and may have been killed.
def _take_over(stub: socket.socket, path: Path) -> None:
    try:
        agreed = take_over(stub)
    except OSError as error:
        raise TransportError(f"the gdbstub at {path} has closed the connection: {error}") from error
    if not agreed:
        raise TransportError(
            f"nobody answers at {path} as QEMU's gdbstub does; is it one, and is QEMU stopped (SIGSTOP)?"
        )
