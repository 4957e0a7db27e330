"""Figures of recorded functions out of records of which no event is made: how many of what, and how long calls took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from operator import sub

from fprobe_gdb.dispatch.trampoline.record_format import RecordForm, RecordKind, record_bits
from fprobe_gdb.dispatch.trampoline.ring import Batch
from fprobe_gdb.output.summary import CallCounters, Durations

__all__ = ["RecordCounts"]


class RecordCounts:
    """Counts records by their first word, which has kind, probe, CPU and location."""

    def __init__(self) -> None:
        self._counted: Counter[int] = Counter()
        # In counts of the time stamp counter.
        self._durations: dict[int, Durations] = {}

    def __bool__(self) -> bool:
        return bool(self._counted)

    # Much is done by functions that look at thousands of records in one go.
    def add(self, batch: Batch, form: RecordForm) -> None:
        """Count the records of a batch.

        :param form: of its probe.
        """
        columns, step = memoryview(batch.data).cast("Q"), form.size_bytes // 8
        words = columns[::step].tolist()
        self._counted.update(words)
        if not form.returns:
            return
        tscs, entered = (columns[at // 8 :: step].tolist() for at in (form.left_tsc_at, form.entered_tsc_at))
        exit_kind = record_bits(RecordKind.EXIT, batch.probe)
        durations = self._durations
        for kind, word, counts in zip(batch.kinds, words, map(sub, tscs, entered), strict=True):
            if kind == exit_kind:
                of = durations.get(word)
                if of is None:
                    of = durations[word] = Durations()
                of.add(counts)

    def rows(
        self, row_of: Callable[[int], str], is_decided: Callable[[int], bool], khz: int
    ) -> Iterator[tuple[str, CallCounters, Durations | None]]:
        """The figures, in nanoseconds.

        :param row_of: the name of the row, given a record's first word.
        :param is_decided: whether its calls are recorded at their returns.
        :param khz: counts a millisecond; 0 where nobody knows, and then durations are left out.
        """
        counters: dict[str, CallCounters] = {}
        for word, count in self._counted.items():
            of = counters.setdefault(row_of(word), CallCounters())
            match RecordKind(word & 3):
                case RecordKind.ENTRY:
                    of.hits += count
                case RecordKind.EXIT:
                    of.exits += count
                    of.hits += count if is_decided(word) else 0
                case RecordKind.MISSED:
                    of.missed += count
        durations: dict[str, Durations] = {}
        for word, counts in self._durations.items():
            if khz:
                durations.setdefault(row_of(word), Durations()).merge(counts.scaled(1_000_000, khz))
        for row, of in counters.items():
            yield row, of, durations.get(row)
