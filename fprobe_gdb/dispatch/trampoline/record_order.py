"""Records of a probe in the order of their counter values, whatever rings they come from. Pure."""

from __future__ import annotations

import struct
from bisect import bisect_right
from operator import itemgetter

from fprobe_gdb.dispatch.trampoline.record_format import RecordField
from fprobe_gdb.dispatch.trampoline.ring import Batch

__all__ = ["RecordOrder"]

_tsc_of = itemgetter(0)


class RecordOrder:
    """Keeps records back until no older ones can come.

    :param probe: whose records they are.
    :param size_bytes: the size of each one.
    """

    def __init__(self, probe: int, size_bytes: int) -> None:
        self._probe = probe
        self._tsc = struct.Struct(f"<{RecordField.TSC}xQ{size_bytes - RecordField.TSC - 8}x")
        self._size_bytes = size_bytes
        # Counter value, kind, record.
        self._kept: list[tuple[int, int, bytes]] = []

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, batch: Batch) -> None:
        """Keep these."""
        data, size = batch.data, self._size_bytes
        tscs = (tsc for (tsc,) in self._tsc.iter_unpack(data))
        records = (data[at : at + size] for at in range(0, len(data), size))
        self._kept += zip(tscs, batch.kinds, records, strict=True)

    def release(self, settled_tsc: int | None) -> Batch | None:
        """Give back what has a counter value up to this one, or all, in order; None when that is nothing."""
        # Stable: what has the same value stays in the order of its ring.
        self._kept.sort(key=_tsc_of)
        end = len(self._kept) if settled_tsc is None else bisect_right(self._kept, settled_tsc, key=_tsc_of)
        if not end:
            return None
        released, self._kept = self._kept[:end], self._kept[end:]
        _, kinds, records = zip(*released, strict=True)
        return Batch(self._probe, bytes(kinds), b"".join(records))
