"""The pads of probes that add up calls instead of recording them. Pure.

Rules, nodes and questions are those of :mod:`~fprobe_gdb.dispatch.trampoline.record_pads`; in place of a record, rows
of :mod:`~fprobe_gdb.dispatch.trampoline.tables` are changed. Nothing of that can get lost: a call that finds no node is
counted as missed in the row of its function, and who finds no row is counted with the others.

A call is counted at its entry, if its return does not decide; then its time begins, as late as possible. At the return
the code for its function goes on, which the node leads to, since all stubs of a probe call one exit pad.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from fprobe_gdb.dispatch.trampoline.assembler import Asm, Mem, at, rip
from fprobe_gdb.dispatch.trampoline.pad_expr import Asked, Entered, Sum, walk
from fprobe_gdb.dispatch.trampoline.pad_expr_code import ExprCode, Seat
from fprobe_gdb.dispatch.trampoline.record_format import IP_SHIFT, NodeWord, ProbeWord, RecordForm
from fprobe_gdb.dispatch.trampoline.record_pads import BEHIND, PadPlace, RecordPad, RecordPads, assemble
from fprobe_gdb.dispatch.trampoline.table_code import TableCode
from fprobe_gdb.dispatch.trampoline.tables import CallRow, HistogramTable, ProbeTables, RowTable

__all__ = ["count_pads"]


def count_pads(
    addr: int,
    place: PadPlace,
    form: RecordForm,
    probe: int,
    tables: ProbeTables,
    *,
    probes_task_dead: bool = False,
    then: int | None = None,
    asked: Asked,
) -> RecordPads:
    """Assemble the pads of a probe that adds up. See :func:`~.record_pads.record_pads`.

    :param tables: of the probe, in each CPU's part of the tables.
    """
    pad = _CountPad(Asm(addr), place, form, probe, False, False, then, asked, tables)
    return assemble(pad, probes_task_dead)


@dataclass(slots=True)
class _CountPad(RecordPad):
    tables: ProbeTables
    code: TableCode = field(init=False)

    def __post_init__(self) -> None:
        self.code = TableCode(self.asm, self.place.zone, self.place.cpu_number)

    @property
    def _keeps_args(self) -> bool:
        asked = [word for one in self.asked.sums if one.at_exit for word in one.words]
        asked += [self.asked.at_exit] if self.asked.at_exit else []
        return any(isinstance(node, Entered) for word in asked for node in walk(word))

    def entry(self) -> None:
        """What planted locations call."""
        asm, returns = self.asm, self.form.returns
        self._save()
        denied = self._ask_at_entry("entry.")
        if returns:
            self._take_node()
        if not self.form.decided:
            self._count_entry("entry.", keep="r10" if returns else None)
        if returns:
            self._await()
        asm.label("entry.leave")
        self._restore(self.then)
        self._denied("entry.", denied, "entry.leave")
        if returns:
            asm.label("no_node")
            self.code.find_row(self.tables.functions, [at("sp", BEHIND)])
            self.code.count(self.tables.functions, CallRow.MISSED)
            asm.jmp("entry.leave")

    # A call, and all that is added up at entries. What is in `keep` is there again afterwards.
    def _count_entry(self, scope: str, keep: str | None = None) -> None:
        sums, functions = [one for one in self.asked.sums if not one.at_exit], self.tables.functions
        frame = self._frame(sums, self._entry_seat(0))
        self._lower(frame)
        if keep:
            self.asm.mov(frame.spare, keep)
        seat = self._entry_seat(frame.size_bytes)
        assert isinstance(seat.site, Mem)
        self.code.begin()
        self.code.find_row(functions, [seat.site])
        self.code.count(functions, CallRow.HITS)
        self._add(scope, sums, frame, seat)
        self.code.end()
        if keep:
            self.asm.mov(keep, frame.spare)
        self._raise(frame)

    def exit(self) -> None:
        """What the stubs of nodes call."""
        asm, functions = self.asm, self.tables.functions
        self._come_home()
        asm.jmp_mem(at("di", NodeWord.DECIDE))
        asm.label("exit.decide")
        asm.cmpl_imm(rip(self._probe_word(ProbeWord.CLOSED)), 0)
        asm.jcc("ne", "exit.unseen")
        denied = self._ask_at_exit("exit.")
        sums = [one for one in self.asked.sums if one.at_exit]
        frame = self._frame(sums, self._exit_seat(at("sp")))
        self._lower(frame)
        asm.mov("ax", at("di", NodeWord.WORD))
        asm.sar_imm("ax", IP_SHIFT)
        asm.mov(frame.spare, "ax")
        self.code.begin()
        self.code.find_row(functions, [frame.spare])
        self._count_time()
        if self.form.decided:
            self.code.count(functions, CallRow.HITS)
        self.code.count(functions, CallRow.EXITS)
        self._add("exit.", sums, frame, self._exit_seat(frame.spare))
        self.code.end()
        self._raise(frame)
        self._go_home()
        self._denied("exit.", denied, "exit.free")
        asm.label("exit.no_time")
        asm.xorl("dx", "dx")
        asm.jmp("exit.time")
        asm.label("exit.unseen")
        asm.lock_inc(rip(self._probe_word(ProbeWord.UNSEEN)))
        asm.jmp("exit.free")

    # From the counter's values at both ends; none where the other CPU's is ahead.
    def _count_time(self) -> None:
        asm, functions = self.asm, self.tables.functions
        asm.mov("dx", "cx")
        asm.sub("dx", at("di", NodeWord.ENTERED))
        asm.jcc("b", "exit.no_time")
        asm.label("exit.time")
        self.code.add_to_series(functions.values_at + CallRow.TIMES)

    def task_dead(self, probed: bool) -> None:
        """What the location of ``do_task_dead`` calls."""
        self._save()
        denied = self._ask_at_entry("dead.") if probed else None
        if probed and not self.form.decided:
            self._count_entry("dead.")
        elif probed:
            self.asm.lock_inc(rip(self._probe_word(ProbeWord.UNSEEN)))
        self._leave_dead(denied)

    # Section: sums

    # What their expressions and keys need of the stack.
    def _frame(self, sums: Sequence[Sum], seat: Seat) -> _Frame:
        trial = ExprCode(Asm(self.asm.here), seat, "trial.", "fault")
        for one in sums:
            for word in one.words:
                trial.value(word)
        return _Frame(trial.most_kept, max((len(one.words) for one in sums), default=0))

    def _lower(self, frame: _Frame) -> None:
        self.asm.lea("sp", at("sp", -frame.size_bytes))

    def _raise(self, frame: _Frame) -> None:
        self.asm.lea("sp", at("sp", frame.size_bytes))

    def _add(self, scope: str, sums: Iterable[Sum], frame: _Frame, seat: Seat) -> None:
        for number, one in enumerate(sums):
            name = f"{scope}sum{number}."
            table = self.tables.others[one.table]
            expr = ExprCode(self.asm, seat, name, name + "fault")
            if isinstance(table, RowTable):
                key = frame.key(table.key_words)
                for word, place in zip(one.words, key, strict=True):
                    expr.value(word)
                    self.asm.mov(place, "ax")
                self.code.find_row(table, key)
                self.code.count(table)
            else:
                (word,) = one.words
                expr.value(word)
                self.code.add_number(table)
            self.asm.label(name + "added")
            self.asm.aside(partial(self._no_value, table, name))

    # Where an expression has no value.
    def _no_value(self, table: RowTable | HistogramTable, name: str) -> None:
        self.asm.label(name + "fault")
        self.code.count_fault(table)
        self.asm.jmp(name + "added")


# Words at the stack pointer: first those that expressions keep, then those of a key, then a spare one.
@dataclass(frozen=True, slots=True)
class _Frame:
    kept: int
    key_words: int

    @property
    def size_bytes(self) -> int:
        return 8 * (self.kept + self.key_words + 1)

    def key(self, words: int) -> list[Mem]:
        return [at("sp", 8 * (self.kept + number)) for number in range(words)]

    @property
    def spare(self) -> Mem:
        return at("sp", 8 * (self.kept + self.key_words))
