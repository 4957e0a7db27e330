"""Options of record mode, and when it is taken without being asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import rich_click as click

from fprobe_gdb.cli.trace_options import Form, What

__all__ = ["RECORD_FROM", "check_recordable", "record_options", "recordable"]

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
        help="Let the guest record calls by itself, ten times as cheap as a handler and more. Events (f:, t:) are "
        "recorded with what they fetch, text up to 256 bytes; names behind pointers for up to 500 functions. "
        "With -f summary, --hist and --count-by are added up there, too; else from what is recorded. "
        f"Default: for more than {RECORD_FROM} functions, and for --filter and the like with -f summary.",
    )(function)


def recordable(what: What, form: Form) -> bool:
    """Whether all that is asked for can be had without handlers."""
    return not (what.selection.waits or form.stack)


def check_recordable(record: bool | None, what: What, form: Form) -> None:
    """Check ``--record`` against the rest.

    :raise click.UsageError: it cannot be had with that.
    """
    if record and not recordable(what, form):
        raise click.UsageError(
            "--record knows no --stack, and no modules that come later; leave it out, and handlers serve"
        )
