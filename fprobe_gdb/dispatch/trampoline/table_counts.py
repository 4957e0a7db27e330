"""What the tables of a probe say: read from the stopped guest's memory, and added up over all CPUs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from fprobe_gdb.dispatch.trampoline.tables import SERIES_BYTES, CallRow, HistogramTable, ProbeTables, RowTable

__all__ = ["CallCounts", "HistogramCounts", "KeyCounts", "Series", "TableCounts", "read_tables"]

_SIGN = 1 << 63


@dataclass(slots=True)
class Series:
    """Count, sum, least and greatest of numbers; without any, the latter are nothing."""

    count: int = 0
    total: int = 0
    least: int = 0
    greatest: int = 0

    def merge(self, other: Series) -> None:
        """Add those of another one."""
        if other.count:
            self.least = min(self.least, other.least) if self.count else other.least
            self.greatest = max(self.greatest, other.greatest) if self.count else other.greatest
            self.count += other.count
            self.total += other.total


@dataclass(slots=True)
class CallCounts:
    """The calls of a function. ``times`` are counts of the time stamp counter, one for each return."""

    hits: int = 0
    missed: int = 0
    exits: int = 0
    times: Series = field(default_factory=Series)

    def merge(self, other: CallCounts) -> None:
        """Add those of another one."""
        self.hits += other.hits
        self.missed += other.missed
        self.exits += other.exits
        self.times.merge(other.times)


@dataclass(slots=True)
class KeyCounts:
    """Hits by key."""

    of: dict[tuple[int, ...], int] = field(default_factory=dict)
    #: With keys for which there was no row.
    others: int = 0
    #: Without a key.
    faults: int = 0


@dataclass(slots=True)
class HistogramCounts:
    """Numbers by bucket."""

    of: dict[int, int] = field(default_factory=dict)
    series: Series = field(default_factory=Series)
    #: Hits without a number.
    faults: int = 0


@dataclass(slots=True)
class TableCounts:
    """What the tables of a probe say, of all CPUs together."""

    #: By where a location ends; and of the functions for which there was no row.
    functions: dict[int, CallCounts] = field(default_factory=dict)
    others: CallCounts = field(default_factory=CallCounts)
    sums: list[KeyCounts | HistogramCounts] = field(default_factory=list)

    @property
    def all_calls(self) -> CallCounts:
        """Of all functions together."""
        total = CallCounts()
        for of in (*self.functions.values(), self.others):
            total.merge(of)
        return total


def read_tables(tables: ProbeTables, parts: Sequence[memoryview]) -> TableCounts:
    """Add up what all CPUs have.

    :param parts: each CPU's part of the tables, as 64-bit words.
    """
    found = TableCounts()
    for table in tables.others:
        found.sums.append(KeyCounts() if isinstance(table, RowTable) else HistogramCounts())
    for words in parts:
        _add_functions(found, tables.functions, words)
        for table, counts in zip(tables.others, found.sums, strict=True):
            if isinstance(table, RowTable):
                assert isinstance(counts, KeyCounts)
                _add_keys(counts, table, words)
            else:
                assert isinstance(counts, HistogramCounts)
                _add_histogram(counts, table, words)
    return found


def _add_functions(found: TableCounts, table: RowTable, words: memoryview) -> None:
    for row in _rows(table, words):
        _add_calls(found.functions.setdefault(words[row // 8 + 1], CallCounts()), table, words, row)
    _add_calls(found.others, table, words, table.others_at)


def _add_calls(counts: CallCounts, table: RowTable, words: memoryview, row: int) -> None:
    at = row + table.values_at
    counts.hits += words[(at + CallRow.HITS) // 8]
    counts.missed += words[(at + CallRow.MISSED) // 8]
    exits = words[(at + CallRow.EXITS) // 8]
    counts.exits += exits
    counts.times.merge(_series(words, at + CallRow.TIMES, exits, signed=False))


def _add_keys(counts: KeyCounts, table: RowTable, words: memoryview) -> None:
    for row in _rows(table, words):
        key = tuple(words[row // 8 + 1 : row // 8 + 1 + table.key_words])
        if count := words[(row + table.values_at) // 8]:
            counts.of[key] = counts.of.get(key, 0) + count
    counts.others += words[(table.others_at + table.values_at) // 8]
    counts.faults += words[(table.at + RowTable.FAULTS) // 8]


def _add_histogram(counts: HistogramCounts, table: HistogramTable, words: memoryview) -> None:
    for bucket, count in enumerate(words[table.counts_at // 8 : table.end // 8]):
        if count:
            counts.of[bucket] = counts.of.get(bucket, 0) + count
    numbers = sum(words[table.counts_at // 8 : table.end // 8])
    counts.series.merge(_series(words, table.series_at, numbers, table.signed))
    counts.faults += words[(table.at + HistogramTable.FAULTS) // 8]


# Offsets of the rows that are taken.
def _rows(table: RowTable, words: memoryview) -> Iterator[int]:
    used = min(words[(table.at + RowTable.USED) // 8], table.rows * table.row_bytes)
    return iter(range(table.rows_at, table.rows_at + used, table.row_bytes))


def _series(words: memoryview, at: int, count: int, signed: bool) -> Series:
    low, high, least, greatest = words[at // 8 : at // 8 + SERIES_BYTES // 8]
    total = high << 64 | low
    if not signed:
        return Series(count, total, least, greatest)
    return Series(count, total - (1 << 128) * (total >> 127), _signed(least), _signed(greatest))


def _signed(word: int) -> int:
    return word - (1 << 64) if word & _SIGN else word
