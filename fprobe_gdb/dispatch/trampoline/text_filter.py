"""Pads of functions that touch text: machine code that lets a call pass when it touches nothing that is planted. Pure.

When the guest's function tracer is switched on, it makes 36,000 calls of each of them. Few are about our locations, and
only about those has the host to be asked: the filter is a table of bytes, one for each 16 bytes of text, modulo its
size. What lies below all text passes at once, however much of the table is in use: the kernel reads names of files so.
In front of the text nothing is mapped, so no access that begins there can get into it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fprobe_gdb.dispatch.trampoline.assembler import Asm, at, rip
from fprobe_gdb.dispatch.trampoline.mapping import IMAGE_BASE
from fprobe_gdb.dispatch.trampoline.zone import Zone

__all__ = ["TextFilters", "cells"]

_CELL_SHIFT = 4
_CELL_BYTES = 1 << _CELL_SHIFT
_SIGN = 1 << 64


@dataclass(frozen=True, slots=True)
class TextFilters:
    """Code, from :attr:`.Zone.site_stubs` on, and where its parts begin."""

    code: bytes
    #: For functions whose second argument is the address.
    second: int
    #: For functions whose first argument is.
    first: int

    @classmethod
    def make(cls, zone: Zone, pad: int) -> TextFilters:
        """Assemble them.

        :param pad: what they let calls through to.
        """
        asm = Asm(zone.site_stubs)
        for addr in ("si", "di"):
            asm.label(addr)
            _emit(asm, zone, pad, addr)
        return cls(asm.finish(), asm.address_of("si"), asm.address_of("di"))


def cells(ips: Iterable[int], own_bytes: int) -> bytes:
    """The table for planted locations.

    :param own_bytes: how many bytes a location takes at most.
    """
    table = bytearray(Zone.FILTER_BYTES)
    for ip in ips:
        for cell in range(ip >> _CELL_SHIFT, (ip + own_bytes - 1 >> _CELL_SHIFT) + 1):
            table[cell % Zone.FILTER_BYTES] = 1
    return bytes(table)


# The third argument is the number of bytes, for all functions. So few lie in two cells at most.
def _emit(asm: Asm, zone: Zone, pad: int, addr: str) -> None:
    ask, passes = f"{addr}.ask", f"{addr}.pass"
    asm.pushfq()
    asm.push("ax")
    asm.push("cx")
    asm.cmpb_imm(rip(zone.word(Zone.FILTER_OFF)), 0)
    asm.jcc("ne", ask)
    asm.cmp_imm(addr, IMAGE_BASE - _SIGN)
    asm.jcc("b", passes)
    asm.cmp_imm("dx", _CELL_BYTES)
    asm.jcc("a", ask)
    asm.lea("ax", rip(zone.word(Zone.FILTER)))
    asm.mov("cx", addr)
    asm.shr_imm("cx", _CELL_SHIFT)
    for _ in range(2):
        asm.andl_imm("cx", Zone.FILTER_BYTES - 1)
        asm.cmpb_imm(at("ax", 0, "cx"), 0)
        asm.jcc("ne", ask)
        asm.incl("cx")
    asm.label(passes)
    _restore(asm)
    asm.ret()
    asm.label(ask)
    _restore(asm)
    asm.jmp(pad)


def _restore(asm: Asm) -> None:
    asm.pop("cx")
    asm.pop("ax")
    asm.popfq()
