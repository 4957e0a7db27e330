"""Expressions that a pad evaluates: what is left of a question about a call once types and names are resolved. Pure.

Every node gives one 64-bit word: a number of fewer bits is extended by its sign, or with zeros, as its C type says.
Nodes are equal when they ask the same, so that functions of which the same is asked can share a pad. Some have no value
for some calls (a division by zero): then the whole question has none, which is a *fault*.

:mod:`~fprobe_gdb.dispatch.trampoline.pad_expr_code` makes machine code of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fprobe_gdb.dispatch.trampoline.payload import Payload

__all__ = [
    "ALWAYS",
    "AllOf",
    "AnyOf",
    "Asked",
    "Caller",
    "Choose",
    "Compare",
    "Compute",
    "Cpu",
    "Duration",
    "Entered",
    "Extend",
    "Frame",
    "Imm",
    "Kept",
    "Left",
    "Not",
    "OneOf",
    "OrZero",
    "PadExpr",
    "Peek",
    "Site",
    "StartsWith",
    "Sum",
    "Task",
    "Within",
    "walk",
]


@dataclass(frozen=True, slots=True)
class PadExpr:
    """Base of all."""


# Section: what a call has


@dataclass(frozen=True, slots=True)
class Imm(PadExpr):
    """A constant, from 0 to 2^64 - 1."""

    value: int


@dataclass(frozen=True, slots=True)
class Entered(PadExpr):
    """A register as it was at the function's entry; at a return, argument registers only."""

    register: str


@dataclass(frozen=True, slots=True)
class Left(PadExpr):
    """A register as the function has left it: ``ax``, ``dx``, or one that functions preserve. At a return only."""

    register: str


@dataclass(frozen=True, slots=True)
class Frame(PadExpr):
    """Address of the call's return slot; arguments on the stack are behind it."""


@dataclass(frozen=True, slots=True)
class Task(PadExpr):
    """``struct task_struct *``: current."""


@dataclass(frozen=True, slots=True)
class Cpu(PadExpr):
    """The CPU's number."""


@dataclass(frozen=True, slots=True)
class Site(PadExpr):
    """Which function it is, by what its fentry call pushes: the end of its location. Only for pads that add up."""


@dataclass(frozen=True, slots=True)
class Caller(PadExpr):
    """The return address."""


@dataclass(frozen=True, slots=True)
class Duration(PadExpr):
    """How long the call took, in nanoseconds; at a return only.

    :param khz: how fast the time stamp counter runs.
    """

    khz: int


@dataclass(frozen=True, slots=True)
class Kept(PadExpr):
    """A number in memory that is always there: of the current task, or on its stack. Extended with zeros.

    :param size_bytes: 1, 2, 4 or 8.
    """

    base: PadExpr
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Peek(PadExpr):
    """A number in memory, extended with zeros; none where that is not mapped.

    :param size_bytes: 1, 2, 4 or 8.
    """

    base: PadExpr
    offset: int
    size_bytes: int


# Section: what is computed


@dataclass(frozen=True, slots=True)
class Within(PadExpr):
    """A number, if it is from 0 to below a count, or without a count not negative; else it is none."""

    operand: PadExpr
    count: int


@dataclass(frozen=True, slots=True)
class Extend(PadExpr):
    """The lowest bits of a number, and the others by their sign, or 0."""

    operand: PadExpr
    bits: int
    signed: bool


@dataclass(frozen=True, slots=True)
class Compute(PadExpr):
    """``+ - * & | ^ << >> / %`` of 64-bit numbers, modulo 2^64; ``>> / %`` are C's for signed numbers or for others.

    A shift's count is less than 64. By zero cannot be divided.
    """

    operator: str
    left: PadExpr
    right: PadExpr
    signed: bool = False


@dataclass(frozen=True, slots=True)
class Compare(PadExpr):
    """``== != < <= > >=``: 1 or 0."""

    operator: str
    left: PadExpr
    right: PadExpr
    signed: bool


@dataclass(frozen=True, slots=True)
class OneOf(PadExpr):
    """Whether a number is among these: 1 or 0."""

    operand: PadExpr
    items: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StartsWith(PadExpr):
    """Whether memory begins with these bytes: 1 or 0; neither where it is not mapped up to the first difference.

    :param kept: it is always mapped.
    """

    base: PadExpr
    offset: int
    data: bytes
    kept: bool


@dataclass(frozen=True, slots=True)
class Not(PadExpr):
    """Whether a number is 0: 1 or 0."""

    operand: PadExpr


@dataclass(frozen=True, slots=True)
class AllOf(PadExpr):
    """Whether no operand is 0: 1 or 0. Evaluated from the left, as far as needed."""

    operands: tuple[PadExpr, ...]


@dataclass(frozen=True, slots=True)
class AnyOf(PadExpr):
    """Whether an operand is not 0: 1 or 0. Evaluated from the left, as far as needed."""

    operands: tuple[PadExpr, ...]


@dataclass(frozen=True, slots=True)
class Choose(PadExpr):
    """``condition ? yes : no``; only one of the two is evaluated."""

    condition: PadExpr
    yes: PadExpr
    no: PadExpr


@dataclass(frozen=True, slots=True)
class Sum:
    """What a pad adds up of each call that it counts.

    :param table: the number of the table (:mod:`~fprobe_gdb.dispatch.trampoline.tables`) that it is added to.
    :param words: the key there; of a histogram the number.
    :param at_exit: taken at the return.
    """

    table: int
    words: tuple[PadExpr, ...]
    at_exit: bool


@dataclass(frozen=True, slots=True)
class OrZero(PadExpr):
    """A number; 0 if it is none."""

    operand: PadExpr


@dataclass(frozen=True, slots=True)
class Asked:
    """What a pad asks of each call, before the call is recorded; None for nothing.

    Where something is asked at the return, the call is recorded there, once, or not at all.

    :param sums: of a probe that adds up calls instead of recording them.
    :param payload: what it fetches for the record: at the entry, or where the return decides, at the return.
    """

    at_entry: PadExpr | None = None
    at_exit: PadExpr | None = None
    sums: tuple[Sum, ...] = ()
    payload: Payload | None = None


#: Asked at returns, it has each call recorded there.
ALWAYS = Imm(1)


def walk(node: PadExpr) -> Iterator[PadExpr]:
    """A node, and all below it."""
    waiting = [node]
    while waiting:
        found = waiting.pop()
        yield found
        for field in fields(found):
            below = getattr(found, field.name)
            waiting += [one for one in (below if isinstance(below, tuple) else (below,)) if isinstance(one, PadExpr)]
