"""What an expression's value can be, and C's rules for its integers (x86_64: int has 32 bits, long and pointers 64).

A number at run time is a plain ``int`` within the range of its kind.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fprobe_gdb.kernel.btf import ArrayType, EnumType, IntType, PointerType, Type

__all__ = [
    "INT",
    "LONG",
    "TEXT",
    "ULONG",
    "IntKind",
    "Kind",
    "ObjectKind",
    "PointerKind",
    "TextKind",
    "common",
    "fits",
    "is_text_type",
    "kind_of",
    "promoted",
    "wrap",
]


@dataclass(frozen=True, slots=True)
class IntKind:
    """An integer, character, truth value or enumeration, or a bit-field of so many bits."""

    bits: int
    signed: bool
    #: The C type, where it is one of the kernel's.
    type: Type | None = field(default=None, compare=False)
    is_bool: bool = False
    #: Whether people read it in hexadecimal.
    is_address: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        return str(self.type) if self.type else f"a {self.bits}-bit number"


@dataclass(frozen=True, slots=True)
class TextKind:
    """A string."""

    def __str__(self) -> str:
        return "text"


@dataclass(frozen=True, slots=True)
class PointerKind:
    """A pointer; of no type for ``NULL``."""

    type: Type | None

    def __str__(self) -> str:
        return str(self.type) if self.type else "NULL"

    @property
    def target(self) -> Type | None:
        """What it points to."""
        kind = self.type.resolve() if self.type else None
        return kind.target if isinstance(kind, PointerType) else None


@dataclass(frozen=True, slots=True)
class ObjectKind:
    """A structure, union or array, or what has no value at all (a function, an incomplete type, ``double``)."""

    type: Type

    def __str__(self) -> str:
        return str(self.type)


Kind = IntKind | TextKind | PointerKind | ObjectKind

INT = IntKind(32, True)
LONG = IntKind(64, True)
ULONG = IntKind(64, False)
TEXT = TextKind()


def kind_of(type_: Type, bit_size: int = 0) -> Kind:
    """The kind of a C type's values.

    :param bit_size: of a bit-field, else 0.
    """
    resolved = type_.resolve()
    if isinstance(resolved, IntType):
        is_bool = resolved.is_bool and not bit_size
        return IntKind(bit_size or resolved.size_bytes * 8, resolved.is_signed, type_, is_bool)
    if isinstance(resolved, EnumType):
        return IntKind(bit_size or resolved.size_bytes * 8, resolved.is_signed, type_)
    return PointerKind(type_) if isinstance(resolved, PointerType) else ObjectKind(type_)


def is_text_type(type_: Type) -> bool:
    """Whether a pointer or array may be compared with text: its elements are characters, signed or not.

    Unsigned ones too: ``struct qstr`` has its name as ``const unsigned char *``.
    """
    resolved = type_.resolve()
    if not isinstance(resolved, (PointerType, ArrayType)):
        return False
    element = resolved.target.resolve()
    return isinstance(element, IntType) and element.size_bytes == 1 and not element.is_bool


def promoted(kind: IntKind) -> IntKind:
    """C's integer promotion: whatever ``int`` can hold becomes ``int``."""
    if kind.bits < 32:
        return INT
    return IntKind(max(64, kind.bits) if kind.bits > 32 else 32, kind.signed)


def common(left: IntKind, right: IntKind) -> IntKind:
    """C's usual arithmetic conversions: the type in which two numbers meet."""
    left, right = promoted(left), promoted(right)
    if left.bits == right.bits:
        return IntKind(left.bits, left.signed and right.signed)
    return left if left.bits > right.bits else right


def fits(inner: IntKind, outer: IntKind) -> bool:
    """Whether each value of one kind is one of the other, unchanged."""
    if inner.signed == outer.signed:
        return inner.bits <= outer.bits
    return outer.signed and inner.bits < outer.bits


def wrap(number: int, kind: IntKind) -> int:
    """A number cut to a kind's bits, as a conversion in C does it."""
    if kind.signed:
        half = 1 << kind.bits - 1
        return (number + half & (half << 1) - 1) - half
    return number & (1 << kind.bits) - 1
