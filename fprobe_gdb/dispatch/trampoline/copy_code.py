"""Subroutines of pads that copy memory into a record, whatever it is: text up to its end, and numbers. Pure.

They stand behind those of :mod:`~fprobe_gdb.dispatch.trampoline.peek_code`, read through the same window, and clobber
ax, dx, r10 and r11.
"""

from __future__ import annotations

from collections.abc import Mapping

from fprobe_gdb.dispatch.trampoline.assembler import Asm, at
from fprobe_gdb.dispatch.trampoline.window import Window
from fprobe_gdb.target.page_table import PAGE_BYTES

__all__ = ["items_code", "text_code"]

_WORD_BYTES = 8
_ONES, _HIGHS = 0x0101010101010101, 0x8080808080808080
_IMM32 = 1 << 31


def text_code(asm: Asm, translate: int, window: Window) -> int:
    """Copy text from ax to r10, with the zero byte at its end, but no more than dx bytes. Returns where this begins.

    Where the end, or so many bytes, cannot be reached the carry flag is set. Behind the zero byte there may be up to
    seven bytes more of what lies behind it.

    :param translate: the subroutine that finds the address in ax in the window: r11.
    """
    begin = asm.here
    with asm.preserving("di", "si", "cx"):
        asm.mov("di", "ax")
        asm.mov("si", "r10")
        asm.mov("cx", "dx")
        asm.label("text page")
        _look(asm, translate, window)
        asm.jcc("b", "text end")
        asm.label("text word")
        asm.cmp_imm("cx", _WORD_BYTES)
        asm.jcc("b", "text byte")
        asm.mov("r10", "di")
        asm.andl_imm("r10", PAGE_BYTES - 1)
        asm.cmp_imm("r10", PAGE_BYTES - _WORD_BYTES)
        asm.jcc("a", "text byte")
        asm.mov("ax", at("r11"))
        asm.mov(at("si"), "ax")
        # Whether one of the eight bytes is zero.
        asm.mov_imm64("r10", _ONES)
        asm.mov("dx", "ax")
        asm.sub("dx", "r10")
        asm.mov_imm64("r10", _HIGHS)
        asm.and_("dx", "r10")
        asm.xor("ax", "r10")
        asm.and_("dx", "ax")
        asm.jcc("ne", "text done")
        for register in ("di", "si", "r11"):
            asm.add_imm(register, _WORD_BYTES)
        asm.sub_imm("cx", _WORD_BYTES)
        asm.jcc("e", "text done")
        asm.mov("ax", "di")
        asm.testl_imm("ax", PAGE_BYTES - 1)
        asm.jcc("ne", "text word")
        asm.jmp("text page")
        # Near the end of a page, or of the room.
        asm.label("text byte")
        asm.movzbl("ax", at("r11"))
        asm.movb(at("si"), "ax")
        asm.cmp_imm("ax", 0)
        asm.jcc("e", "text done")
        asm.add_imm("di", 1)
        asm.add_imm("si", 1)
        asm.sub_imm("cx", 1)
        asm.jcc("e", "text done")
        asm.mov("ax", "di")
        asm.jmp("text page")
        asm.label("text done")
        asm.clc()
        asm.label("text end")
    return begin


# From ax, which stays, to r11 in the window. Where the kernel has all memory mapped, which most pointers lead to, a
# subtraction is as good as page tables; a page is there as a whole or not at all.
def _look(asm: Asm, translate: int, window: Window) -> None:
    if window.direct_map:
        asm.mov_imm64("r10", window.direct_map)
        asm.mov("r11", "ax")
        asm.sub("r11", "r10")
        asm.cmp_imm("r11", min(window.low_bytes, _IMM32 - 1) & -PAGE_BYTES)
        asm.jcc("ae", "text walk")
        asm.mov_imm64("r10", window.base)
        asm.add("r11", "r10")
        asm.jmp("text word")
    asm.label("text walk")
    asm.call(translate)


def items_code(asm: Asm, number: Mapping[int, int], size_bytes: int) -> int:
    """Copy dx numbers of some size from ax to r10. Of one that cannot be read, the byte for it at r11 becomes 1.

    :param number: the subroutines that read one number, by its size.
    :returns: where this begins.
    """
    begin, scope = asm.here, f"items{size_bytes} "
    with asm.preserving("di", "si", "cx", "r8"):
        asm.mov("di", "ax")
        asm.mov("si", "r10")
        asm.mov("cx", "dx")
        asm.mov("r8", "r11")
        asm.label(scope + "next")
        asm.mov("ax", "di")
        asm.call(number[size_bytes])
        asm.jcc("ae", scope + "read")
        asm.movb_imm(at("r8"), 1)
        asm.jmp(scope + "step")
        asm.label(scope + "read")
        store = {8: asm.mov, 4: asm.movl, 2: asm.movw, 1: asm.movb}[size_bytes]
        store(at("si"), "ax")
        asm.label(scope + "step")
        asm.add_imm("di", size_bytes)
        asm.add_imm("si", size_bytes)
        asm.add_imm("r8", 1)
        asm.sub_imm("cx", 1)
        asm.jcc("ne", scope + "next")
    return begin
