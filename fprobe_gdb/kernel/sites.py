"""What stands at a function's start: the 5-byte fentry instruction that ftrace uses, or none. Capstone lives here.

On disk a traceable function begins with ``call __fentry__``, or with a 5-byte NOP where objtool has replaced it already
(CONFIG_HAVE_OBJTOOL_NOP_MCOUNT with clang). In a running kernel an unused site is ``0f 1f 44 00 00``. Kernels built
for IBT put an ENDBR in front, which a running kernel may have sealed (arch/x86/kernel/alternative.c, ``poison_endbr``).
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import capstone

__all__ = ["ENDBR_BYTES", "MCOUNT_INSN_SIZE", "Site", "SiteKind", "classify", "endbr_size", "kind_of_site"]

#: ``MCOUNT_INSN_SIZE`` of arch/x86/include/asm/ftrace.h.
MCOUNT_INSN_SIZE = 5
#: Length in bytes of ENDBR64 and of each of its sealed forms.
ENDBR_BYTES = 4

_ENDBR64 = b"\xf3\x0f\x1e\xfa"
# What poison_endbr() leaves: `nopw (%rax)`, and `nopl -42(%rax)` since 6.15.
_SEALED = (b"\x66\x0f\x1f\x00", b"\x0f\x1f\x40\xd6")
# The 5-byte NOPs of arch/x86/include/asm/nops.h, 5.10 to today.
_NOPS = (b"\x0f\x1f\x44\x00\x00", b"\x66\x66\x66\x66\x90", b"\x3e\x8d\x74\x26\x00")
_LONGEST = ENDBR_BYTES + 15

_decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)


class SiteKind(enum.Enum):
    """How a function can be entered by a probe."""

    #: ``call __fentry__``: what ftrace has in the image on disk.
    FENTRY_CALL = "fentry call"
    #: A 5-byte NOP in its place.
    FENTRY_NOP = "fentry nop"
    #: No fentry: probed at its first instruction (behind ENDBR, where there is one), which must be stepped.
    FIRST_INSN = "first instruction"


class Site(NamedTuple):
    """A site relative to the symbol: ``offset`` is in bytes."""

    kind: SiteKind
    offset: int


def endbr_size(code: bytes) -> int:
    """Bytes of ENDBR, sealed or not, that the code begins with: 4 or 0."""
    return ENDBR_BYTES if code[:ENDBR_BYTES] == _ENDBR64 or code[:ENDBR_BYTES] in _SEALED else 0


def kind_of_site(code: bytes, ip: int, fentry_addr: int | None) -> SiteKind | None:
    """What the 5 bytes at an address that is known to be a site are; None for neither call nor NOP. No decoding, fast.

    :param code: bytes from ``ip`` on.
    :param fentry_addr: address of ``__fentry__``; None when it is not known, then any call counts.
    """
    insn = code[:MCOUNT_INSN_SIZE]
    if insn in _NOPS:
        return SiteKind.FENTRY_NOP
    if len(insn) == MCOUNT_INSN_SIZE and insn[0] == 0xE8:
        target = ip + MCOUNT_INSN_SIZE + int.from_bytes(insn[1:], "little", signed=True)
        if fentry_addr is None or target == fentry_addr:
            return SiteKind.FENTRY_CALL
    return None


def classify(code: bytes, addr: int, fentry_addr: int | None) -> Site:
    """What a function begins with, decoded by Capstone. Some 10 us.

    A 5-byte NOP may also be a switched-off static branch; whoever has a kernel that calls ``__fentry__`` on disk must
    not take NOPs on disk for sites.

    :param code: bytes from the symbol on, 24 are plenty.
    :param addr: the symbol's address.
    :param fentry_addr: address of ``__fentry__``, or None for a kernel without.
    """
    offset = endbr_size(code)
    if fentry_addr is not None:
        for _ip, size_bytes, mnemonic, operands in _decoder.disasm_lite(code[offset:_LONGEST], addr + offset, 1):
            if size_bytes != MCOUNT_INSN_SIZE:
                break
            if mnemonic == "call" and operands == hex(fentry_addr):
                return Site(SiteKind.FENTRY_CALL, offset)
            if code[offset : offset + MCOUNT_INSN_SIZE] in _NOPS:
                return Site(SiteKind.FENTRY_NOP, offset)
    return Site(SiteKind.FIRST_INSN, offset)
