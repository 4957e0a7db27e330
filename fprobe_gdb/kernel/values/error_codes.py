"""The kernel's error numbers by name, those that never leave the kernel too."""

from __future__ import annotations

import errno

__all__ = ["MAX_ERRNO", "error_code", "error_name"]

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
# Numbers that libc gives two names, by the one that kernel sources use.
_TWO_NAMES = {11: "EAGAIN", 35: "EDEADLK", 95: "EOPNOTSUPP"}
_NAMES = {**errno.errorcode, **_TWO_NAMES, **_KERNEL_ONLY}


def error_name(code: int) -> str | None:
    """``"-ENOENT"`` for -2; None for a value that is no error code or has no name."""
    name = _NAMES.get(-code) if -MAX_ERRNO <= code < 0 else None
    return f"-{name}" if name else None


def error_code(value: int) -> int | None:
    """The negative error code in an ``ERR_PTR``, given as unsigned 64-bit value; None for other pointers."""
    return value - (1 << 64) if value >= (1 << 64) - MAX_ERRNO else None
