"""fprobe without the kernel's help: probe the functions of a Linux guest from Python, through QEMU's gdbstub.

>>> from fprobe_gdb import Fprobe, Kernel  # doctest: +SKIP
>>> with Kernel.boot() as k:  # doctest: +SKIP
...     fp = Fprobe(lambda fp, entry_ip, ret_ip, regs, data: print(k.symbolize(entry_ip)))
...     k.register_fprobe(fp, "vfs_read")
...     k.shell("cat /etc/motd")
"""

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
