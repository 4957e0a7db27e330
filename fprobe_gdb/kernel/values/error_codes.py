"""Error codes in values: their names, and those inside pointers."""

from __future__ import annotations

from fprobe_gdb.error_names import ERROR_NAMES, MAX_ERRNO

__all__ = ["MAX_ERRNO", "error_code", "error_name"]


def error_name(code: int) -> str | None:
    """``"-ENOENT"`` for -2; None for a value that is no error code or has no name."""
    name = ERROR_NAMES.get(-code) if -MAX_ERRNO <= code < 0 else None
    return f"-{name}" if name else None


def error_code(value: int) -> int | None:
    """The negative error code in an ``ERR_PTR``, given as unsigned 64-bit value; None for other pointers."""
    return value - (1 << 64) if value >= (1 << 64) - MAX_ERRNO else None
