"""Batches of records: taking one kind out leaves the others whole and in order."""

from __future__ import annotations

from fprobe_gdb.dispatch.trampoline.ring import Batch


def test_without_a_kind() -> None:
    batch = Batch(3, bytes([12, 13, 12, 13, 14]), b"aaAAbbBBcc")
    assert batch.without(13) == Batch(3, bytes([12, 12, 14]), b"aabbcc")
    assert batch.without(15) is batch
    assert Batch(3, b"\x0d", b"AA").without(13) == Batch(3, b"", b"")
