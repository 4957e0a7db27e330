"""What a function begins with, by bytes."""

from __future__ import annotations

import struct

import pytest

from fprobe_gdb.kernel.sites import Site, SiteKind, classify, endbr_size, kind_of_site

ADDR = 0xFFFFFFFF81445480
FENTRY = 0xFFFFFFFF81090AD0
ENDBR = b"\xf3\x0f\x1e\xfa"
SEALED = b"\x66\x0f\x1f\x00"
SEALED_NEW = b"\x0f\x1f\x40\xd6"
NOP = b"\x0f\x1f\x44\x00\x00"
REST = b"\x55\x48\x89\xe5\x41\x57\x41\x56\x41\x55\x41\x54\x53"


def call(at: int, target: int = FENTRY) -> bytes:
    return b"\xe8" + struct.pack("<i", target - at - 5)


CASES = [
    (call(ADDR), SiteKind.FENTRY_CALL, 0),
    (ENDBR + call(ADDR + 4), SiteKind.FENTRY_CALL, 4),
    (SEALED + call(ADDR + 4), SiteKind.FENTRY_CALL, 4),
    (SEALED_NEW + call(ADDR + 4), SiteKind.FENTRY_CALL, 4),
    (NOP, SiteKind.FENTRY_NOP, 0),
    (ENDBR + NOP, SiteKind.FENTRY_NOP, 4),
    (SEALED + NOP, SiteKind.FENTRY_NOP, 4),
    (SEALED_NEW + NOP, SiteKind.FENTRY_NOP, 4),
    (b"\x66\x66\x66\x66\x90", SiteKind.FENTRY_NOP, 0),
    (b"\x3e\x8d\x74\x26\x00", SiteKind.FENTRY_NOP, 0),
    (ENDBR + b"\x3e\x8d\x74\x26\x00", SiteKind.FENTRY_NOP, 4),
    (call(ADDR, ADDR + 64), SiteKind.FIRST_INSN, 0),
    (ENDBR + call(ADDR), SiteKind.FIRST_INSN, 4),  # four bytes off: another target
    (ENDBR, SiteKind.FIRST_INSN, 4),
    (b"", SiteKind.FIRST_INSN, 0),
    (b"\x90" * 5, SiteKind.FIRST_INSN, 0),
    (b"\x0f\x1f\x84\x00\x00\x00\x00\x00", SiteKind.FIRST_INSN, 0),  # an 8-byte NOP
    (b"\xb8\x0f\x1f\x44\x00\x00", SiteKind.FIRST_INSN, 0),  # mov $..., %eax: a NOP's bytes within another instruction
    (b"\xe9" + call(ADDR)[1:], SiteKind.FIRST_INSN, 0),
]


@pytest.mark.parametrize(("head", "kind", "offset"), CASES, ids=[case[0].hex() or "nothing" for case in CASES])
def test_classify(head: bytes, kind: SiteKind, offset: int) -> None:
    assert classify(head + REST, ADDR, FENTRY) == Site(kind, offset)


@pytest.mark.parametrize(("head", "kind", "offset"), CASES, ids=[case[0].hex() or "nothing" for case in CASES])
def test_the_fast_look_at_a_known_site_agrees(head: bytes, kind: SiteKind, offset: int) -> None:
    expected = None if kind is SiteKind.FIRST_INSN else kind
    assert kind_of_site((head + REST)[offset:], ADDR + offset, FENTRY) is expected


def test_a_kernel_without_fentry_has_no_sites() -> None:
    assert classify(NOP + REST, ADDR, None) == Site(SiteKind.FIRST_INSN, 0)
    assert classify(ENDBR + call(ADDR + 4), ADDR, None) == Site(SiteKind.FIRST_INSN, 4)


def test_a_known_site_may_call_anything_when_fentry_has_no_symbol() -> None:
    assert kind_of_site(call(ADDR, ADDR + 64), ADDR, None) is SiteKind.FENTRY_CALL


@pytest.mark.parametrize("cut", range(5))
def test_code_that_ends_within_the_site(cut: int) -> None:
    assert classify(call(ADDR)[:cut], ADDR, FENTRY).kind is SiteKind.FIRST_INSN
    assert kind_of_site(call(ADDR)[:cut], ADDR, FENTRY) is None


@pytest.mark.parametrize(("code", "size"), [(ENDBR, 4), (SEALED, 4), (SEALED_NEW, 4), (NOP, 0), (ENDBR[:3], 0)])
def test_endbr_size(code: bytes, size: int) -> None:
    assert endbr_size(code) == size
