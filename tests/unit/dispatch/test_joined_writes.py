"""Joined writes change the same bytes as the single ones, stay in their pages, and are few."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fprobe_gdb.dispatch.trampoline.joined_writes import joined_writes

PAGES_BYTES = 3 * 4096
BEFORE = bytes(at * 7 & 0xFF for at in range(PAGES_BYTES))


def read(addr: int, size_bytes: int) -> bytes:
    return BEFORE[addr : addr + size_bytes]


def written(writes: list[tuple[int, bytes]]) -> bytes:
    memory = bytearray(BEFORE)
    for addr, data in writes:
        memory[addr : addr + len(data)] = data
    return bytes(memory)


@settings(max_examples=100)
@given(st.sets(st.integers(0, PAGES_BYTES // 8 - 1), max_size=400))
def test_the_same_bytes_are_written(places: set[int]) -> None:
    writes = [(8 * place, place.to_bytes(5, "little")) for place in sorted(places)]
    joined = joined_writes(writes, read)
    assert written(joined) == written(writes)
    assert all(len(data) <= 1024 for _, data in joined)
    # A single write may cross into the next page; joined ones never do.
    assert all(addr // 4096 == (addr + len(data) - 1) // 4096 for addr, data in joined if len(data) > 5)
    assert len(joined) <= len(writes)


def test_near_ones_are_joined_and_far_ones_are_not() -> None:
    writes = [(0, b"a"), (257, b"b"), (515, b"c"), (4095, b"d"), (4096, b"e")]
    joined = joined_writes(writes, read)
    assert [(addr, len(data)) for addr, data in joined] == [(0, 258), (515, 1), (4095, 1), (4096, 1)]
    assert joined_writes([], read) == []


def test_nothing_is_read_for_a_single_one() -> None:
    assert joined_writes([(0, b"a")], lambda *_: 1 // 0) == [(0, b"a")]  # type: ignore[arg-type,return-value]
