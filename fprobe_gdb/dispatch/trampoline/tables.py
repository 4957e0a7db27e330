"""Tables in which pads add up calls, without a record of any: what is where, and what they say. Pure.

Each CPU has tables of its own, so that only hits that interrupt a pad can come in between; what belongs together is
added by the host, at the end (:mod:`.table_counts`). Each probe that adds up has a table with a row for each function
that was called, and the tables that it was given: counts by a key, and histograms.

A table of rows is a hash table of a bounded number of rows. Rows are taken one behind the other, and hang in chains,
one for each hash. A hit that interrupts a pad which is about to hang up a new row may hang up another one of the same
key, or one that no pad finds again: the host looks at all rows that were taken, and adds those of one key. What finds
no row left is added to the row of the others, so no call is forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

__all__ = [
    "BUCKETS",
    "NEGATIVE",
    "SERIES_BYTES",
    "CallRow",
    "HistogramForm",
    "HistogramTable",
    "KeyForm",
    "ProbeTables",
    "RowTable",
    "SeriesWord",
    "TableForm",
    "blank_tables",
    "place_tables",
]

#: Of a histogram: which bucket numbers below 0 have, behind those by the number of bits.
NEGATIVE = 65
BUCKETS = NEGATIVE + 1
_WORD = 8
_SIGN = 1 << 63
_MOST = (1 << 64) - 1
# As many as a table of counts tells apart on each CPU, where there is room; less than so many make no sense.
_ROWS = 8192
_LEAST_ROWS = 16
# A table begins with how many bytes of rows are taken, and how many hits had no key.
_ROW_HEAD_BYTES = 16


class CallRow(IntEnum):
    """Words of a function's row, behind its key; :class:`SeriesWord` from ``TIMES`` on, in counts of the counter."""

    HITS = 0
    MISSED = 8
    EXITS = 16
    TIMES = 24


class SeriesWord(IntEnum):
    """Words of the figures of a series of numbers."""

    #: The sum has 128 bits.
    TOTAL = 0
    HIGH = 8
    LEAST = 16
    GREATEST = 24


SERIES_BYTES = 32
_CALL_BYTES = CallRow.TIMES + SERIES_BYTES


@dataclass(frozen=True, slots=True)
class KeyForm:
    """Counts by a key of so many words."""

    words: int


@dataclass(frozen=True, slots=True)
class HistogramForm:
    """A histogram by powers of two, of signed numbers or of others."""

    signed: bool


TableForm = KeyForm | HistogramForm


@dataclass(frozen=True, slots=True)
class RowTable:
    """A hash table. Addresses are offsets in each CPU's part of the tables.

    :param chains: a power of two.
    :param has_times: rows hold :class:`CallRow`; else one word, a count.
    """

    at: int
    key_words: int
    rows: int
    chains: int
    has_times: bool = False

    #: Offsets of the words in front of all rows.
    USED = 0
    FAULTS = 8

    @property
    def values_at(self) -> int:
        """Within a row, where what is added up begins: behind the address of the next row of the chain, and the key."""
        return _WORD + _WORD * self.key_words

    @property
    def row_bytes(self) -> int:
        """Size of a row."""
        return self.values_at + (_CALL_BYTES if self.has_times else _WORD)

    @property
    def others_at(self) -> int:
        """The row of what has no room."""
        return self.at + _ROW_HEAD_BYTES

    @property
    def chains_at(self) -> int:
        """Addresses of the first rows of chains; 0 for none."""
        return self.others_at + self.row_bytes

    @property
    def rows_at(self) -> int:
        """The first row."""
        return self.chains_at + _WORD * self.chains

    @property
    def end(self) -> int:
        """Behind the last row."""
        return self.rows_at + self.rows * self.row_bytes


@dataclass(frozen=True, slots=True)
class HistogramTable:
    """A histogram: hits without a number, the figures, and a count for each number of bits, and for negative ones."""

    at: int
    signed: bool

    FAULTS = 0

    @property
    def series_at(self) -> int:
        """The figures of all numbers."""
        return self.at + _WORD

    @property
    def counts_at(self) -> int:
        """The counts."""
        return self.series_at + SERIES_BYTES

    @property
    def end(self) -> int:
        """Behind the last count."""
        return self.counts_at + _WORD * BUCKETS


@dataclass(frozen=True, slots=True)
class ProbeTables:
    """The tables of a probe.

    :param functions: a row for each function; its key is where the location ends.
    """

    functions: RowTable
    others: tuple[RowTable | HistogramTable, ...]

    @property
    def end(self) -> int:
        """Behind the last one."""
        return max(table.end for table in (self.functions, *self.others))


def place_tables(at: int, room_bytes: int, functions: int, forms: Sequence[TableForm]) -> ProbeTables | None:
    """Divide room among the tables of a probe; None where there is too little.

    :param functions: how many there are.
    """
    rows = _ROWS
    while rows >= _LEAST_ROWS:
        tables = _placed(at, min(functions, max(rows, functions * rows // _ROWS)), rows, forms)
        if tables.end <= at + room_bytes:
            return tables
        rows //= 2
    return None


def _placed(at: int, functions: int, rows: int, forms: Sequence[TableForm]) -> ProbeTables:
    first = RowTable(at, 1, functions, _chains(functions), has_times=True)
    others: list[RowTable | HistogramTable] = []
    end = first.end
    for form in forms:
        if isinstance(form, KeyForm):
            others.append(RowTable(end, form.words, rows, _chains(rows)))
        else:
            others.append(HistogramTable(end, form.signed))
        end = others[-1].end
    return ProbeTables(first, tuple(others))


# With a bit for each one, two at least, so that a shift finds it.
def _chains(rows: int) -> int:
    return 1 << max(1, (rows - 1).bit_length())


def blank_tables(tables: ProbeTables) -> bytes:
    """What the tables begin as."""
    begin = tables.functions.at
    blank = bytearray(tables.end - begin)

    def least(series_at: int, signed: bool) -> None:
        for word, value in ((SeriesWord.LEAST, _SIGN - 1 if signed else _MOST), (SeriesWord.GREATEST, _SIGN * signed)):
            at = series_at + word - begin
            blank[at : at + _WORD] = value.to_bytes(_WORD, "little")

    least(tables.functions.others_at + tables.functions.values_at + CallRow.TIMES, False)
    for table in tables.others:
        if isinstance(table, HistogramTable):
            least(table.series_at, table.signed)
    return bytes(blank)
