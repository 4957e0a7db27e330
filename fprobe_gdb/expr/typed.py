"""Expressions after the check: every node knows its kind, every name what it stands for, and all conversions are nodes.

:mod:`fprobe_gdb.expr.compile` makes closures of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from fprobe_gdb.expr.kinds import Kind

__all__ = [
    "AnyOf",
    "Argument",
    "Arithmetic",
    "Cast",
    "Chosen",
    "Compare",
    "Connective",
    "Const",
    "Convert",
    "Deref",
    "Element",
    "Field",
    "Glob",
    "IsErr",
    "MemberPlace",
    "Moved",
    "Negation",
    "Register",
    "RetVal",
    "Running",
    "StartsWith",
    "StringLength",
    "StringOf",
    "Typed",
]


@dataclass(frozen=True, slots=True)
class Typed:
    """Base of all: what kind of value it gives."""

    kind: Kind


@dataclass(frozen=True, slots=True)
class Const(Typed):
    """A number within its kind's range, or text."""

    value: int | str


# Section: what a hit has


@dataclass(frozen=True, slots=True)
class Field(Typed):
    """An attribute of the hit that is a plain number or text."""

    name: str


@dataclass(frozen=True, slots=True)
class Register(Typed):
    """A raw register."""

    name: str


@dataclass(frozen=True, slots=True)
class Argument(Typed):
    """An argument of the function."""

    name: str


@dataclass(frozen=True, slots=True)
class RetVal(Typed):
    """What the function returned."""


@dataclass(frozen=True, slots=True)
class Running(Typed):
    """The running task, ``struct task_struct *``."""


# Section: places reached from those


@dataclass(frozen=True, slots=True)
class MemberPlace(Typed):
    """A member of a structure, or of the one that a pointer points to."""

    base: Typed
    name: str
    offset_bytes: int
    #: Of a bit-field, within the byte at the offset.
    first_bit: int
    is_bitfield: bool


@dataclass(frozen=True, slots=True)
class Element(Typed):
    """An element of an array, or of what a pointer points to."""

    base: Typed
    index: Typed
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Deref(Typed):
    """What a pointer points to."""

    base: Typed


@dataclass(frozen=True, slots=True)
class Moved(Typed):
    """A pointer some elements further on (``sign`` 1) or back (-1)."""

    base: Typed
    count: Typed
    sign: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Cast(Typed):
    """A number or pointer as another type of number or pointer: C's cast."""

    base: Typed


# Section: what is computed


@dataclass(frozen=True, slots=True)
class Convert(Typed):
    """A number or pointer as another kind of number."""

    operand: Typed


@dataclass(frozen=True, slots=True)
class Arithmetic(Typed):
    """``+ - * / % & | ^ << >>`` of numbers that are of the node's kind already (a shift's count is of its own)."""

    operator: str
    left: Typed
    right: Typed


@dataclass(frozen=True, slots=True)
class Compare(Typed):
    """``== != < <= > >=`` of two numbers of one kind, or ``== !=`` of two texts."""

    operator: str
    left: Typed
    right: Typed


@dataclass(frozen=True, slots=True)
class AnyOf(Typed):
    """Whether a number or text is among constants of its kind."""

    operand: Typed
    items: frozenset[int | str]


@dataclass(frozen=True, slots=True)
class Connective(Typed):
    """``&&`` or ``||``; operands on the right are evaluated only if needed."""

    operator: str
    operands: tuple[Typed, ...]


@dataclass(frozen=True, slots=True)
class Negation(Typed):
    """``!``."""

    operand: Typed


@dataclass(frozen=True, slots=True)
class Chosen(Typed):
    """``?:``; only one of the two is evaluated."""

    condition: Typed
    yes: Typed
    no: Typed


@dataclass(frozen=True, slots=True)
class StringOf(Typed):
    """The text at a pointer or in an array."""

    base: Typed
    max_bytes: int | None


@dataclass(frozen=True, slots=True)
class Glob(Typed):
    """Whether text matches a pattern, as ftrace's event filters match it."""

    operand: Typed
    pattern: str


@dataclass(frozen=True, slots=True)
class StartsWith(Typed):
    """Whether text starts with other text."""

    operand: Typed
    prefix: Typed


@dataclass(frozen=True, slots=True)
class StringLength(Typed):
    """Bytes of a text."""

    operand: Typed


@dataclass(frozen=True, slots=True)
class IsErr(Typed):
    """Whether a number or pointer is an error code."""

    operand: Typed
