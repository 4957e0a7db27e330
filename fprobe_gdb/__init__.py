"""fprobe without the kernel's help: probe the functions of a Linux guest from Python, through QEMU's gdbstub.

>>> from fprobe_gdb import Fprobe, Kernel  # doctest: +SKIP
>>> with Kernel.boot() as k:  # doctest: +SKIP
...     fp = Fprobe(lambda fp, entry_ip, ret_ip, regs, data: print(k.symbolize(entry_ip)))
...     k.register_fprobe(fp, "vfs_read")
...     k.shell("cat /etc/motd")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fprobe_gdb.probe.fprobe import (
        FPROBE_FL_ANY_FUNCTION,
        FPROBE_FL_DISABLED,
        FPROBE_FL_KPROBE_SHARED,
        Fprobe,
    )
    from fprobe_gdb.probe.regs import PtRegs
    from fprobe_gdb.probe.rethook import EntryData
    from fprobe_gdb.session.guest import Kernel
    from fprobe_gdb.session.options import BootOptions

__all__ = [
    "FPROBE_FL_ANY_FUNCTION",
    "FPROBE_FL_DISABLED",
    "FPROBE_FL_KPROBE_SHARED",
    "BootOptions",
    "EntryData",
    "Fprobe",
    "Kernel",
    "PtRegs",
]

_HOMES = {
    "FPROBE_FL_ANY_FUNCTION": "probe.fprobe",
    "FPROBE_FL_DISABLED": "probe.fprobe",
    "FPROBE_FL_KPROBE_SHARED": "probe.fprobe",
    "BootOptions": "session.options",
    "EntryData": "probe.rethook",
    "Fprobe": "probe.fprobe",
    "Kernel": "session.guest",
    "PtRegs": "probe.regs",
}


# Read when asked for (PEP 562): the command has to get to its first line, which makes Ctrl-C quiet, before 0.4 s of
# imports.
def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
