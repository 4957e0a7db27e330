"""Options of record mode, and when it is taken without being asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import rich_click as click

from fprobe_gdb.session.guest import Kernel

__all__ = ["RECORD_FROM", "record_options", "should_record"]

F = TypeVar("F", bound=Callable[..., Any])

#: More functions than this are recorded rather than handled one by one.
RECORD_FROM = 500


def record_options(function: F) -> F:
    """``--record`` and ``--block``."""
    function = click.option(
        "--block", is_flag=True, help="When recording: let the guest wait for us instead of losing records."
    )(function)
    return click.option(
        "--record/--no-record",
        default=None,
        help="Let the guest record calls by itself, ten times as cheap as a handler: pointers are just numbers, and "
        f"nothing can be asked of a call. Default: for more than {RECORD_FROM} functions.",
    )(function)


def should_record(k: Kernel, count: int) -> bool:
    """Whether so many functions should be recorded, where that serves as well as handlers."""
    return count > RECORD_FROM and k.can_record
