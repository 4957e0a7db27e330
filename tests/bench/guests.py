"""Guests that call ``vfs_read`` without end, for debuggers of any kind.

The load is one ``dd bs=1``: between two of its calls the guest does the same work each time. Other callers are told
from it by the third argument, the count, which is 1 in its calls.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from emu.deadline import Deadline
from emu.machine import Machine
from fprobe_gdb import Kernel
from fprobe_gdb.session.options import BootOptions
from fprobe_gdb.transport.process import PrivateSocket

__all__ = ["FUNCTION", "LIMIT_SEC", "loaded_kernel", "loaded_machine", "probed_address"]

FUNCTION = "vfs_read"
#: For anything that should take seconds.
LIMIT_SEC = 120.0
_LOAD = "dd if=/dev/zero of=/dev/null bs=1 count=1000000000 2>/dev/null &"


@contextlib.contextmanager
def loaded_machine(kernel: str) -> Iterator[Path]:
    """A running guest under load, with nobody at its gdbstub; gives the stub's socket."""
    # Its client is told an address of the image.
    options = BootOptions(kernel=kernel, kaslr=False)
    with PrivateSocket() as place:
        spec = options.machine_spec(options.kernel_path(), gdb_socket=place.path)
        with Machine(spec) as machine:
            # BootOptions has it stopped before its first instruction, for a debugger.
            machine.qmp("cont", Deadline(LIMIT_SEC))
            machine.wait_boot(Deadline(LIMIT_SEC))
            machine.agent.run(_LOAD, Deadline(LIMIT_SEC))
            yield place.path


@contextlib.contextmanager
def loaded_kernel(kernel: str, backend: str, **options: str) -> Iterator[Kernel]:
    """A stopped guest under load, behind one of our targets; its hits come by breakpoints unless asked otherwise."""
    with Kernel.boot(kernel, backend=backend, **{"dispatch": "breakpoint", **options}) as k:
        k.shell(_LOAD)
        yield k


def probed_address(k: Kernel) -> int:
    """The ftrace location of :data:`FUNCTION`."""
    return k.records.ftrace_location(k.address(FUNCTION))
