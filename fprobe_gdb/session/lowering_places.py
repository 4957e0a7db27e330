"""Members, elements and what pointers lead to, as pads read them: an address, an offset, a size. Pure."""

from __future__ import annotations

from collections.abc import Callable

from fprobe_gdb.dispatch.trampoline.pad_expr import Compute, Extend, Imm, Not, PadExpr, Peek, Within
from fprobe_gdb.dispatch.trampoline.peek_code import SIZES
from fprobe_gdb.errors import NotCompiled
from fprobe_gdb.expr import typed
from fprobe_gdb.expr.kinds import IntKind, Kind, ObjectKind, PointerKind
from fprobe_gdb.expr.typed import Typed
from fprobe_gdb.kernel.btf import ArrayType
from fprobe_gdb.registers import MASK64

__all__ = ["as_kind", "cut", "load", "text_at", "text_limit"]

_BYTE_BITS = 8
_WORD_BITS = 64
_OFFSETS = range(-(1 << 31), 1 << 31)
# As much of a string as closures read.
_STRING_BYTES = 4096

Number = Callable[[Typed], PadExpr]
Place = tuple[PadExpr, int]


def load(node: Typed, number: Number, follow: Callable[[], None]) -> PadExpr:
    """The number or pointer in a place.

    :param number: lowers what is a number or pointer.
    :param follow: raises where pads cannot follow pointers.
    :raise NotCompiled: the place is in registers, or of a size that no number has.
    """
    base, offset = _address(node, number)
    follow()
    kind = node.kind
    if isinstance(node, typed.MemberPlace) and node.is_bitfield:
        assert isinstance(kind, IntKind)
        return _bits(base, offset, kind, node.first_bit)
    size_bytes = (kind.bits if isinstance(kind, IntKind) else _WORD_BITS) // _BYTE_BITS
    if size_bytes not in SIZES:
        raise NotCompiled(f"a number takes {size_bytes} bytes")
    return as_kind(Peek(base, offset, size_bytes), kind)


def text_at(base: Typed, number: Number) -> Place:
    """Where the text is that a pointer leads to, or that is in an array."""
    return (number(base), 0) if isinstance(base.kind, PointerKind) else _address(base, number)


def text_limit(base: Typed, max_bytes: int | None) -> int:
    """How many bytes of it are looked at."""
    limit_bytes = max_bytes or _STRING_BYTES
    array = base.kind.type.resolve() if isinstance(base.kind, ObjectKind) else None
    if isinstance(array, ArrayType) and array.count:
        return min(limit_bytes, array.size_bytes)
    return limit_bytes


def as_kind(word: PadExpr, kind: Kind) -> PadExpr:
    """Of a word that may hold anything above a number of this kind, the number."""
    if isinstance(kind, IntKind) and kind.is_bool:
        return Not(Not(cut(word, IntKind(kind.bits, False))))
    return cut(word, kind)


def cut(word: PadExpr, kind: Kind) -> PadExpr:
    """A number cut to a kind's bits, as a conversion in C does it."""
    if isinstance(kind, PointerKind) or (isinstance(kind, IntKind) and kind.bits == _WORD_BITS):
        return word
    if not isinstance(kind, IntKind):
        raise NotCompiled(f"{kind} is no number")
    return Extend(word, kind.bits, kind.signed)


def _address(node: Typed, number: Number) -> Place:
    match node:
        case typed.Deref(base=base):
            return number(base), 0
        case typed.MemberPlace(base=base, offset_bytes=offset):
            return _moved(_start(base, number), offset)
        case typed.Element():
            return _element(node, number)
    raise NotCompiled("a structure that came in registers, or by value, is looked into")


# Where that begins of which a member or an element is taken.
def _start(base: Typed, number: Number) -> Place:
    return (number(base), 0) if isinstance(base.kind, PointerKind) else _address(base, number)


def _moved(start: Place, offset: int) -> Place:
    base, before = start
    if before + offset in _OFFSETS:
        return base, before + offset
    return Compute("+", base, Imm(before + offset & MASK64)), 0


def _element(node: typed.Element, number: Number) -> Place:
    start = _start(node.base, number)
    if isinstance(node.index, typed.Const) and isinstance(node.index.value, int):
        return _moved(start, node.index.value * node.size_bytes)
    index = number(node.index)
    array = node.base.kind.type.resolve() if isinstance(node.base.kind, ObjectKind) else None
    if isinstance(array, ArrayType):
        # A count of 0 is an array whose end is known only to the kernel's code.
        index = Within(index, array.count)
    base, offset = start
    return Compute("+", base, Compute("*", index, Imm(node.size_bytes))), offset


# C keeps a bit-field within one unit of its type, which is aligned as it is large.
def _bits(base: PadExpr, offset: int, kind: IntKind, first_bit: int) -> PadExpr:
    for size_bytes in SIZES:
        begin = offset // size_bytes * size_bytes
        shift = (offset - begin) * _BYTE_BITS + first_bit
        if shift + kind.bits <= size_bytes * _BYTE_BITS:
            return Extend(Compute(">>", Peek(base, begin, size_bytes), Imm(shift)), kind.bits, kind.signed)
    raise NotCompiled("a bit-field lies across two words")
