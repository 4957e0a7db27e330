"""Pads of functions that touch text: machine code that lets a call pass when it touches nothing that is planted. Pure.

When the guest's function tracer is switched on, it makes 36,000 calls of each of them. Few are about our locations, and
only about those has the host to be asked: the filter is a table of bits, one for each 16 bytes of text, modulo 16 MiB.
The 16 bytes begin where locations do, so that neither the end of the function in front nor an ENDBR is among them.
What lies below all text passes at once, however much of the table is in use: the kernel reads names of files so.
In front of the text nothing is mapped, so no access that begins there can get into it.

While the guest boots, most questions have one answer, and the filters give it (:mod:`.early_pokes`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fprobe_gdb.dispatch.trampoline.assembler import Asm, at, rip
from fprobe_gdb.dispatch.trampoline.mapping import IMAGE_BASE
from fprobe_gdb.dispatch.trampoline.record_format import FENTRY_BYTES
from fprobe_gdb.dispatch.trampoline.zone import HUGE_BYTES, Zone

__all__ = ["NOP", "TextFilters", "cells", "mark"]

#: What pokes make of locations: the only one of the kernel's NOPs that pads know.
NOP = bytes.fromhex("0f1f440000")
_CALL = 0xE8
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
    #: For ``copy_from_kernel_nofault(dst, src, size)`` and ``text_poke_early(addr, opcode, len)``.
    reads: int
    pokes: int

    @classmethod
    def make(cls, zone: Zone, pad: int, phase: int = 0, fentry_addr: int | None = None) -> TextFilters:
        """Assemble them.

        :param pad: what they let calls through to.
        :param phase: the lowest four bits of most locations' addresses.
        :param fentry_addr: address of ``__fentry__``; None where pads are not to answer anything by themselves.
        """
        asm = Asm(zone.site_stubs)
        for addr in ("si", "di"):
            asm.label(addr)
            _emit(asm, zone, pad, phase, addr, addr)
        first, second = asm.address_of("di"), asm.address_of("si")
        if fentry_addr is None:
            return cls(asm.finish(), second, first, second, first)
        asm.label("reads")
        _emit(asm, zone, pad, phase, "reads", "si", lambda ask: _show(asm, fentry_addr))
        asm.label("pokes")
        _emit(asm, zone, pad, phase, "pokes", "di", lambda ask: _take(asm, zone, ask))
        return cls(asm.finish(), second, first, asm.address_of("reads"), asm.address_of("pokes"))


def cells(spans: Iterable[tuple[int, int]], phase: int) -> bytes:
    """The table for planted locations.

    :param spans: address and size of what is not to be touched without asking.
    :param phase: as for the filters.
    """
    table = bytearray(Zone.FILTER_BYTES)
    mark(table, spans, phase)
    return bytes(table)


def mark(table: bytearray | memoryview, spans: Iterable[tuple[int, int]], phase: int) -> None:
    """Let a table know of these locations, too."""
    for ip, own_bytes in spans:
        start = ip - phase
        for cell in range(start >> _CELL_SHIFT, (start + own_bytes - 1 >> _CELL_SHIFT) + 1):
            table[(cell & Zone.FILTER_CELLS - 1) >> 3] |= 1 << (cell & 7)


# The third argument is the number of bytes, for all functions. So few lie in two cells at most.
def _emit(
    asm: Asm, zone: Zone, pad: int, phase: int, scope: str, addr: str, answer: Callable[[str], None] | None = None
) -> None:
    ask, passes = f"{scope}.ask", f"{scope}.pass"
    asm.pushfq()
    asm.push("ax")
    asm.push("cx")
    asm.cmpb_imm(rip(zone.word(Zone.FILTER_OFF)), 0)
    asm.jcc("ne", ask)
    asm.cmp_imm(addr, IMAGE_BASE - _SIGN)
    asm.jcc("b", passes)
    asm.cmp_imm("dx", _CELL_BYTES)
    asm.jcc("a", ask)
    asm.lea("ax", at(addr, -1 - phase, "dx"))
    _look_up(asm, zone, f"{scope}.near" if answer else ask)
    asm.lea("ax", at(addr, -phase))
    _look_up(asm, zone, f"{scope}.near" if answer else ask)
    asm.label(passes)
    _restore(asm)
    asm.ret()
    if answer:
        asm.label(f"{scope}.near")
        _is_call_of_ours(asm, zone, addr, ask)
        answer(ask)
    asm.label(ask)
    _restore(asm)
    asm.jmp(pad)


# On to a label if the address in ax is in a marked cell. Clobbers ax, cx.
def _look_up(asm: Asm, zone: Zone, marked: str) -> None:
    asm.shr_imm("ax", _CELL_SHIFT)
    asm.andl_imm("ax", Zone.FILTER_CELLS - 1)
    asm.mov("cx", "ax")
    asm.shr_imm("ax", 3)
    asm.andl_imm("cx", 7)
    asm.movzbl("ax", at("ax", zone.filter - _SIGN))
    asm.shr_cl("ax")
    asm.testl_imm("ax", 1)
    asm.jcc("ne", marked)


# Whether a whole location is touched at which the guest believes to have its call of __fentry__. Clobbers ax.
def _is_call_of_ours(asm: Asm, zone: Zone, addr: str, ask: str) -> None:
    # In between all text is mapped.
    asm.cmp(addr, rip(zone.word(Zone.TAKES_ABOVE)))
    asm.jcc("be", ask)
    asm.cmp(addr, rip(zone.word(Zone.TAKES_BELOW)))
    asm.jcc("ae", ask)
    asm.cmp_imm("dx", FENTRY_BYTES)
    asm.jcc("ne", ask)
    asm.cmpb_imm(at(addr), _CALL)
    asm.jcc("ne", ask)
    asm.movl("ax", at(addr, 1))
    asm.movslq("ax", "ax")
    asm.add("ax", addr)
    asm.sub_imm("ax", zone.code - FENTRY_BYTES - _SIGN)
    asm.cmp_imm("ax", HUGE_BYTES)
    asm.jcc("ae", ask)


# Read for the guest: its call, into the buffer at di.
def _show(asm: Asm, fentry_addr: int) -> None:
    asm.movb_imm(at("di"), _CALL)
    asm.movl_imm("ax", fentry_addr - FENTRY_BYTES)
    asm.sub("ax", "si")
    asm.movl(at("di", 1), "ax")
    _restore(asm)
    asm.lea("sp", at("sp", 8))
    asm.movl_imm("ax", 0)
    asm.ret()


# Note a poke by which the call becomes a NOP. With interrupts off, on the only CPU there is.
def _take(asm: Asm, zone: Zone, ask: str) -> None:
    asm.cmpl_imm(at("si"), int.from_bytes(NOP[:4], "little"))
    asm.jcc("ne", ask)
    asm.cmpb_imm(at("si", 4), NOP[4])
    asm.jcc("ne", ask)
    asm.movl("cx", rip(zone.word(Zone.TAKEN)))
    asm.cmp_imm("cx", Zone.MAX_TAKEN)
    asm.jcc("ae", ask)
    asm.shl_imm("cx", 2)
    asm.movl(at("cx", zone.word(Zone.TAKEN_LIST) - _SIGN), "di")
    asm.incl(rip(zone.word(Zone.TAKEN)))
    asm.mov(rip(zone.word(Zone.TAKES_ABOVE)), "di")
    _restore(asm)
    asm.lea("sp", at("sp", 8))
    asm.mov("ax", "di")
    asm.ret()


def _restore(asm: Asm) -> None:
    asm.pop("cx")
    asm.pop("ax")
    asm.popfq()
