"""The host's side of a ring: takes records out while the guest runs. See :mod:`.record_format`.

A record is looked at twice: first at the byte that says that it is there, then it is copied. Behind a record that is
not there yet nothing is taken. Room is given back with zeros in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

from fprobe_gdb.dispatch.trampoline.record_format import RingWord
from fprobe_gdb.dispatch.trampoline.stretch import Stretch
from fprobe_gdb.dispatch.trampoline.zone import LONGEST_RECORD_BYTES, RING_WORDS_BYTES, Zone
from fprobe_gdb.target.guest_ram import GuestRam

__all__ = ["Batch", "Ring"]

# In a record, behind the byte that says what it is.
_CPU_BYTE = 1
# What is copied at once. With larger pieces the caches have lost what is copied before it is looked at.
_PIECE_BYTES = 1 << 16
_ZEROS = memoryview(bytes(_PIECE_BYTES))


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one probe, in the order of their time where that is asked for, else in that of one ring."""

    probe: int
    #: A byte for each record: its kind in the lower two bits, its probe above.
    kinds: bytes
    #: The records, one behind the other.
    data: bytes

    def without(self, kind: int) -> Batch:
        """The records of all other kinds; there may be none."""
        if kind not in self.kinds:
            return self
        size = len(self.data) // len(self.kinds)
        kept = [at for at, other in enumerate(self.kinds) if other != kind]
        data = b"".join(self.data[at * size : (at + 1) * size] for at in kept)
        return Batch(self.probe, bytes(self.kinds[at] for at in kept), data)


class Ring:
    """The ring of one CPU.

    :param size_of: the size of the records of a probe, in bytes.
    """

    def __init__(self, ram: GuestRam, zone: Zone, cpu: int, size_of: Callable[[int], int]) -> None:
        self._size_of = size_of
        self._cpu = bytes([cpu])
        self._addr = zone.ring(cpu)
        self._tables_addr = zone.tables(cpu)
        self._size_bytes = zone.ring_bytes
        self._bytes = Stretch(ram, zone.runs(self._addr, zone.ring_stride_bytes))
        self._words = ram.part(zone.physical_of(zone.ring_words(cpu)), RING_WORDS_BYTES).cast("Q")
        # Bytes of records taken since the beginning.
        self._tail = 0

    def furnish(self) -> None:
        """The zone has been wiped: let pads write from its beginning on."""
        self._tail = 0
        self._words[RingWord.RING // 8] = self._addr
        self._words[RingWord.TABLES // 8] = self._tables_addr
        self._allow()

    def close(self) -> None:
        """Let go of the memory."""
        self._words.release()
        self._bytes.release()

    @property
    def head(self) -> int:
        """Up to where room was taken, in bytes since the beginning, which somebody may give back yet."""
        return min(self._words[RingWord.HEAD // 8], self._tail + self._size_bytes)

    @property
    def tail(self) -> int:
        """Up to where records were taken, in bytes since the beginning."""
        return self._tail

    @property
    def adding(self) -> bool:
        """Whether its CPU is about to add up a hit."""
        return bool(self._words[RingWord.ADDING // 8])

    def take(self, limit_bytes: int) -> list[Batch]:
        """Take up to so many bytes of records, or one record at least, if any is there."""
        batches: list[Batch] = []
        taken_bytes = 0
        while taken_bytes < limit_bytes and (found := self._next(min(limit_bytes - taken_bytes, _PIECE_BYTES))):
            batches += found
            taken_bytes += sum(len(batch.data) for batch in found)
        return batches

    # Records of one size, from the tail on, up to the ring's end.
    def _next(self, limit_bytes: int) -> list[Batch]:
        begin = self._tail & self._size_bytes - 1
        waiting_bytes = self.head - self._tail
        if not waiting_bytes or not self._bytes[begin]:
            return []
        size = self._size_of(self._bytes[begin] >> 2)
        # One at least: its end may lie behind the ring's, or in the next piece.
        whole_bytes = min(self._size_bytes, self._bytes.seam(begin)) - begin
        count = max(1, min(waiting_bytes, limit_bytes, whole_bytes) // size)
        kinds = self._kinds(begin, size, count)
        data = self._cut(begin, size, len(kinds))
        return _by_probe(kinds, data, size)

    # The kinds of those of so many records that are there, up to the first one that has another size.
    def _kinds(self, begin: int, size: int, count: int) -> bytes:
        kinds = bytes(self._bytes[begin : begin + count * size : size])
        kinds = kinds[: kinds.index(0)] if 0 in kinds else kinds
        for kind in set(kinds):
            if self._size_of(kind >> 2) != size and kind in kinds:
                kinds = kinds[: kinds.index(kind)]
        return kinds

    def _cut(self, begin: int, size: int, count: int) -> bytes:
        size_bytes = count * size
        data = self._bytes[begin : begin + size_bytes].tobytes()
        if self._cpu != b"\0":
            changed = bytearray(data)
            changed[_CPU_BYTE::size] = self._cpu * count
            data = bytes(changed)
        self._bytes[begin : begin + size_bytes] = _ZEROS[:size_bytes]
        self._tail += size_bytes
        self._allow()
        return data

    def _allow(self) -> None:
        self._words[RingWord.LIMIT // 8] = self._tail + self._size_bytes - LONGEST_RECORD_BYTES


def _by_probe(kinds: bytes, data: bytes, size: int) -> list[Batch]:
    if len({kind >> 2 for kind in set(kinds)}) == 1:
        return [Batch(kinds[0] >> 2, kinds, data)]
    batches = []
    at = 0
    for probe, group in groupby(kinds, lambda kind: kind >> 2):
        run = bytes(group)
        batches.append(Batch(probe, run, data[at * size : (at + len(run)) * size]))
        at += len(run)
    return batches
