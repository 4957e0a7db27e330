"""Options of ``trace`` and ``attach`` that ask something of each call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import rich_click as click

from fprobe_gdb.session.judge import Questions

__all__ = ["question_options", "take_questions"]

F = TypeVar("F", bound=Callable[..., Any])


def question_options(function: F) -> F:
    """``--filter``, ``--errors``, ``--min-duration``, ``--hist`` and ``--count-by``."""
    for option in (
        click.option(
            "--count-by", multiple=True, metavar="EXPR", help="Calls by a key at the end, e.g. comm, or 'comm, retval'."
        ),
        click.option(
            "--hist", multiple=True, metavar="EXPR", help="A histogram at the end, e.g. of count or duration."
        ),
        click.option("--min-duration", metavar="TIME", help="Only calls that take so long, e.g. 5us (guest time)."),
        click.option(
            "--errors", metavar="NAMES", help="Only calls that return an error: 'any', or names as in ENOENT,EACCES."
        ),
        click.option(
            "--filter", metavar="EXPR", help="Only calls for which this holds, e.g. 'count > 512 && comm == \"cat\"'."
        ),
    ):
        function = option(function)
    return function


def take_questions(values: dict[str, Any]) -> Questions:
    """Take these options out of a command's keywords."""
    errors: str | None = values.pop("errors")
    return Questions(
        filter=values.pop("filter"),
        errors=None if errors is None else () if errors == "any" else tuple(errors.split(",")),
        min_duration=values.pop("min_duration"),
        hist=values.pop("hist"),
        count_by=values.pop("count_by"),
    )
