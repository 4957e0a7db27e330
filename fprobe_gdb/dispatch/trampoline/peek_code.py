"""Subroutines of pads that read any memory through the :mod:`~fprobe_gdb.dispatch.trampoline.window`. Pure.

They take an address in ax, and come back with the carry flag set where it leads to no RAM. They clobber ax, dx, r10 and
r11.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fprobe_gdb.dispatch.trampoline.assembler import Asm, Mem, at, rip
from fprobe_gdb.dispatch.trampoline.copy_code import items_code, text_code
from fprobe_gdb.dispatch.trampoline.window import Window
from fprobe_gdb.target.page_table import FOUR_GIB, FRAME, HUGE, PAGE_BYTES, PRESENT, SHIFTS

__all__ = ["SIZES", "Peeks", "load", "peek_code"]

#: Bytes of numbers.
SIZES = (1, 2, 4, 8)
_CONSTANTS = ("frame", "low", "high", "4g", "window")


@dataclass(frozen=True, slots=True)
class Peeks:
    """Addresses of the subroutines.

    :param number: by size in bytes: ax gets the number at the address, extended with zeros.
    :param same: whether the r10 bytes at the address are those at dx, in ax; reads up to the first difference.
    :param text: see :func:`.copy_code.text_code`.
    :param items: by size in bytes, see :func:`.copy_code.items_code`.
    """

    window: Window
    number: Mapping[int, int]
    same: int
    text: int
    items: Mapping[int, int]


def peek_code(addr: int, window: Window) -> tuple[bytes, Peeks]:
    """Assemble the subroutines.

    :param addr: where they will be.
    """
    asm = Asm(addr)
    # In front, so that their addresses are known.
    values = (FRAME, window.low_bytes, window.high_bytes, FOUR_GIB, window.base)
    constants = {name: addr + 8 * number for number, name in enumerate(_CONSTANTS)}
    asm.data(b"".join(value.to_bytes(8, "little") for value in values))
    code = _Peek(asm, constants)
    code.translate()
    code.bytes()
    number = {size: code.number(size) for size in SIZES}
    same = code.same()
    text = text_code(asm, asm.address_of("translate"), window)
    items = {size: items_code(asm, number, size) for size in SIZES}
    return asm.finish(), Peeks(window, number, same, text, items)


def load(asm: Asm, to: str, base: str, size_bytes: int) -> None:
    """A number at an address that is mapped, extended with zeros."""
    {8: asm.mov, 4: asm.movl, 2: asm.movzwl, 1: asm.movzbl}[size_bytes](to, at(base))


@dataclass(slots=True)
class _Peek:
    asm: Asm
    constants: Mapping[str, int]

    # From ax, which stays, to an address in the window in r11.
    def translate(self) -> None:
        asm = self.asm
        asm.label("translate")
        asm.mov("r11", "ax")
        asm.sar_imm("r11", 47)
        asm.add_imm("r11", 1)
        asm.cmp_imm("r11", 1)
        asm.jcc("a", "bad")
        asm.mov_from_cr3("dx")
        asm.mov("r11", "dx")
        for shift in SHIFTS:
            asm.and_("r11", self._constant("frame"))
            self._seen(f"table{shift}")
            asm.mov("r10", "ax")
            asm.shr_imm("r10", shift - 3)
            asm.andl_imm("r10", 511 << 3)
            asm.mov("r11", at("r11", 0, "r10"))
            asm.testl_imm("r11", PRESENT)
            asm.jcc("e", "bad")
            if shift in (30, 21):
                asm.testl_imm("r11", HUGE)
                asm.jcc("ne", f"page{shift}")
        for shift in SHIFTS[:0:-1]:
            self._page(shift)
        asm.label("bad")
        asm.stc()
        asm.ret()

    # A page has been found: r11 is its entry.
    def _page(self, shift: int) -> None:
        asm = self.asm
        asm.label(f"page{shift}")
        asm.and_("r11", self._constant("frame"))
        asm.shr_imm("r11", shift)
        asm.shl_imm("r11", shift)
        asm.mov("r10", "ax")
        asm.andl_imm("r10", (1 << shift) - 1)
        asm.or_("r11", "r10")
        self._seen(f"byte{shift}")
        asm.clc()
        asm.ret()

    # From a physical address in r11 to that in the window, if it is RAM.
    def _seen(self, name: str) -> None:
        asm = self.asm
        asm.cmp("r11", self._constant("low"))
        asm.jcc("b", name)
        asm.mov("r10", "r11")
        asm.sub("r10", self._constant("4g"))
        asm.cmp("r10", self._constant("high"))
        asm.jcc("ae", "bad")
        asm.label(name)
        asm.add("r11", self._constant("window"))

    def number(self, size_bytes: int) -> int:
        asm = self.asm
        begin, crosses, bad = asm.here, f"crosses{size_bytes}", f"bad{size_bytes}"
        asm.call(asm.address_of("translate"))
        asm.jcc("b", bad)
        asm.mov("r10", "ax")
        asm.andl_imm("r10", PAGE_BYTES - 1)
        asm.cmp_imm("r10", PAGE_BYTES - size_bytes)
        asm.jcc("a", crosses)
        load(asm, "ax", "r11", size_bytes)
        asm.clc()
        asm.label(bad)
        asm.ret()
        asm.label(crosses)
        asm.movl_imm("r10", size_bytes)
        asm.jmp(asm.address_of("bytes"))
        return begin

    # A number that begins on one page and ends on the next one: r10 bytes at ax, the last one first.
    def bytes(self) -> None:
        asm = self.asm
        asm.label("bytes")
        with asm.preserving("di", "si", "cx"):
            asm.mov("di", "ax")
            asm.mov("cx", "r10")
            asm.xorl("si", "si")
            asm.label("next byte")
            asm.lea("ax", at("di", -1, "cx"))
            asm.call(asm.address_of("translate"))
            asm.jcc("b", "bytes end")
            asm.movzbl("r11", at("r11"))
            asm.shl_imm("si", 8)
            asm.or_("si", "r11")
            asm.sub_imm("cx", 1)
            asm.jcc("ne", "next byte")
            asm.mov("ax", "si")
            asm.clc()
            asm.label("bytes end")

    def same(self) -> int:
        asm, begin = self.asm, self.asm.here
        with asm.preserving("di", "si", "cx"):
            asm.mov("di", "ax")
            asm.mov("si", "dx")
            asm.mov("cx", "r10")
            asm.label("next one")
            asm.mov("ax", "di")
            asm.call(asm.address_of("translate"))
            asm.jcc("b", "same end")
            asm.movzbl("ax", at("r11"))
            asm.movzbl("r11", at("si"))
            asm.sub("ax", "r11")
            asm.jcc("ne", "differs")
            asm.add_imm("di", 1)
            asm.add_imm("si", 1)
            asm.sub_imm("cx", 1)
            asm.jcc("ne", "next one")
            asm.movl_imm("ax", 1)
            asm.jmp("same known")
            asm.label("differs")
            asm.xorl("ax", "ax")
            asm.label("same known")
            asm.clc()
            asm.label("same end")
        return begin

    def _constant(self, name: str) -> Mem:
        return rip(self.constants[name])
