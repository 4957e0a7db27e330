"""Members, elements, and what pointers lead to."""

from __future__ import annotations

from fprobe_gdb.errors import WrongType
from fprobe_gdb.expr.context import Context
from fprobe_gdb.expr.kinds import IntKind, ObjectKind, PointerKind, kind_of
from fprobe_gdb.expr.names import near
from fprobe_gdb.expr.syntax import Index, Member, Unary
from fprobe_gdb.expr.typed import Const, Deref, Element, MemberPlace, Typed
from fprobe_gdb.kernel.btf import ArrayType, CompoundType, ForwardType, Type, VoidType

__all__ = ["deref", "element", "member"]


def member(ctx: Context, base: Typed, node: Member) -> Typed:
    """``base.name``; the base is a structure or points to one."""
    owner = _pointed_at(base)
    compound = owner.resolve() if owner else None
    if not isinstance(compound, CompoundType):
        raise ctx.error(f"{_what(base)} has no members{_why(compound)}", node.column)
    found = compound.flat_members.get(node.name)
    if found is None:
        raise ctx.error(f"{owner} has no member {node.name!r}", node.column, near(node.name, compound.flat_members))
    kind, first_bit = kind_of(found.type, found.bit_size), found.bit_offset % 8
    return MemberPlace(kind, base, node.name, found.byte_offset, first_bit, found.is_bitfield)


def element(ctx: Context, base: Typed, index: Typed, node: Index) -> Typed:
    """``base[index]`` of an array or pointer."""
    if not isinstance(index.kind, IntKind):
        raise ctx.error("an index is an integer", node.index.column)
    if isinstance(base.kind, PointerKind):
        kind, target = _target_kind(ctx, base, node.base.column), base.kind.target
        assert target is not None
        return Element(kind, base, index, target.size_bytes)
    array = base.kind.type.resolve() if isinstance(base.kind, ObjectKind) else None
    if not isinstance(array, ArrayType):
        raise ctx.error(f"{_what(base)} is neither array nor pointer", node.base.column)
    at = index.value if isinstance(index, Const) and isinstance(index.value, int) else 0
    # A count of 0 is an array whose end is known only to the kernel's code.
    if at < 0 or (array.count and at >= array.count):
        raise ctx.error(f"{base.kind} has no [{at}]", node.index.column)
    return Element(kind_of(array.target), base, index, array.target.size_bytes)


def deref(ctx: Context, base: Typed, node: Unary) -> Typed:
    """``*base``."""
    if not isinstance(base.kind, PointerKind):
        raise ctx.error(f"{_what(base)} is no pointer", node.column)
    return Deref(_target_kind(ctx, base, node.column), base)


def _target_kind(ctx: Context, base: Typed, column: int) -> IntKind | PointerKind | ObjectKind:
    target = base.kind.target if isinstance(base.kind, PointerKind) else None
    try:
        is_void = target is None or isinstance(target.resolve(), VoidType) or target.size_bytes < 0
    except WrongType:
        is_void = True
    if target is None or is_void:
        raise ctx.error(f"{_what(base)} points to nothing of a known type; try cast(POINTER, 'struct X *')", column)
    found = kind_of(target)
    assert isinstance(found, (IntKind, PointerKind, ObjectKind))
    return found


def _pointed_at(base: Typed) -> Type | None:
    if isinstance(base.kind, PointerKind):
        return base.kind.target
    return base.kind.type if isinstance(base.kind, ObjectKind) else None


def _what(base: Typed) -> str:
    return str(base.kind)


def _why(found: Type | None) -> str:
    if isinstance(found, ForwardType):
        return ": the kernel's types have only its name"
    if isinstance(found, VoidType):
        return '; tell its type with cast(POINTER, "struct X *")'
    return ""
