"""Histograms as bpftrace prints them: ``--hist`` with buckets of powers of two, ``--lhist`` with equal ones.

::

    @count: 14 values, mean 2,341, 0 to 4,096
    [0]                    2 |@@@@@@@@                                            |
    [4K, 8K)              12 |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from fprobe_gdb.errors import UsageError
from fprobe_gdb.output.aggregate import Figures, bar
from fprobe_gdb.output.escape import printable, scalar_values

__all__ = ["Bucket", "Buckets", "Histogram", "LinearBuckets", "PowerOfTwoBuckets"]

_SUFFIXES = ("", "K", "M", "G", "T", "P", "E")
_MAX_LINEAR = 1000


@dataclass(frozen=True, slots=True)
class Bucket:
    """Whole numbers from ``low`` to below ``high``; None for no end."""

    low: int | None
    high: int | None
    label: str


class Buckets(Protocol):
    """A row of buckets, numbered upwards without gaps."""

    def index(self, value: int) -> int:
        """Which bucket a number belongs to."""
        ...

    def bucket(self, index: int) -> Bucket:
        """What a bucket holds."""
        ...


class PowerOfTwoBuckets:
    """``(..., 0)``, ``[0]``, ``[1]``, ``[2, 4)``, ``[4, 8)``, ... without an upper end; as bpftrace's ``hist()``."""

    def index(self, value: int) -> int:
        """-1 for negative numbers, else how many bits the number takes."""
        return value.bit_length() if value >= 0 else -1

    def bucket(self, index: int) -> Bucket:
        """What a bucket holds."""
        if index < 0:
            return Bucket(None, 0, "(..., 0)")
        if index < 2:
            return Bucket(index, index + 1, f"[{index}]")
        low, high = 1 << index - 1, 1 << index
        return Bucket(low, high, f"[{_short(low)}, {_short(high)})")


class LinearBuckets:
    """``(..., low)``, then equal steps up to ``high``, then ``[high, ...)``; as bpftrace's ``lhist()``.

    :raise UsageError: there is no step that leads from low to high, or there are too many.
    """

    def __init__(self, low: int, high: int, step: int) -> None:
        if step <= 0 or high <= low or (high - low) % step or (high - low) // step > _MAX_LINEAR:
            raise UsageError(
                f"a linear histogram from {low} to {high} in steps of {step} cannot be made; "
                f"the step must be a whole part of the range, with {_MAX_LINEAR} buckets at most"
            )
        self._low = low
        self._high = high
        self._step = step

    def index(self, value: int) -> int:
        """-1 below the range, the number of steps above it."""
        return (min(max(value, self._low - 1), self._high) - self._low) // self._step

    def bucket(self, index: int) -> Bucket:
        """What a bucket holds."""
        if index < 0:
            return Bucket(None, self._low, f"(..., {self._low})")
        low = self._low + index * self._step
        if low >= self._high:
            return Bucket(self._high, None, f"[{self._high}, ...)")
        return Bucket(low, low + self._step, f"[{low}, {low + self._step})")


class Histogram:
    """How often numbers fell into which bucket. ``add()`` takes well below a microsecond."""

    def __init__(self, title: str, buckets: Buckets | None = None) -> None:
        self.title = title
        self.figures = Figures()
        self._buckets = buckets or PowerOfTwoBuckets()
        self._counts: dict[int, int] = {}
        #: Hits without a number (unreadable memory), to be shown beside the others.
        self.faults = 0

    def add(self, value: int | None) -> None:
        """Count one number; None for a hit that has none."""
        if value is None:
            self.faults += 1
            return
        index = self._buckets.index(value)
        self._counts[index] = self._counts.get(index, 0) + 1
        self.figures.add(value)

    def merge(self, counts: Mapping[int, int], figures: Figures, *, faults: int = 0) -> None:
        """Take numbers that somebody else has put into the same buckets.

        :param counts: by index of the bucket.
        :param figures: of all these numbers.
        :param faults: hits without a number.
        """
        for index, count in counts.items():
            self._counts[index] = self._counts.get(index, 0) + count
        self.figures.merge(figures)
        self.faults += faults

    def rows(self) -> list[tuple[Bucket, int]]:
        """All buckets from the lowest to the highest that has a count, empty ones between them too."""
        if not self._counts:
            return []
        indexes = range(min(self._counts), max(self._counts) + 1)
        return [(self._buckets.bucket(index), self._counts.get(index, 0)) for index in indexes]

    def lines(self) -> Iterator[str]:
        """The histogram as text."""
        yield _headline(self.title, self.figures, self.faults)
        rows = self.rows()
        largest = max((count for _, count in rows), default=0)
        label_chars = max((len(bucket.label) for bucket, _ in rows), default=0)
        count_chars = len(f"{largest:,}")
        for bucket, count in rows:
            yield f"{bucket.label:<{label_chars}}  {count:>{count_chars},} {bar(count, largest)}"

    def as_dict(self) -> dict[str, object]:
        """For JSON: buckets with their ends (``high`` is not in the bucket; null for no end)."""
        return {
            "type": "histogram",
            "title": scalar_values(self.title),
            **self.figures.as_dict(),
            "faults": self.faults,
            "buckets": [{"low": bucket.low, "high": bucket.high, "count": count} for bucket, count in self.rows()],
        }


def _headline(title: str, figures: Figures, faults: int) -> str:
    unread = f"; {faults:,} without a value" if faults else ""
    if not figures.count:
        return f"@{printable(title)}: no values{unread}"
    noun = "value" if figures.count == 1 else "values"
    span = f"mean {figures.mean:,}, {figures.min:,} to {figures.max:,}"
    return f"@{printable(title)}: {figures.count:,} {noun}, {span}{unread}"


# A power of two with a binary suffix: 1K is 1,024.
def _short(power: int) -> str:
    step = min((power.bit_length() - 1) // 10, len(_SUFFIXES) - 1)
    return f"{power >> 10 * step}{_SUFFIXES[step]}"
