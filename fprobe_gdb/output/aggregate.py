"""What all summaries of values share: figures of a series of numbers, and bars.

Nothing is kept of single values: a summary grows with the number of its buckets or keys, which is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BAR_CHARS", "Figures", "Part", "bar"]

#: As wide as bpftrace's.
BAR_CHARS = 52

#: A key is made of numbers and text.
Part = int | str


@dataclass(slots=True)
class Figures:
    """Count, sum, least and greatest of a series of numbers, exactly."""

    count: int = 0
    total: int = 0
    min: int = 0
    max: int = 0

    def add(self, value: int) -> None:
        """Take one number."""
        if not self.count or value < self.min:
            self.min = value
        if not self.count or value > self.max:
            self.max = value
        self.count += 1
        self.total += value

    def merge(self, other: Figures) -> None:
        """Take all numbers of another series."""
        if other.count:
            self.min = min(self.min, other.min) if self.count else other.min
            self.max = max(self.max, other.max) if self.count else other.max
            self.count += other.count
            self.total += other.total

    @property
    def mean(self) -> int | None:
        """Rounded to the nearest, halves up; None without numbers."""
        return (2 * self.total + self.count) // (2 * self.count) if self.count else None

    def as_dict(self) -> dict[str, int | None]:
        """For JSON; what a series without numbers does not have is None."""
        has = self.count > 0
        return {
            "count": self.count,
            "sum": self.total,
            "min": self.min if has else None,
            "mean": self.mean,
            "max": self.max if has else None,
        }


def bar(count: int, largest: int) -> str:
    """A bar between two ``|``; the largest count fills it, and no count above 0 is without a mark."""
    filled = max(count * BAR_CHARS // largest, 1) if count and largest else 0
    return f"|{'@' * filled:<{BAR_CHARS}}|"
