"""The host's side of the ring: takes records out while the guest runs. See :mod:`.record_format`.

A record is looked at word by word before it is copied: first the word that is written last, then the rest. Behind a
record that is not there yet nothing is taken. Room is given back with zeros in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

from fprobe_gdb.dispatch.trampoline.record_format import RecordField
from fprobe_gdb.dispatch.trampoline.zone import Zone
from fprobe_gdb.target.guest_ram import GuestRam

__all__ = ["Batch", "Ring"]

_KIND_BYTE = RecordField.META + 1
_ZEROS = memoryview(bytes(1 << 20))


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one probe, in the order in which room for them was taken."""

    probe: int
    #: A byte for each record: its kind in the lower two bits, its probe above.
    kinds: bytes
    #: The records, one behind the other.
    data: bytes


class Ring:
    """The ring of a zone.

    :param size_of: the size of the records of a probe, in bytes.
    """

    def __init__(self, ram: GuestRam, zone: Zone, size_of: Callable[[int], int]) -> None:
        self._size_of = size_of
        self._bytes = ram.part(zone.physical_of(zone.ring), zone.ring_bytes)
        self._words = self._bytes.cast("I")
        self._head = ram.part(zone.physical_of(zone.word(Zone.RING_HEAD)), 8).cast("Q")
        self._shared_tail = ram.part(zone.physical_of(zone.word(Zone.RING_TAIL)), 8).cast("Q")
        self._mask = zone.ring_bytes - 1

    def close(self) -> None:
        """Let go of the memory."""
        for view in (self._words, self._bytes, self._head, self._shared_tail):
            view.release()

    @property
    def waiting_bytes(self) -> int:
        """How many bytes of records are reserved, and not taken."""
        return self._head[0] - self._shared_tail[0]

    def take(self, limit_bytes: int) -> list[Batch]:
        """Take up to so many bytes of records, or one record at least, if any is there."""
        batches: list[Batch] = []
        taken_bytes = 0
        while taken_bytes < limit_bytes and (found := self._next(min(limit_bytes - taken_bytes, len(_ZEROS)))):
            batches += found
            taken_bytes += sum(len(batch.data) for batch in found)
        return batches

    # Records of one size, from the tail on, up to the ring's end.
    def _next(self, limit_bytes: int) -> list[Batch]:
        begin = self._shared_tail[0] & self._mask
        waiting_bytes = self.waiting_bytes
        if not waiting_bytes or not self._words[begin // 4]:
            return []
        size = self._size_of(self._bytes[begin + _KIND_BYTE] >> 2)
        # One at least: it may lie across the ring's end.
        count = max(1, min(waiting_bytes, limit_bytes, len(self._bytes) - begin) // size)
        kinds = self._kinds(begin, size, self._there(begin, size, count))
        data = self._cut(begin, len(kinds) * size)
        self._shared_tail[0] += len(data)
        return _by_probe(kinds, data, size)

    # How many of so many records of one size are there.
    def _there(self, begin: int, size: int, count: int) -> int:
        firsts = self._words[begin // 4 : (begin + count * size) // 4 : size // 4].tolist()
        return firsts.index(0) if 0 in firsts else count

    # Their kinds, up to the first one that has another size.
    def _kinds(self, begin: int, size: int, count: int) -> bytes:
        kinds = bytes(self._bytes[begin + _KIND_BYTE : begin + count * size : size])
        for kind in set(kinds):
            if self._size_of(kind >> 2) != size and kind in kinds:
                kinds = kinds[: kinds.index(kind)]
        return kinds

    def _cut(self, begin: int, size_bytes: int) -> bytes:
        end = begin + size_bytes
        over = max(0, end - len(self._bytes))
        data = bytes(self._bytes[begin : end - over]) + bytes(self._bytes[:over])
        self._bytes[begin : end - over] = _ZEROS[: size_bytes - over]
        self._bytes[:over] = _ZEROS[:over]
        return data


def _by_probe(kinds: bytes, data: bytes, size: int) -> list[Batch]:
    if len({kind >> 2 for kind in kinds}) == 1:
        return [Batch(kinds[0] >> 2, kinds, data)]
    batches = []
    at = 0
    for probe, group in groupby(kinds, lambda kind: kind >> 2):
        run = bytes(group)
        batches.append(Batch(probe, run, data[at * size : (at + len(run)) * size]))
        at += len(run)
    return batches
