"""Numbers as people read them: guest time, durations, return values."""

from __future__ import annotations

from fprobe_gdb.error_names import ERROR_NAMES, MAX_ERRNO
from fprobe_gdb.registers import MASK64

__all__ = ["duration", "error_code", "guest_time", "retval"]


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
    return value - MASK64 - 1 if value >= MASK64 + 1 - MAX_ERRNO else 0


def retval(value: int) -> str:
    """A return value: ``0x1``; ``0xfffffffffffffffe (-2 -ENOENT)`` where it looks like an error code."""
    code = error_code(value)
    if not code:
        return f"{value:#x}"
    name = ERROR_NAMES.get(-code)
    return f"{value:#x} ({code} -{name})" if name else f"{value:#x} ({code})"
