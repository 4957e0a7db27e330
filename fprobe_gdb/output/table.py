"""The end of a trace as a table for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fprobe_gdb.events import FunctionSummary, SummaryEvent
from fprobe_gdb.output.color import Palette
from fprobe_gdb.output.escape import printable
from fprobe_gdb.output.quantities import duration

__all__ = ["summary_lines"]

# How many functions that were never called are named.
_NAMED_IDLE = 5

_TITLES = ("function", "hits", "missed", "lost", "exits", "exit missed", "min", "mean", "max")
# Shown only when there are any: it is rare, and easily taken for "missed".
_EXITS_MISSED = _TITLES.index("exit missed")


def summary_lines(summary: SummaryEvent, colors: Palette) -> Iterator[str]:
    """The lines of a summary: an empty one, a row for each function that was called, totals, and how it ended."""
    called = [row for row in summary.functions if _called(row)]
    yield ""
    if called:
        yield from _table(summary, called, colors)
    idle = [printable(row.func) for row in summary.functions if not _called(row)]
    if idle:
        more = f" and {len(idle) - _NAMED_IDLE:,} more" if len(idle) > _NAMED_IDLE else ""
        yield f"{colors.dim}not called: {', '.join(idle[:_NAMED_IDLE])}{more}{colors.reset}"
    calls = summary.hits + summary.missed + summary.lost
    yield f"calls: {calls:,} = {summary.hits:,} hits + {summary.missed:,} missed + {summary.lost:,} lost"
    if summary.kept_out or summary.faults:
        faults = f"; {summary.faults:,} times memory could not be read" if summary.faults else ""
        yield f"filtered: {summary.kept_out:,} more calls were kept out{faults}"
    if summary.undecided:
        yield f"undecided: {summary.undecided:,} more calls had not returned, and their returns decide"
    if summary.host_ns_per_hit is not None:
        yield f"host cost: {duration(summary.host_ns_per_hit)} for each entry and each exit"
    status = "" if summary.command_status is None else f", status {summary.command_status}"
    yield f"ended: {printable(summary.ended)}{status}"
    yield f"dispatch: {printable(summary.dispatch)}"
    for aggregate in summary.aggregates:
        yield ""
        yield from map(printable, aggregate.lines())


def _called(row: FunctionSummary) -> bool:
    return bool(row.hits or row.missed or row.lost or row.exits)


def _table(summary: SummaryEvent, called: Sequence[FunctionSummary], colors: Palette) -> Iterator[str]:
    rows = [_TITLES, *(_row_cells(row) for row in called)]
    if len(called) > 1:
        counts = (summary.hits, summary.missed, summary.lost, summary.exits, summary.exits_missed)
        rows.append(("total", *(f"{count:,}" for count in counts), "", "", ""))
    if not summary.exits_missed:
        rows = [(*row[:_EXITS_MISSED], *row[_EXITS_MISSED + 1 :]) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        line = "  ".join(cells).rstrip()
        yield f"{colors.func}{line}{colors.reset}" if number == 0 else line


def _row_cells(row: FunctionSummary) -> tuple[str, ...]:
    counts = (row.hits, row.missed, row.lost, row.exits, row.exits_missed)
    times = (row.min_ns, row.mean_ns, row.max_ns)
    return (
        printable(row.func),
        *(f"{count:,}" for count in counts),
        *("-" if time is None else duration(time) for time in times),
    )
