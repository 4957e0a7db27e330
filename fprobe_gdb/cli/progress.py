"""Progress of long work on standard error, when that is a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.progress import Progress as Display
from rich.progress import ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar

from images.progress import Progress, Report

__all__ = ["working"]

_STEPS = 1000
_BAR_COLUMNS = 30


@contextlib.contextmanager
def working(text: str) -> Iterator[Report]:
    """A spinner with a few words while the block runs, wiped at its end; a bar where the block reports how far it is.

    Away from a terminal only notices are written.

    :param text: what is going on, until the block reports something else.
    """
    console = Console(stderr=True)
    # FORCE_COLOR makes rich take a file for a terminal, and a spinner in a log is a nuisance.
    live = console.is_interactive and sys.stderr.isatty()
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), _Bar(), TimeElapsedColumn())
    with Display(*columns, console=console, transient=True, disable=not live) as display:
        task = display.add_task(text, total=None)

        def report(progress: Progress) -> None:
            if progress.notice:
                console.print(progress.text, style="yellow", markup=False, highlight=False)
                return
            done = None if progress.fraction is None else round(progress.fraction * _STEPS)
            display.update(task, description=progress.text, completed=done or 0)
            display.tasks[0].total = None if done is None else _STEPS

        yield report


# A bar once it is known how much there is to do.
class _Bar(ProgressColumn):
    def render(self, task: Task) -> RenderableType:
        if task.total is None:
            return ""
        return ProgressBar(total=task.total, completed=task.completed, width=_BAR_COLUMNS)
