"""Numbers as people read them: guest time, durations, return values."""

from __future__ import annotations

import errno

from fprobe_gdb.registers import MASK64

__all__ = ["duration", "error_code", "guest_time", "retval"]

# MAX_ERRNO of include/linux/err.h.
_MAX_ERRNO = 4095

# Codes that never reach user space, so that Python does not know them: include/linux/errno.h (Linux 6.12).
_KERNEL_ERRNO = {
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

_ERRNO = {**errno.errorcode, **_ALIASES, **_KERNEL_ERRNO}


def guest_time(time_ns: int) -> str:
    """Seconds with microseconds, as ftrace prints time stamps (``%5lu.%06lu``, rounded to the nearest)."""
    sec, usec = divmod((time_ns + 500) // 1000, 1_000_000)
    return f"{sec:5d}.{usec:06d}"


def duration(ns: int) -> str:
    """A duration in its largest unit: ``999ns``, ``12.9us``, ``1.5ms``, ``3.0s``."""
    if abs(ns) < 1000:
        return f"{ns}ns"
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    for unit, unit_ns in (("us", 1000), ("ms", 1_000_000)):
        # Whole tenths, so that what rounds up to 1000.0us becomes 1.0ms.
        tenths = (ns * 10 + unit_ns // 2) // unit_ns
        if tenths < 10_000:
            return f"{sign}{tenths // 10}.{tenths % 10}{unit}"
    tenths = (ns + 50_000_000) // 100_000_000
    return f"{sign}{tenths // 10}.{tenths % 10}s"


def error_code(value: int) -> int:
    """The negative error code that a return value looks like, 0 for none.

    A register does not say whether the function returns 32 or 64 bits. The same guess as the function_graph tracer's:
    ``print_graph_retval()`` in kernel/trace/trace_functions_graph.c (in v6.5).
    """
    value &= MASK64
    if value >> 31 == 1:
        value |= MASK64 << 32 & MASK64
    return value - MASK64 - 1 if value >= MASK64 + 1 - _MAX_ERRNO else 0


def retval(value: int) -> str:
    """A return value: ``0x1``; ``0xfffffffffffffffe (-2 -ENOENT)`` where it looks like an error code."""
    code = error_code(value)
    if not code:
        return f"{value:#x}"
    name = _ERRNO.get(-code)
    return f"{value:#x} ({code} -{name})" if name else f"{value:#x} ({code})"
