"""Machine code that adds to :mod:`~fprobe_gdb.dispatch.trampoline.tables`. Pure.

It runs with preemption off, on tables of its CPU: only a hit that interrupts it can come in between, and comes to its
end before. What is added up is changed by one instruction, or by ``cmpxchg`` from what was seen before. Clobbers ax,
dx, r10 and r11.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from fprobe_gdb.dispatch.trampoline.assembler import Asm, Mem, at, gs, rip
from fprobe_gdb.dispatch.trampoline.record_format import RingWord
from fprobe_gdb.dispatch.trampoline.tables import NEGATIVE, CallRow, HistogramTable, RowTable, SeriesWord
from fprobe_gdb.dispatch.trampoline.zone import RING_WORDS_BYTES, Zone

__all__ = ["TableCode"]

_SIGN = 1 << 64
# 2^64 by the golden ratio: the upper bits of a product with it depend on all bits.
_HASH = 0x9E3779B97F4A7C15


@dataclass(slots=True)
class TableCode:
    """Pieces of a pad.

    :param cpu_number: per-CPU offset of the CPU's number; None on a kernel for one CPU.
    """

    asm: Asm
    zone: Zone
    cpu_number: int | None
    _labels: count[int] = field(default_factory=count)

    def begin(self) -> None:
        """Here a hit begins to be added up, which takes several instructions, until :meth:`end`. Clobbers r10.

        A guest can be stopped in between, and in an interrupt, where nothing of the pad is to be seen: then it says so.
        """
        self.asm.inc(self._cpu_word(RingWord.ADDING))

    def end(self) -> None:
        """All of the hit is added up. Clobbers r10."""
        self.asm.dec(self._cpu_word(RingWord.ADDING))

    def find_row(self, table: RowTable, key: Sequence[Mem]) -> None:
        """The address of the row of a key, in r11: a new one where there is none, that of the others without room.

        :param key: where its words are; not behind ax, dx, r10 or r11.
        """
        asm = self.asm
        found, following, aside, new = (self._label() for _ in range(4))
        self._find_tables()
        asm.mov("ax", key[0])
        asm.mov_imm64("r11", _HASH)
        asm.imul("ax", "r11")
        for word in key[1:]:
            asm.xor("ax", word)
            asm.imul("ax", "r11")
        asm.shr_imm("ax", 65 - table.chains.bit_length())
        asm.shl_imm("ax", 3)
        asm.lea("dx", at("r10", table.chains_at, "ax"))
        asm.mov("r11", at("dx"))
        asm.label(following)
        asm.cmp_imm("r11", 0)
        asm.jcc("e", new)
        for number, word in enumerate(key):
            asm.mov("ax", word)
            asm.cmp("ax", at("r11", 8 + 8 * number))
            asm.jcc("ne", aside)
        asm.label(found)

        def rarely() -> None:
            asm.label(aside)
            asm.mov("r11", at("r11"))
            asm.jmp(following)
            asm.label(new)
            self._new_row(table, key, found)

        asm.aside(rarely)

    # Where a chain ends: take a row, fill it, and hang it up in front of the chain that dx leads to. If a hit in
    # between hangs one up there, no pad finds that one again; the host does.
    def _new_row(self, table: RowTable, key: Sequence[Mem], found: str) -> None:
        asm, full = self.asm, self._label()
        asm.movl_imm("ax", table.row_bytes)
        asm.xadd(at("r10", table.at + RowTable.USED), "ax")
        asm.cmp_imm("ax", (table.rows - 1) * table.row_bytes)
        asm.jcc("a", full)
        asm.lea("r11", at("r10", table.rows_at, "ax"))
        for number, word in enumerate(key):
            asm.mov("ax", word)
            asm.mov(at("r11", 8 + 8 * number), "ax")
        if table.has_times:
            asm.mov_imm(at("r11", table.values_at + CallRow.TIMES + SeriesWord.LEAST), -1)
        asm.mov("ax", at("dx"))
        asm.mov(at("r11"), "ax")
        asm.mov(at("dx"), "r11")
        asm.jmp(found)
        asm.label(full)
        asm.lea("r11", at("r10", table.others_at))
        asm.jmp(found)

    def count(self, table: RowTable, word: int = 0) -> None:
        """Add one to a word of the row at r11. Clobbers nothing."""
        self.asm.inc(at("r11", table.values_at + word))

    def count_fault(self, table: RowTable | HistogramTable) -> None:
        """A hit has no key, or no number. Clobbers r10."""
        self._find_tables()
        faults = RowTable.FAULTS if isinstance(table, RowTable) else HistogramTable.FAULTS
        self.asm.inc(at("r10", table.at + faults))

    def add_number(self, table: HistogramTable) -> None:
        """Add the number in ax to a histogram. The count comes last: who has none is not looked at."""
        asm = self.asm
        self._find_tables()
        asm.lea("r11", at("r10", table.series_at))
        asm.mov("dx", "ax")
        self.add_to_series(0, table.signed)
        negative, none, counted = self._label(), self._label(), self._label()
        if table.signed:
            asm.cmp_imm("dx", 0)
            asm.jcc("l", negative)
        asm.bsr("ax", "dx")
        asm.jcc("e", none)
        asm.shl_imm("ax", 3)
        asm.label(counted)
        asm.inc(at("r10", table.counts_at + 8, "ax"))

        def rarely() -> None:
            if table.signed:
                asm.label(negative)
                asm.movl_imm("ax", 8 * (NEGATIVE - 1))
                asm.jmp(counted)
            asm.label(none)
            asm.mov_imm("ax", -8)
            asm.jmp(counted)

        asm.aside(rarely)

    def add_to_series(self, offset: int, signed: bool = False) -> None:
        """Add the number in dx to the figures that begin so far behind r11. Clobbers ax."""
        asm, low = self.asm, at("r11", offset + SeriesWord.TOTAL)
        if signed:
            asm.mov("ax", "dx")
            asm.sar_imm("ax", 63)
        else:
            asm.xorl("ax", "ax")
        asm.add(low, "dx")
        # An interrupt in between gives the carry flag back.
        asm.adc(at("r11", offset + SeriesWord.HIGH), "ax")
        self._keep(at("r11", offset + SeriesWord.LEAST), "ge" if signed else "ae")
        self._keep(at("r11", offset + SeriesWord.GREATEST), "le" if signed else "be")

    # Put dx there, unless it stands so to what is there.
    def _keep(self, place: Mem, unless: str) -> None:
        asm, again, done = self.asm, self._label(), self._label()
        asm.mov("ax", place)
        asm.label(again)
        asm.cmp("dx", "ax")
        asm.jcc(unless, done)
        asm.cmpxchg(place, "dx")
        asm.jcc("ne", again)
        asm.label(done)

    # This CPU's part of the tables, in r10. Clobbers nothing else.
    def _find_tables(self) -> None:
        asm, zone = self.asm, self.zone
        if zone.rings == 1:
            asm.lea("r10", rip(zone.tables(0)))
            return
        asm.mov("r10", self._cpu_word(RingWord.TABLES))

    # A word of this CPU's ring, by way of r10.
    def _cpu_word(self, word: RingWord) -> Mem:
        asm, zone = self.asm, self.zone
        if zone.rings == 1:
            return rip(zone.ring_words(0) + word)
        assert self.cpu_number is not None
        asm.movl("r10", gs(self.cpu_number))
        asm.shl_imm("r10", RING_WORDS_BYTES.bit_length() - 1)
        return at("r10", zone.ring_words(0) + word - _SIGN)

    def _label(self) -> str:
        return f"table{next(self._labels)}."
