"""Records in the order of their counter values, whatever rings they come from and whatever probes they are of. Pure."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import itemgetter

from fprobe_gdb.dispatch.trampoline.record_format import RecordField
from fprobe_gdb.dispatch.trampoline.ring import Batch

__all__ = ["RecordOrder"]

_tsc_of = itemgetter(0)


class RecordOrder:
    """Keeps records back until no older ones can come.

    :param size_of: the size of the records of a probe, in bytes.
    """

    def __init__(self, size_of: Callable[[int], int]) -> None:
        self._size_of = size_of
        # Counter value, the byte of :attr:`.Batch.kinds`, record.
        self._kept: list[tuple[int, int, bytes]] = []

    def __len__(self) -> int:
        return len(self._kept)

    def keeps(self, probe: int) -> bool:
        """Whether records of this probe are among those that are kept back."""
        return any(kind >> 2 == probe for _, kind, _ in self._kept)

    def add(self, batch: Batch) -> None:
        """Keep these."""
        data, size = batch.data, self._size_of(batch.probe)
        layout = struct.Struct(f"<{RecordField.TSC}xQ{size - RecordField.TSC - 8}x")
        tscs = (tsc for (tsc,) in layout.iter_unpack(data))
        records = (data[at : at + size] for at in range(0, len(data), size))
        self._kept += zip(tscs, batch.kinds, records, strict=True)

    def release(self, settled_tsc: int | None) -> Iterator[Batch]:
        """Give back what has a counter value up to this one, or all, in order: a batch for each run of one probe."""
        # Stable: what has the same value stays in the order of its ring.
        self._kept.sort(key=_tsc_of)
        end = len(self._kept) if settled_tsc is None else bisect_right(self._kept, settled_tsc, key=_tsc_of)
        released, self._kept = self._kept[:end], self._kept[end:]
        for probe, run in groupby(released, _probe_of):
            _, kinds, records = zip(*run, strict=True)
            yield Batch(probe, bytes(kinds), b"".join(records))


def _probe_of(kept: tuple[int, int, bytes]) -> int:
    return kept[1] >> 2
