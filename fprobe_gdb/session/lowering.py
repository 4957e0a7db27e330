"""From typed expressions to what pads can evaluate: names become registers and places, types become sizes. Pure.

What comes out means the same as the closures of :mod:`fprobe_gdb.expr.compile`, for every call, faults too. But text is
only read up to the first difference, and where the kernel has all memory mapped, a page that it has taken out of there
(KFENCE) is read all the same.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    PadExpr,
    Task,
)
from fprobe_gdb.dispatch.trampoline.record_format import COMM_BYTES
from fprobe_gdb.errors import NotCompiled
from fprobe_gdb.expr import typed
from fprobe_gdb.expr.kinds import ULONG, IntKind, Kind, PointerKind, TextKind
from fprobe_gdb.expr.names import Scope
from fprobe_gdb.expr.typed import Typed
from fprobe_gdb.kernel.btf import FuncProto
from fprobe_gdb.kernel.values import argument_places
from fprobe_gdb.registers import ARGUMENT_REGISTERS, MASK64, PRESERVED_REGISTERS
from fprobe_gdb.session import lowering_places, lowering_text

__all__ = ["GuestFacts", "Lowering", "TaskFields"]

_WORD_BITS = 64
_WORD_BYTES = 8
_ERR_POINTERS = (1 << _WORD_BITS) - 4095


@dataclass(frozen=True, slots=True)
class TaskFields:
    """Offsets in ``struct task_struct``."""

    comm: int
    pid: int
    tgid: int


@dataclass(frozen=True, slots=True)
class GuestFacts:
    """What pads know of a guest.

    :param task: None for a kernel without types.
    :param tsc_khz: how fast the time stamp counter runs; 0 for unknown.
    :param reaches_memory: pads can follow pointers.
    """

    task: TaskFields | None
    tsc_khz: int
    reaches_memory: bool


@dataclass(frozen=True, slots=True)
class Lowering:
    """One function's end of a call.

    :param ip: the function's location.
    """

    scope: Scope
    ip: int
    facts: GuestFacts

    def number(self, node: Typed) -> PadExpr:
        """A node of an int or pointer kind.

        :raise NotCompiled: pads cannot evaluate it.
        """
        if isinstance(node.kind, IntKind) and node.kind.bits > _WORD_BITS:
            raise NotCompiled(f"a number has {node.kind.bits} bits")
        match node:
            case typed.Const(value=int(value)):
                return Imm(value & MASK64)
            case typed.Field():
                return self._field(node.name)
            case typed.Register(name=name):
                return self._register(name)
            case typed.Argument(name=name):
                return lowering_places.as_kind(self._argument(name), node.kind)
            case typed.RetVal():
                return lowering_places.as_kind(Left("ax"), node.kind)
            case typed.Running():
                return Task()
            case typed.Convert(operand=operand):
                return lowering_places.cut(self.number(operand), node.kind)
            case typed.Cast(base=base):
                return self._cast(self.number(base), node.kind)
            case typed.Moved(base=base, count=count, sign=sign, size_bytes=size_bytes):
                moved = Compute("*", self.number(count), Imm(size_bytes))
                return Compute("+" if sign > 0 else "-", self.number(base), moved)
            case typed.Arithmetic():
                return self._arithmetic(node)
            case typed.MemberPlace() | typed.Element() | typed.Deref():
                return lowering_places.load(node, self.number, self._follow)
        return self._condition(node)

    def _follow(self) -> None:
        if not self.facts.reaches_memory:
            raise NotCompiled("it follows pointers, and pads have no window onto memory in this guest, or not yet")

    def _condition(self, node: Typed) -> PadExpr:
        match node:
            case typed.Compare(left=Typed(kind=TextKind())) | typed.AnyOf(operand=Typed(kind=TextKind())):
                return lowering_text.test(node, self._subject)
            case typed.Glob() | typed.StartsWith():
                return lowering_text.test(node, self._subject)
            case typed.Compare(operator=operator, left=left, right=right):
                # All other numbers are within the range of 64-bit signed ones.
                signed = not (_fills_word(left.kind) or _fills_word(right.kind))
                return Compare(operator, self.number(left), self.number(right), signed)
            case typed.AnyOf(operand=operand, items=items):
                return OneOf(self.number(operand), tuple(sorted(int(item) & MASK64 for item in items)))
            case typed.Connective(operator=operator, operands=operands):
                lowered = tuple(map(self.number, operands))
                return AllOf(lowered) if operator == "&&" else AnyOf(lowered)
            case typed.Negation(operand=operand):
                return Not(self.number(operand))
            case typed.Chosen(condition=condition, yes=yes, no=no):
                return Choose(self.number(condition), self.number(yes), self.number(no))
            case typed.IsErr(operand=operand):
                return Compare(">=", self.number(operand), Imm(_ERR_POINTERS), False)
        raise NotCompiled("the length of a text is asked for")

    # Section: what a call has

    def _subject(self, node: Typed) -> lowering_text.Subject:
        match node:
            case typed.Const(value=str(text)):
                return lowering_text.Known(text)
            case typed.Field(name="func"):
                return lowering_text.Known(self.scope.func)
            case typed.Field(name="comm") if self.facts.task is not None:
                return lowering_text.Stored(Task(), self.facts.task.comm, COMM_BYTES, kept=True)
            case typed.Field(name=name):
                raise NotCompiled(f"{name} is text that the kernel's symbols or types have to tell")
            case typed.StringOf(base=base, max_bytes=max_bytes):
                self._follow()
                start, offset = lowering_places.text_at(base, self.number)
                return lowering_text.Stored(start, offset, lowering_places.text_limit(base, max_bytes), kept=False)
        raise NotCompiled("which text is compared depends on the call")

    def _field(self, name: str) -> PadExpr:
        match name:
            case "pid" | "tgid":
                if self.facts.task is None:
                    raise NotCompiled("the kernel has no types that tell where its tasks have their numbers")
                return Extend(Kept(Task(), getattr(self.facts.task, name), 4), 32, True)
            case "cpu":
                return Cpu()
            case "caller_ip":
                return Caller()
            case "duration_ns":
                if not self.facts.tsc_khz:
                    raise NotCompiled("the guest has not measured its time stamp counter")
                return Duration(self.facts.tsc_khz)
        return Imm(self.ip)

    def _register(self, name: str) -> PadExpr:
        if self.scope.is_exit and name in ("ax", "dx", *PRESERVED_REGISTERS):
            return Left(name)
        if not self.scope.is_exit and name in ("ax", *ARGUMENT_REGISTERS, *PRESERVED_REGISTERS):
            return Entered(name)
        if not self.scope.is_exit and name == "sp":
            return Frame()
        raise NotCompiled(f"the register {name} is not kept for a pad")

    def _argument(self, name: str) -> PadExpr:
        assert self.scope.proto is not None
        register, offset = _argument_place(self.scope.proto, [param for param, _ in self.scope.params].index(name))
        return Entered(register) if register else Kept(Frame(), offset, _WORD_BYTES)

    # Section: what is computed

    def _cast(self, base: PadExpr, kind: Kind) -> PadExpr:
        if isinstance(kind, IntKind) and kind.is_bool:
            return Not(Not(base))
        return lowering_places.cut(base, kind if isinstance(kind, IntKind) else ULONG)

    def _arithmetic(self, node: typed.Arithmetic) -> PadExpr:
        kind = node.kind
        assert isinstance(kind, IntKind)
        left, right = self.number(node.left), self.number(node.right)
        if node.operator in ("<<", ">>"):
            # An x86 shifts modulo 64 by itself.
            right = right if kind.bits == _WORD_BITS else Compute("&", right, Imm(kind.bits - 1))
        made = Compute(node.operator, left, right, kind.signed and node.operator in (">>", "/", "%"))
        return made if node.operator in ("&", "|", "^", ">>", "%") else lowering_places.cut(made, kind)


# Which register an argument is in, or how far behind the return slot it lies.
def _argument_place(proto: FuncProto, number: int) -> tuple[str, int]:
    offset = _WORD_BYTES
    for index, place in enumerate(argument_places(proto)):
        if index == number and len(place.registers) == 1:
            return place.registers[0], 0
        if index == number and not (place.supported and place.words == 1):
            break
        if place.words and place.align_bytes > _WORD_BYTES:
            raise NotCompiled("an argument's place depends on how the stack is aligned")
        if index == number:
            return "", offset
        offset += place.words * _WORD_BYTES
    raise NotCompiled("an argument is no number in one register")


def _fills_word(kind: Kind) -> bool:
    return isinstance(kind, PointerKind) or kind == ULONG
