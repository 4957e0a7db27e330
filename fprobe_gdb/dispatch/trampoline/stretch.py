"""Bytes of the guest's RAM that are one behind the other for the guest, and in pieces for us."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import overload

from fprobe_gdb.target.guest_ram import GuestRam

__all__ = ["Stretch"]


class Stretch:
    """As much of a ``memoryview`` as a ring needs.

    :param runs: physical addresses and sizes in bytes, in order.
    """

    def __init__(self, ram: GuestRam, runs: Sequence[tuple[int, int]]) -> None:
        self._views = [ram.part(*run) for run in runs]
        self._ends = list(accumulate(size_bytes for _, size_bytes in runs))

    def release(self) -> None:
        """Let go of the memory."""
        for view in self._views:
            view.release()

    def seam(self, at: int) -> int:
        """Where the piece ends in which a byte is."""
        return self._ends[bisect_right(self._ends, at)]

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> memoryview: ...
    def __getitem__(self, index: int | slice) -> int | memoryview:
        """A byte; or some, in place or as a copy."""
        if isinstance(index, int):
            number, begin, _ = next(self._parts(index, index + 1))
            return self._views[number][begin]
        parts = [self._views[number][begin:end] for number, begin, end in self._parts(index.start, index.stop)]
        whole = parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
        return whole[:: index.step]

    def __setitem__(self, index: slice, data: memoryview) -> None:
        done = 0
        for number, begin, end in self._parts(index.start, index.stop):
            self._views[number][begin:end] = data[done : done + end - begin]
            done += end - begin

    # The pieces that a range is in: number, and from where to where in it.
    def _parts(self, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        number = bisect_right(self._ends, begin)
        while begin < end:
            first = self._ends[number - 1] if number else 0
            until = min(end, self._ends[number])
            yield number, begin - first, until - first
            begin = until
            number += 1
