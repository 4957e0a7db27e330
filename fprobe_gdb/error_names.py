"""The kernel's error numbers by name, those that never leave the kernel too."""

from __future__ import annotations

import errno

__all__ = ["ERROR_NAMES", "MAX_ERRNO"]

#: As include/linux/err.h: pointers in the last 4095 bytes of the address space are errors.
MAX_ERRNO = 4095

# include/linux/errno.h (Linux 6.12).
_KERNEL_ONLY = {
    512: "ERESTARTSYS",
    513: "ERESTARTNOINTR",
    514: "ERESTARTNOHAND",
    515: "ENOIOCTLCMD",
    516: "ERESTART_RESTARTBLOCK",
    517: "EPROBE_DEFER",
    518: "EOPENSTALE",
    519: "ENOPARAM",
    521: "EBADHANDLE",
    522: "ENOTSYNC",
    523: "EBADCOOKIE",
    524: "ENOTSUPP",
    525: "ETOOSMALL",
    526: "ESERVERFAULT",
    527: "EBADTYPE",
    528: "EJUKEBOX",
    529: "EIOCBQUEUED",
    530: "ERECALLCONFLICT",
    531: "ENOGRACE",
}
# Where several names have one number, Python knows another than the kernel's sources use; and it lacks 133.
_ALIASES = {11: "EAGAIN", 35: "EDEADLK", 95: "EOPNOTSUPP", 133: "EHWPOISON"}

#: Positive number to name, e.g. ``ERROR_NAMES[2] == "ENOENT"``.
ERROR_NAMES = {**errno.errorcode, **_ALIASES, **_KERNEL_ONLY}
