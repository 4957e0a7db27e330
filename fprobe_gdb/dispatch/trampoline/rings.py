"""All rings of a zone, one for each CPU, taken in rounds; and up to which counter value nothing older can come.

A pad reads the counter when it has its room. So what a round finds no room of in any ring is newer than all that was
taken before the round began. And of a ring that a round has not emptied, what is left is newer than all that was taken
of it before the round: only hits that have interrupted a pad are older than its record, and they are right behind it.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

from fprobe_gdb.dispatch.trampoline.record_format import RecordField, RingWord
from fprobe_gdb.dispatch.trampoline.ring import Batch, Ring
from fprobe_gdb.dispatch.trampoline.zone import MAX_RINGS, Zone
from fprobe_gdb.target.guest_ram import GuestRam

__all__ = ["Rings"]

# A vCPU can be stopped in the middle of a pad for 0.1 s, when QEMU has one thread for all of them (7.2
# accel/tcg/tcg-accel-ops-rr.c, TCG_KICK_PERIOD), and for longer by its host. So long all wait for its record.
_PATIENCE_NS = 500_000_000
# Behind the limit of a ring that there is not.
_FULL = (1).to_bytes(8, "little")


class Rings:
    """The rings of a zone that has room for them.

    :param size_of: the size of the records of a probe, in bytes.
    """

    def __init__(self, ram: GuestRam, zone: Zone, size_of: Callable[[int], int]) -> None:
        self._ram = ram
        self._size_of = size_of
        self._rings = [Ring(ram, zone, cpu, size_of) for cpu in range(zone.rings)]
        cpus = range(zone.rings, MAX_RINGS)
        self._unused_heads = [zone.physical_of(zone.ring_words(cpu) + RingWord.HEAD) for cpu in cpus]
        # The newest counter value of each ring.
        self._newest = [0] * zone.rings
        # Since when a ring's next record has not come, for those where it has not.
        self._stuck_since_ns: dict[Ring, int] = {}
        #: Up to this counter value all records were taken, or have kept us waiting for too long.
        self.settled_tsc = 0
        #: Whether the last round took all for which room was taken when it began.
        self.complete = True

    def furnish(self) -> None:
        """The zone has been wiped: let pads write."""
        self.settled_tsc = 0
        self._newest = [0] * len(self._rings)
        for ring in self._rings:
            ring.furnish()
        for head in self._unused_heads:
            self._ram.write_physical(head, _FULL)

    def close(self) -> None:
        """Let go of the memory."""
        for ring in self._rings:
            ring.close()

    @property
    def waiting(self) -> bool:
        """Whether room for records is taken that have not been."""
        return any(ring.head != ring.tail for ring in self._rings)

    @property
    def adding(self) -> bool:
        """Whether a CPU is about to add up a hit: then of what belongs together something may be missing."""
        return any(ring.adding for ring in self._rings)

    def take(self, limit_bytes: int) -> list[Batch]:
        """A round: take up to so many bytes of records out of each ring, or one record at least, if any is there."""
        before, ends = list(self._newest), [ring.head for ring in self._rings]
        taken = [ring.take(limit_bytes) for ring in self._rings]
        for cpu, batches in enumerate(taken):
            if batches:
                self._newest[cpu] = max(self._newest[cpu], self._last_tsc(batches[-1]))
        # Room may have been given back.
        emptied = [ring.tail >= min(end, ring.head) for ring, end in zip(self._rings, ends, strict=True)]
        self.complete = all(emptied)
        waited_for = [
            older
            for ring, batches, older, empty in zip(self._rings, taken, before, emptied, strict=True)
            if not empty and not self._gives_up(ring, stuck=not batches)
        ]
        self.settled_tsc = max(self.settled_tsc, min(waited_for, default=max(before)))
        return [batch for batches in taken for batch in batches]

    def _gives_up(self, ring: Ring, *, stuck: bool) -> bool:
        if not stuck:
            self._stuck_since_ns.pop(ring, None)
            return False
        now_ns = time.monotonic_ns()
        return now_ns - self._stuck_since_ns.setdefault(ring, now_ns) > _PATIENCE_NS

    def _last_tsc(self, batch: Batch) -> int:
        at = len(batch.data) - self._size_of(batch.probe) + RecordField.TSC
        (tsc,) = struct.unpack_from("<Q", batch.data, at)
        return int(tsc)
