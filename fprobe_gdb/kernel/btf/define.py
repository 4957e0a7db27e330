"""C text of whole definitions: structures, unions, enumerations, typedefs and functions, indented by tabs.

The text is meant to compile to the same layout on x86_64: where C's own rules would put a member elsewhere, the gap is
written out as nameless bit-fields, and structures that break the rules of alignment are ``__attribute__((packed))``.
"""

from __future__ import annotations

from fprobe_gdb.kernel.btf.declare import Budget, declaration
from fprobe_gdb.kernel.btf.layout import is_packed, paddings
from fprobe_gdb.kernel.btf.types import CompoundType, EnumType, ForwardType, Type, TypedefType

__all__ = ["definition"]


def definition(of: Type) -> str:
    """What :meth:`Type.c_definition` promises.

    :raise BtfError: damaged data.
    """
    budget = Budget(of)
    if isinstance(of, EnumType) and of.name and not of.enumerators:
        # Declared ahead, as GNU C allows; C has no enumeration without members.
        return f"enum {of.name};"
    if isinstance(of, (CompoundType, EnumType)):
        return _body(of, budget, of.name) + ";"
    if isinstance(of, TypedefType):
        return f"typedef {declaration(of.target, of.name, budget, _in_place)};"
    if isinstance(of, ForwardType):
        return f"{of.keyword} {of.name};"
    return f"{of};"


def _in_place(of: Type, budget: Budget) -> str:
    return _body(of, budget, "")


def _body(of: Type, budget: Budget, name: str) -> str:
    budget.spend()
    lines = _members(of, budget) if isinstance(of, CompoundType) else _enumerators(of)
    keyword = of.keyword if isinstance(of, CompoundType) else "enum"
    head = f"{keyword} {name} {{" if name else f"{keyword} {{"
    tail = " __attribute__((packed))" if isinstance(of, CompoundType) and is_packed(of) else ""
    if isinstance(of, EnumType) and of.size_bytes == 1:
        tail = " __attribute__((mode(byte)))"
    elif isinstance(of, EnumType) and of.size_bytes == 2:
        tail = " __attribute__((mode(HI)))"
    if not lines:
        return f"{head}}}{tail}"
    # A nested body brings lines of its own, which go one step further in.
    inside = "\n".join(lines).replace("\n", "\n\t")
    return f"{head}\n\t{inside}\n}}{tail}"


def _enumerators(of: Type) -> list[str]:
    assert isinstance(of, EnumType)
    suffix = ("LL" if of.is_signed else "ULL") if of.size_bytes == 8 else ""
    return [f"{name} = {value}{suffix}," for name, value in of.enumerators]


def _members(of: CompoundType, budget: Budget) -> list[str]:
    lines = []
    gaps = paddings(of)
    for member, before in zip((*of.members, None), gaps, strict=True):
        lines += [f"{filler};" for filler in before]
        if member is not None:
            width = f": {member.bit_size}" if member.is_bitfield else ""
            lines.append(f"{declaration(member.type, member.name, budget, _in_place)}{width};")
    return lines
