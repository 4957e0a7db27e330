"""From options to a guest with a debugger on it: a machine, and a target that holds it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from emu.machine import Machine
from fprobe_gdb.session.debugger import connect_debugger
from fprobe_gdb.session.options import BootOptions
from fprobe_gdb.target.base import Target
from images.progress import Report

__all__ = ["start"]


def start(
    options: BootOptions,
    kernel: Path,
    progress: Report | None = None,
    first: Callable[[Machine], None] = lambda _machine: None,
) -> tuple[Machine, Target]:
    """Launch QEMU, stopped before the first instruction, and connect the target.

    :param first: what to do in between. It may talk to the machine's gdbstub, and leaves the guest stopped.
    :raise EmuError: when QEMU cannot be launched.
    :raise TargetError, TransportError: when the debugger cannot connect.
    """
    machine = Machine(options.machine_spec(kernel, progress=progress))
    machine.launch()
    try:
        first(machine)
        assert machine.gdb_socket is not None
        # KVM translates nothing that a stop could lose.
        monitor = None if machine.spec.accel == "kvm" else machine.gdb_qmp_socket
        return machine, connect_debugger(machine.gdb_socket, options.backend, monitor)
    except BaseException:
        machine.shutdown()
        raise
