"""From options to a guest with a debugger on it: a machine, and a target that holds it before its first instruction."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from emu.machine import Machine
from fprobe_gdb.session.guard import guarded_directory
from fprobe_gdb.session.options import BootOptions
from fprobe_gdb.target.base import Target
from fprobe_gdb.target.gdb import GdbTarget
from fprobe_gdb.target.rsp import RspTarget
from fprobe_gdb.transport.relay import GdbRelay
from images.progress import Report

__all__ = ["GDB_SOCKET_NAME", "start"]

#: The gdbstub's socket, inside a private directory that is gone once gdb is connected.
GDB_SOCKET_NAME = "gdb.sock"


def start(options: BootOptions, kernel: Path, progress: Report | None = None) -> tuple[Machine, Target]:
    """Launch QEMU, stopped before the first instruction, and connect the target.

    :raise EmuError: when QEMU cannot be launched.
    :raise TargetError, TransportError: when the debugger cannot connect.
    """
    with _socket_dir(options.backend) as directory:
        gdb_socket = directory / GDB_SOCKET_NAME if directory else None
        machine = Machine(options.machine_spec(kernel, progress=progress))
        machine.launch()
        try:
            return machine, _connect(machine, gdb_socket)
        except BaseException:
            machine.shutdown()
            raise


def _connect(machine: Machine, gdb_socket: Path | None) -> Target:
    # KVM translates nothing that a stop could lose.
    monitor = None if machine.spec.accel == "kvm" else machine.gdb_qmp_socket
    assert machine.gdb_socket is not None
    if gdb_socket is not None:
        return GdbTarget(gdb_socket, relay=GdbRelay(machine.gdb_socket, gdb_socket, monitor=monitor))
    return RspTarget(machine.gdb_socket, monitor=monitor)


# The gdb program can only connect to a socket that has a name. It has one for as long as the connecting takes.
@contextlib.contextmanager
def _socket_dir(backend: str) -> Iterator[Path | None]:
    if backend != "gdb":
        yield None
        return
    with guarded_directory("fprobe-gdb-") as directory:
        yield directory
