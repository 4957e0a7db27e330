"""From a connected gdbstub to a target, by either backend."""

from __future__ import annotations

import socket
from pathlib import Path

from fprobe_gdb.errors import TransportError
from fprobe_gdb.session.guard import guarded_directory
from fprobe_gdb.target.base import Target
from fprobe_gdb.target.gdb import GdbTarget
from fprobe_gdb.target.rsp import RspTarget
from fprobe_gdb.transport.relay import GdbRelay

__all__ = ["connect_debugger", "unix_socket"]

# Where gdb finds our relay, inside a private directory.
_SOCKET_NAME = "gdb.sock"


def connect_debugger(stub: socket.socket, backend: str, monitor: socket.socket | None = None) -> Target:
    """Make a target of a guest. It is stopped afterwards.

    :param stub: connected to its gdbstub; the target's from now on.
    :param backend: ``"gdb"`` or ``"rsp"``.
    :param monitor: connected to a QMP monitor that nobody has used yet; the target's from now on. With it a stop keeps
        QEMU's translations: :mod:`~fprobe_gdb.transport.detached_run`.
    :raise TargetError, TransportError: when that fails.
    """
    if backend == "rsp":
        return RspTarget(stub, monitor=monitor)
    # The gdb program can only connect to a socket that has a name. It has one for as long as the connecting takes.
    with guarded_directory("fprobe-gdb-") as directory:
        path = directory / _SOCKET_NAME
        return GdbTarget(path, relay=GdbRelay(stub, path, monitor=monitor))


def unix_socket(path: Path, what: str, option: str) -> socket.socket:
    """Connect to a unix socket of somebody's QEMU.

    :param what: for people.
    :param option: QEMU's option that makes such a socket.
    :raise TransportError: when nobody listens there.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(str(path))
    except OSError as error:
        sock.close()
        raise TransportError(
            f"no {what} at {path}: {error.strerror or error}; start QEMU with {option} unix:{path},server=on,wait=off"
        ) from error
    return sock
