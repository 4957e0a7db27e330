"""Zones in several pieces of memory: where a part is, and records that lie in two of them."""

from __future__ import annotations

import mmap

import pytest

from fprobe_gdb.dispatch.trampoline.mapping import IMAGE_BASE, zone_entries
from fprobe_gdb.dispatch.trampoline.record_format import RingWord
from fprobe_gdb.dispatch.trampoline.ring import Ring
from fprobe_gdb.dispatch.trampoline.stretch import Stretch
from fprobe_gdb.dispatch.trampoline.zone import HUGE_BYTES, PIECE_BYTES, Zone
from fprobe_gdb.target.guest_ram import GuestRam

CODE = IMAGE_BASE + 0x4000000
# The second and the third are neighbours.
PIECES = (5 * PIECE_BYTES, 2 * PIECE_BYTES, 3 * PIECE_BYTES, 0)
# Two rings of 2 MiB; the first one lies in two pieces.
ZONE = Zone(PIECES[0], 4 * PIECE_BYTES, CODE, CODE + HUGE_BYTES, 2, HUGE_BYTES + (1 << 20), PIECES)
PROBE = 3


@pytest.fixture
def ram() -> GuestRam:
    return GuestRam(mmap.mmap(-1, 6 * PIECE_BYTES))


def test_a_part_is_where_its_piece_is() -> None:
    assert ZONE.physical_of(ZONE.code + 5) == PIECES[0] + 5
    assert ZONE.physical_of(ZONE.data) == PIECES[0] + HUGE_BYTES
    for number, physical in enumerate(PIECES):
        assert ZONE.physical_of(ZONE.code + number * PIECE_BYTES + HUGE_BYTES) == physical + HUGE_BYTES
    index, mapped = zone_entries(ZONE)
    frames = [int.from_bytes(mapped[at : at + 8], "little") & 0xFFFFFFE00000 for at in range(0, len(mapped), 8)]
    assert index == (CODE - IMAGE_BASE) // HUGE_BYTES
    assert frames == [piece + half for piece in PIECES for half in (0, HUGE_BYTES)]


def test_pieces_that_are_neighbours_are_one_run() -> None:
    begin, end = ZONE.code + PIECE_BYTES, ZONE.code + 4 * PIECE_BYTES
    assert ZONE.runs(begin + 8, end - begin - 8) == [
        (PIECES[1] + 8, 2 * PIECE_BYTES - 8), (PIECES[3], PIECE_BYTES)
    ]  # fmt: skip
    in_one = Zone(PIECE_BYTES, 4 * PIECE_BYTES, CODE, CODE + HUGE_BYTES, 1)
    assert in_one.runs(in_one.data, 3 * PIECE_BYTES) == [(PIECE_BYTES + HUGE_BYTES, 3 * PIECE_BYTES)]


def test_bytes_on_both_sides_of_a_seam(ram: GuestRam) -> None:
    stretch = Stretch(ram, [(4096, 8), (64, 4), (0, 8)])
    stretch[6:14] = memoryview(b"abcdefgh")
    assert [ram.read_physical(addr, 8) for addr in (4096, 64, 0)] == [
        b"\0\0\0\0\0\0ab", b"cdef\0\0\0\0", b"gh\0\0\0\0\0\0"
    ]  # fmt: skip
    assert [bytes(stretch[begin:end]) for begin, end in ((6, 8), (7, 13), (12, 14))] == [b"ab", b"bcdefg", b"gh"]
    assert [stretch[at] for at in (7, 8, 13)] == list(b"bch")
    assert bytes(stretch[6:14:3]) == b"adg"
    assert [stretch.seam(at) for at in (0, 7, 8, 11, 12)] == [8, 8, 12, 12, 20]
    stretch.release()


@pytest.mark.parametrize("size", [40, 1000])
def test_records_in_two_pieces(ram: GuestRam, size: int) -> None:
    """Twice as many as the ring holds: across the seam, and across its end."""
    assert ZONE.ring_bytes == HUGE_BYTES
    assert len(ZONE.runs(ZONE.ring(0), ZONE.ring_bytes)) == 2
    ring = Ring(ram, ZONE, 0, lambda probe: size if probe == PROBE else 8)
    ring.furnish()
    every = HUGE_BYTES // 5 // size
    head = 0
    for number in range(10):
        records = b"".join(
            bytes([PROBE << 2, 0]) + (number * every + at).to_bytes(4, "little") + bytes(size - 6)
            for at in range(every)
        )
        write(ram, head % HUGE_BYTES, records, size)
        head += len(records)
        ram.write_physical(ZONE.physical_of(ZONE.ring_words(0) + RingWord.HEAD), head.to_bytes(8, "little"))
        batches = ring.take(head)
        assert b"".join(batch.data for batch in batches) == records
        assert {kind for batch in batches for kind in batch.kinds} == {PROBE << 2}
    assert head > 2 * HUGE_BYTES - 20 * size
    for run in ZONE.runs(ZONE.ring(0), ZONE.ring_stride_bytes):
        assert not any(ram.read_physical(*run))
    ring.close()


# As pads do: a record that begins in front of the ring's end ends behind it, and the next one is at the beginning.
def write(ram: GuestRam, at: int, records: bytes, size: int) -> None:
    for begin in range(0, len(records), size):
        done = begin
        for physical, size_bytes in ZONE.runs(ZONE.ring(0) + (at + begin) % HUGE_BYTES, size):
            ram.write_physical(physical, records[done : done + size_bytes])
            done += size_bytes
