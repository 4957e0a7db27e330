"""Machine code for the expressions of :mod:`~fprobe_gdb.dispatch.trampoline.pad_expr`. Pure.

A value is made in ax; ``r11`` has the other operand. What has to wait for an operand is kept in words at the stack
pointer, which stays where it is, so that a question can be given up at any place. Clobbers ax, dx, r10 and r11.

Nothing here can fault: memory is read where it is known to be there, or through the window of
:mod:`~fprobe_gdb.dispatch.trampoline.peek_code`; and divisors are looked at before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count

from fprobe_gdb.dispatch.cpu_state import PerCpuOffsets
from fprobe_gdb.dispatch.trampoline.assembler import Asm, Mem, at, gs, rip
from fprobe_gdb.dispatch.trampoline.pad_expr import (
    AllOf,
    AnyOf,
    Caller,
    Choose,
    Compare,
    Compute,
    Cpu,
    Duration,
    Entered,
    Extend,
    Frame,
    Imm,
    Kept,
    Left,
    Not,
    OneOf,
    OrZero,
    PadExpr,
    Peek,
    Site,
    StartsWith,
    Task,
    Within,
)
from fprobe_gdb.dispatch.trampoline.peek_code import Peeks, load
from fprobe_gdb.dispatch.trampoline.stub_code import look_through
from fprobe_gdb.dispatch.trampoline.zone import Zone

__all__ = ["ExprCode", "Seat"]

_SIGN = 1 << 64
_IMM32 = 1 << 31
_CONDITIONS = {
    ("==", False): "e", ("!=", False): "ne", ("<", False): "b", ("<=", False): "be", (">", False): "a",
    (">=", False): "ae", ("==", True): "e", ("!=", True): "ne", ("<", True): "l", ("<=", True): "le",
    (">", True): "g", (">=", True): "ge",
}  # fmt: skip
_OPPOSITE = {"e": "ne", "b": "ae", "be": "a", "l": "ge", "le": "g"}
_OPPOSITE |= {right: left for left, right in _OPPOSITE.items()}


@dataclass(frozen=True, slots=True)
class Seat:
    """Where the pad has what expressions ask for.

    :param entered: registers at the entry.
    :param ret_addr: where the return address is, which may be a stub's.
    :param left: registers at the return.
    :param frame_is: the return slot itself; or ``frame_in``, where its address is.
    :param entered_tsc: where the counter's value at the entry is, and ``left_tsc`` that at the return.
    :param peeks: what reads any memory; None where nothing can.
    :param site: where :class:`~.pad_expr.Site` is.
    """

    zone: Zone
    offsets: PerCpuOffsets
    cpu_number: int | None
    entered: Mapping[str, str | Mem]
    ret_addr: Mem
    left: Mapping[str, str] = field(default_factory=dict)
    frame_is: Mem | None = None
    frame_in: Mem | None = None
    entered_tsc: Mem | None = None
    left_tsc: str | None = None
    peeks: Peeks | None = None
    site: Mem | None = None


@dataclass(slots=True)
class ExprCode:
    """Code for expressions, behind each other.

    :param scope: what its labels begin with.
    :param fault: the label to jump to when there is no value; it may be another one from some expression on.
    """

    asm: Asm
    seat: Seat
    scope: str
    fault: str
    #: How many words are kept at most.
    most_kept: int = 0
    _kept: int = 0
    _labels: count[int] = field(default_factory=count)

    def branch(self, node: PadExpr, label: str, when: bool) -> None:
        """Jump to a label when the node is true, or when it is not; else go on behind this."""
        match node:
            case Imm(value):
                if bool(value) == when:
                    self.asm.jmp(label)
            case Not(operand):
                self.branch(operand, label, not when)
            case AllOf(operands):
                self._connected(operands, label, when, decides=False)
            case AnyOf(operands):
                self._connected(operands, label, when, decides=True)
            case Compare():
                self._compare(node)
                condition = _CONDITIONS[node.operator, node.signed]
                self.asm.jcc(condition if when else _OPPOSITE[condition], label)
            case OneOf():
                self._one_of(node, label, when)
            case StartsWith():
                self._starts_with(node, label, when)
            case _:
                self.value(node)
                self.asm.cmp_imm("ax", 0)
                self.asm.jcc("ne" if when else "e", label)

    def value(self, node: PadExpr) -> None:
        """The node's value, in ax."""
        asm = self.asm
        match node:
            case Imm() | Entered() | Left():
                self._fetch(node, "ax")
            case Frame():
                self._frame()
            case Task():
                assert self.seat.offsets.current_task is not None
                asm.mov("ax", gs(self.seat.offsets.current_task))
            case Cpu():
                if self.seat.cpu_number is None:
                    asm.xorl("ax", "ax")
                else:
                    asm.movl("ax", gs(self.seat.cpu_number))
            case Caller():
                self._caller()
            case Site():
                assert self.seat.site is not None
                asm.mov("ax", self.seat.site)
            case Duration():
                self._duration(node)
            case Kept(base, offset, size_bytes):
                self._address(base, offset)
                load(asm, "ax", "ax", size_bytes)
            case Peek():
                self._peek(node)
            case Within(operand, count):
                self._within(operand, count)
            case Extend(operand, bits, signed):
                self.value(operand)
                self._extend(bits, signed)
            case Compute():
                self._compute(node)
            case Choose():
                self._choose(node)
            case OrZero(operand):
                self._or_zero(operand)
            case _:
                self._truth(node)

    # Section: branches

    # An operand that is `decides` decides; the last one decides in any case.
    def _connected(self, operands: tuple[PadExpr, ...], label: str, when: bool, *, decides: bool) -> None:
        *first, last = operands
        decided = label if when == decides else self._label()
        for operand in first:
            self.branch(operand, decided, decides)
        self.branch(last, label, when)
        if decided != label:
            self.asm.label(decided)

    def _compare(self, node: Compare) -> None:
        if isinstance(node.right, Imm) and (signed := _signed32(node.right.value)) is not None:
            self.value(node.left)
            self.asm.cmp_imm("ax", signed)
        else:
            self._operands(node.left, node.right)
            self.asm.cmp("ax", "r11")

    def _one_of(self, node: OneOf, label: str, when: bool) -> None:
        found = label if when else self._label()
        self.value(node.operand)
        for item in node.items:
            if (signed := _signed32(item)) is not None:
                self.asm.cmp_imm("ax", signed)
            else:
                self._fetch(Imm(item), "r11")
                self.asm.cmp("ax", "r11")
            self.asm.jcc("e", found)
        if not when:
            self.asm.jmp(label)
            self.asm.label(found)

    def _starts_with(self, node: StartsWith, label: str, when: bool) -> None:
        asm, behind = self.asm, self._label()
        same, differs = (label, behind) if when else (behind, label)
        self._address(node.base, node.offset)
        if not node.data:
            asm.jmp(same)
        elif node.kept:
            asm.mov("r11", "ax")
            self._same_bytes(node.data, differs)
        else:
            aside = self._label()
            self._see(len(node.data), aside)
            self._same_bytes(node.data, differs)
            fault = self.fault
            asm.aside(lambda: self._peek_same(aside, node.data, same, differs, fault))
        if when:
            asm.jmp(label)
        asm.label(behind)

    # At r11, which is mapped. Clobbers ax.
    def _same_bytes(self, data: bytes, differs: str) -> None:
        asm, begin = self.asm, 0
        for size in (8, 4, 1):
            while begin + size <= len(data):
                piece, place = int.from_bytes(data[begin : begin + size], "little"), at("r11", begin)
                if size == 8:
                    asm.mov_imm64("ax", piece)
                    asm.cmp("ax", place)
                else:
                    (asm.cmpl_imm if size == 4 else asm.cmpb_imm)(place, piece)
                asm.jcc("ne", differs)
                begin += size

    def _peek_same(self, aside: str, data: bytes, same: str, differs: str, fault: str) -> None:
        asm, text = self.asm, self.asm.here
        assert self.seat.peeks is not None
        asm.data(data)
        asm.label(aside)
        asm.lea("dx", rip(text))
        asm.movl_imm("r10", len(data))
        asm.call(self.seat.peeks.same)
        asm.jcc("b", fault)
        asm.cmp_imm("ax", 0)
        asm.jcc("ne", same)
        asm.jmp(differs)

    # Section: memory

    def _address(self, base: PadExpr, offset: int) -> None:
        self.value(base)
        if offset:
            self.asm.add_imm("ax", offset)

    def _peek(self, node: Peek) -> None:
        peeks, aside, done, fault = self.seat.peeks, self._label(), self._label(), self.fault
        assert peeks is not None
        self._address(node.base, node.offset)
        self._see(node.size_bytes, aside)
        load(self.asm, "ax", "r11", node.size_bytes)
        self.asm.label(done)

        def walk() -> None:
            self.asm.label(aside)
            self.asm.call(peeks.number[node.size_bytes])
            self.asm.jcc("b", fault)
            self.asm.jmp(done)

        self.asm.aside(walk)

    # Most pointers lead to the kernel's mapping of all memory, where a subtraction is as good as page tables. From ax,
    # which stays, to where so many bytes are in the window, in r11; aside where that cannot be said.
    def _see(self, size_bytes: int, aside: str) -> None:
        asm, peeks = self.asm, self.seat.peeks
        assert peeks is not None
        window = peeks.window
        if not window.direct_map:
            asm.jmp(aside)
            return
        asm.mov_imm64("r10", window.direct_map)
        asm.mov("r11", "ax")
        asm.sub("r11", "r10")
        asm.cmp_imm("r11", min(window.low_bytes, _IMM32 - 1) - size_bytes)
        asm.jcc("a", aside)
        asm.mov_imm64("r10", window.base)
        asm.add("r11", "r10")

    def _within(self, operand: PadExpr, count: int) -> None:
        self.value(operand)
        if not count:
            self.asm.cmp_imm("ax", 0)
            self.asm.jcc("l", self.fault)
            return
        self._fetch(Imm(count), "r11")
        self.asm.cmp("ax", "r11")
        self.asm.jcc("ae", self.fault)

    # Section: values

    def _truth(self, node: PadExpr) -> None:
        true, done = self._label(), self._label()
        self.branch(node, true, True)
        self.asm.xorl("ax", "ax")
        self.asm.jmp(done)
        self.asm.label(true)
        self.asm.movl_imm("ax", 1)
        self.asm.label(done)

    def _choose(self, node: Choose) -> None:
        no, done = self._label(), self._label()
        self.branch(node.condition, no, False)
        self.value(node.yes)
        self.asm.jmp(done)
        self.asm.label(no)
        self.value(node.no)
        self.asm.label(done)

    def _or_zero(self, operand: PadExpr) -> None:
        asm, fault, done = self.asm, self.fault, self._label()
        self.fault = self._label()
        self.value(operand)
        asm.jmp(done)
        asm.label(self.fault)
        asm.xorl("ax", "ax")
        asm.label(done)
        self.fault = fault

    def _extend(self, bits: int, signed: bool) -> None:
        asm = self.asm
        if bits == 32:
            (asm.movslq if signed else asm.movl)("ax", "ax")
        elif bits < 64:
            asm.shl_imm("ax", 64 - bits)
            (asm.sar_imm if signed else asm.shr_imm)("ax", 64 - bits)

    def _compute(self, node: Compute) -> None:
        asm = self.asm
        self._operands(node.left, node.right)
        match node.operator:
            case "+":
                asm.add("ax", "r11")
            case "-":
                asm.sub("ax", "r11")
            case "*":
                asm.imul("ax", "r11")
            case "&":
                asm.and_("ax", "r11")
            case "|":
                asm.or_("ax", "r11")
            case "^":
                asm.xor("ax", "r11")
            case "<<" | ">>":
                # cx is an argument.
                asm.mov("r10", "cx")
                asm.mov("cx", "r11")
                (asm.shl_cl if node.operator == "<<" else asm.sar_cl if node.signed else asm.shr_cl)("ax")
                asm.mov("cx", "r10")
            case _:
                self._divide(node)

    # What would trap is seen before: nothing can be divided by 0, and the least number not by -1.
    def _divide(self, node: Compute) -> None:
        asm, wants_rest = self.asm, node.operator == "%"
        asm.cmp_imm("r11", 0)
        asm.jcc("e", self.fault)
        if not node.signed:
            asm.xorl("dx", "dx")
            asm.div("r11")
        else:
            divide, done = self._label(), self._label()
            asm.cmp_imm("r11", -1)
            asm.jcc("ne", divide)
            asm.neg("ax")
            asm.xorl("dx", "dx")
            asm.jmp(done)
            asm.label(divide)
            asm.cqo()
            asm.idiv("r11")
            asm.label(done)
        if wants_rest:
            asm.mov("ax", "dx")

    def _frame(self) -> None:
        if self.seat.frame_is:
            self.asm.lea("ax", self.seat.frame_is)
        else:
            assert self.seat.frame_in
            self.asm.mov("ax", self.seat.frame_in)

    def _caller(self) -> None:
        asm, again, real = self.asm, self._label(), self._label()
        asm.mov("ax", self.seat.ret_addr)
        asm.label(again)
        look_through(asm, self.seat.zone, "ax", "r11", real)
        asm.jmp(again)
        asm.label(real)

    # A counter that has gone back gives a quotient that no register holds, and with that no value.
    def _duration(self, node: Duration) -> None:
        asm, seat = self.asm, self.seat
        assert seat.left_tsc is not None
        assert seat.entered_tsc is not None
        asm.mov("ax", seat.left_tsc)
        asm.sub("ax", seat.entered_tsc)
        asm.movl_imm("r11", 1_000_000)
        asm.mul("r11")
        asm.movl_imm("r11", node.khz)
        asm.cmp("dx", "r11")
        asm.jcc("ae", self.fault)
        asm.div("r11")

    # Section: operands

    # Left in ax, right in r11.
    def _operands(self, left: PadExpr, right: PadExpr) -> None:
        if _is_at_hand(right):
            self.value(left)
            self._fetch(right, "r11")
        elif _is_at_hand(left):
            self.value(right)
            self.asm.mov("r11", "ax")
            self._fetch(left, "ax")
        else:
            self.value(left)
            place = at("sp", 8 * self._kept)
            self.asm.mov(place, "ax")
            self._kept += 1
            self.most_kept = max(self.most_kept, self._kept)
            self.value(right)
            self._kept -= 1
            self.asm.mov("r11", "ax")
            self.asm.mov("ax", place)

    # Changes no other register.
    def _fetch(self, node: PadExpr, to: str) -> None:
        asm = self.asm
        match node:
            case Imm(value):
                signed = _signed32(value)
                if value >> 32 == 0:
                    asm.movl_imm(to, value)
                elif signed is not None:
                    asm.mov_imm(to, signed)
                else:
                    asm.mov_imm64(to, value)
            case Entered(register):
                asm.mov(to, self.seat.entered[register])
            case Left(register):
                asm.mov(to, self.seat.left[register])
            case _:
                raise AssertionError(f"{node} is not at hand")

    def _label(self) -> str:
        return f"{self.scope}{next(self._labels)}."


def _is_at_hand(node: PadExpr) -> bool:
    return isinstance(node, (Imm, Entered, Left))


# A word as the sign-extended 32-bit constant that gives it; None where none does.
def _signed32(word: int) -> int | None:
    value = word - _SIGN if word >> 63 else word
    return value if -_IMM32 <= value < _IMM32 else None
