"""How a fetch tells what it is doing, without the library printing anything.

The library calls a ``Report`` with ``Progress`` records; :func:`terminal_report` draws them with rich.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

__all__ = ["Progress", "Report", "silent", "terminal_report"]


@dataclass(frozen=True)
class Progress:
    """What is going on now.

    :param text: a few words, e.g. ``fetching linux-image-6.1.0-56-cloud-amd64``.
    :param fraction: 0.0 to 1.0 of this step, None when unknown.
    :param notice: whether this is something the user should read later too, not a passing state.
    """

    text: str
    fraction: float | None = None
    notice: bool = False


Report = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """The report that nobody reads."""


@contextmanager
def terminal_report(console: Console | None = None) -> Iterator[Report]:
    """A report drawn as a bar on standard error; away from a terminal only notices are written.

    :param console: where to draw.
    """
    screen = console or Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Bar(*columns, TimeElapsedColumn(), console=screen, transient=True, disable=not screen.is_terminal) as bar:
        # No task yet: a run that finds everything in the cache draws nothing at all.
        task = None

        def report(progress: Progress) -> None:
            nonlocal task
            if progress.notice:
                screen.print(progress.text, style="yellow", markup=False, highlight=False)
                return
            if task is None:
                task = bar.add_task(progress.text, total=None)
            done = None if progress.fraction is None else round(progress.fraction * 1000)
            bar.update(task, description=progress.text, total=None if done is None else 1000, completed=done or 0)

        yield report
