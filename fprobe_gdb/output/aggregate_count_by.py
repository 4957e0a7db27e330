"""How often each key came: ``--count-by comm,retval``, as a table with the most frequent first.

Rule: the number of keys is bounded. Once it is reached, hits with new keys are counted, exactly, in the one row
``(other)``; the keys that are there keep their exact counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fprobe_gdb.errors import UsageError
from fprobe_gdb.output.aggregate import Figures, Part, bar
from fprobe_gdb.output.escape import printable, scalar_values

__all__ = ["OTHER", "CountBy"]

#: What the row of keys beyond the bound is called.
OTHER = "(other)"
_MAX_KEYS = 10_000
_TOP = 20
_CELL_CHARS = 64

Key = tuple[Part, ...]


class CountBy:
    """Hits by key, and where a value comes with each hit (``duration``, say), its sum, mean, least and greatest.

    :param titles: headings of the key's parts.
    :param value_title: what the value is, None where there is none.
    :param max_keys: how many keys are told apart.
    :raise UsageError: nothing to count by, or no room for any key.
    """

    def __init__(self, titles: Sequence[str], *, value_title: str | None = None, max_keys: int = _MAX_KEYS) -> None:
        if not titles or max_keys < 1:
            raise UsageError("counting needs at least one expression as a key, and room for one key")
        self.titles = tuple(titles)
        self.value_title = value_title
        self._max_keys = max_keys
        self._of: dict[Key, Figures] = {}
        self._other = Figures()
        #: Hits without a key (unreadable memory).
        self.faults = 0

    def add(self, key: Key | None, value: int = 0) -> None:
        """Count one hit; None for one that has no key."""
        if key is None:
            self.faults += 1
            return
        self._figures(key).add(value)

    def merge(self, counts: Mapping[Key, int], *, other: int = 0, faults: int = 0) -> None:
        """Take hits that somebody else has counted; the most frequent keys first, should not all have room.

        :param other: hits with keys that nobody has told apart.
        :param faults: hits without a key.
        """
        for key, count in sorted(counts.items(), key=lambda row: -row[1]):
            self._figures(key).count += count
        self._other.count += other
        self.faults += faults

    @property
    def hits(self) -> int:
        """All hits that have a key, those in ``(other)`` too."""
        return sum(figures.count for figures in self._of.values()) + self._other.count

    def _figures(self, key: Key) -> Figures:
        figures = self._of.get(key)
        if figures is None:
            figures = self._other
            if len(self._of) < self._max_keys:
                figures = self._of[key] = Figures()
        return figures

    def rows(self) -> list[tuple[Key, Figures]]:
        """All keys, the most frequent first, equally frequent ones in the order of the keys."""
        return sorted(self._of.items(), key=lambda row: (-row[1].count, [_order(part) for part in row[0]]))

    def lines(self, top: int | None = _TOP) -> Iterator[str]:
        """The table as text.

        :param top: how many rows; None for all. What is left out is summed up in a line.
        """
        rows = self.rows()
        shown = rows[:top]
        yield self._headline()
        table = [(*map(printable, self.titles), *self._number_titles())]
        table += [(*map(_cell, key), *self._numbers(figures)) for key, figures in shown]
        if self._other.count:
            table.append((OTHER, *("" for _ in self.titles[1:]), *self._numbers(self._other)))
        if len(table) > 1:
            counts = [figures.count for _, figures in shown] + [self._other.count] * bool(self._other.count)
            yield from self._aligned(table, counts)
        left_out = rows[len(shown) :]
        if left_out:
            hits = sum(figures.count for _, figures in left_out)
            yield f"... and {_counted(len(left_out), 'more key')} with {_counted(hits, 'hit')}"

    def as_dict(self, top: int | None = None) -> dict[str, object]:
        """For JSON: all keys, or the first ``top`` of them; ``keys_left_out`` and ``hits_left_out`` tell the rest."""
        rows = self.rows()
        shown = rows[:top]
        return {
            "type": "count_by",
            "titles": [scalar_values(title) for title in self.titles],
            "value": self.value_title,
            "hits": self.hits,
            "faults": self.faults,
            "rows": [{"key": [_plain(part) for part in key], **self._json(figures)} for key, figures in shown],
            "other": self._json(self._other) if self._other.count else None,
            "keys_left_out": len(rows) - len(shown),
            "hits_left_out": sum(figures.count for _, figures in rows[len(shown) :]),
        }

    def _headline(self) -> str:
        unread = f"; {self.faults:,} without a key" if self.faults else ""
        title = ", ".join(map(printable, self.titles))
        return f"@{title}: {_counted(self.hits, 'hit')}, {_counted(len(self._of), 'key')}{unread}"

    def _number_titles(self) -> tuple[str, ...]:
        value = self.value_title
        return ("hits",) if value is None else ("hits", *(f"{name} {printable(value)}" for name in _FIGURES))

    def _numbers(self, figures: Figures) -> tuple[str, ...]:
        count = f"{figures.count:,}"
        if self.value_title is None:
            return (count,)
        return count, f"{figures.total:,}", f"{figures.min:,}", f"{figures.mean:,}", f"{figures.max:,}"

    def _json(self, figures: Figures) -> dict[str, int | None]:
        return {"count": figures.count} if self.value_title is None else figures.as_dict()

    # Text to the left, numbers to the right, and a bar behind.
    def _aligned(self, table: list[tuple[str, ...]], counts: list[int]) -> Iterator[str]:
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        parts = len(self.titles)
        bars = ["", *(bar(count, max(counts)) for count in counts)]
        for row, drawn in zip(table, bars, strict=True):
            cells = [
                cell.ljust(width) if at < parts else cell.rjust(width)
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            yield f"{'  '.join(cells)} {drawn}".rstrip()


_FIGURES = ("sum", "min", "mean", "max")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("s" if count != 1 else "")


# Numbers before text, each in its own order.
def _order(part: Part) -> tuple[bool, int, str]:
    return (True, 0, part) if isinstance(part, str) else (False, part, "")


def _cell(part: Part) -> str:
    text = printable(part) if isinstance(part, str) else str(part)
    return text if len(text) <= _CELL_CHARS else text[: _CELL_CHARS - 3] + "..."


def _plain(part: Part) -> Part:
    return scalar_values(part) if isinstance(part, str) else part
