"""Progress of long work on standard error, when that is a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console

from images.progress import Report, terminal_report

__all__ = ["reporting", "status"]


@contextlib.contextmanager
def reporting() -> Iterator[Report]:
    """Progress of downloads."""
    with terminal_report() as report:
        yield report


@contextlib.contextmanager
def status(text: str) -> Iterator[None]:
    """A spinner with a few words while the block runs. Nothing away from a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(text):
        yield
