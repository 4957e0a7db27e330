"""drgn's types out of BTF, made when they are asked for; members and parameters only when they are looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import drgn

from fprobe_gdb.errors import TypeNotFound
from fprobe_gdb.kernel.btf import (
    ArrayType,
    Btf,
    CompoundType,
    EnumType,
    FloatType,
    ForwardType,
    FuncProto,
    FuncType,
    IntType,
    Member,
    Param,
    PointerType,
    QualifiedType,
    Type,
    TypedefType,
    VoidType,
)
from fprobe_gdb.kernel.btf.spelling import kernel_int_name
from fprobe_gdb.kernel.btf.types import MAX_DEPTH

__all__ = ["DrgnTypes"]

_QUALIFIERS = {
    "const": drgn.Qualifiers.CONST,
    "volatile": drgn.Qualifiers.VOLATILE,
    "restrict": drgn.Qualifiers.RESTRICT,
}
_TAGS = {
    drgn.TypeKind.STRUCT: "struct",
    drgn.TypeKind.UNION: "union",
    drgn.TypeKind.ENUM: "enum",
}
# An enumeration in C is compatible with an integer type, which BTF knows by size and sign only.
_ENUM_INTS = {1: "char", 2: "short", 4: "int", 8: "long"}


class DrgnTypes:
    """The types of one ``drgn.Program``: drgn's belong to the program that they are made for.

    :param btf: the kernel's.
    :param of_modules: those of each module that is loaded at this stop, with the kernel's below them.
    """

    def __init__(self, prog: drgn.Program, btf: Btf, of_modules: Callable[[], Iterable[Btf]] = tuple) -> None:
        self._prog = prog
        self._btf = btf
        self._of_modules = of_modules
        self._made: dict[Type, drgn.Type] = {}
        self._depth = 0

    def find(self, prog: drgn.Program, kinds: drgn.TypeKindSet, name: str, filename: str | None) -> drgn.Type | None:
        """A type finder for ``drgn.Program.register_type_finder()``.

        :raise TypeAmbiguous: several different types have this name.
        :raise BtfError: the type is damaged.
        """
        # BTF does not say which file a type is from.
        if filename is not None:
            return None
        return self._find(self._btf, kinds, name) or next(
            filter(None, (self._find(btf, kinds, name) for btf in self._of_modules())), None
        )

    def _find(self, btf: Btf, kinds: drgn.TypeKindSet, name: str) -> drgn.Type | None:
        for kind in kinds:
            try:
                found = self.drgn_type(btf.type(f"{_TAGS.get(kind, '')} {name}"))
            except TypeNotFound:
                continue
            if found.kind is kind:
                return found
        return None

    def drgn_type(self, of: Type) -> drgn.Type:
        """A type of BTF as drgn's.

        :raise BtfError: it is made of itself; damaged.
        """
        found = self._made.get(of)
        if found is None:
            self._depth += 1
            try:
                if self._depth > MAX_DEPTH:
                    raise of.table.error(f"type {of.id} is made of itself, or is nested too deeply; damaged")
                found = self._made[of] = self._make(of)
            finally:
                self._depth -= 1
        return found

    def _make(self, of: Type) -> drgn.Type:
        prog = self._prog
        match of:
            case IntType():
                name = kernel_int_name(of.name)
                if of.is_bool:
                    return prog.bool_type(name, of.size_bytes)
                return prog.int_type(name, of.size_bytes, of.is_signed)
            case FloatType():
                return prog.float_type(of.name, of.size_bytes)
            case PointerType():
                return prog.pointer_type(self.drgn_type(of.target))
            case TypedefType():
                return prog.typedef_type(of.name, self.drgn_type(of.target))
            case QualifiedType():
                return self._qualified(of)
            case ArrayType():
                # C's "int x[0]" and "int x[]" are the same in BTF.
                return prog.array_type(self.drgn_type(of.target), of.count or None)
            case CompoundType():
                make = prog.union_type if of.is_union else prog.struct_type
                return make(of.name or None, of.size_bytes, self._members(of))
            case EnumType():
                return self._enum(of)
            case ForwardType():
                make_name = {"struct": prog.struct_type, "union": prog.union_type, "enum": prog.enum_type}[of.keyword]
                return make_name(of.name)
            case FuncProto():
                parameters = [self._parameter(param) for param in of.params]
                return prog.function_type(self.drgn_type(of.return_type), parameters, of.is_variadic)
            case FuncType():
                return self.drgn_type(of.proto)
            case VoidType():
                return prog.void_type()
        raise of.table.error(f"type {of.id} ({of}) is no type of a value; damaged")

    # Tags such as __user and __rcu mean nothing to drgn.
    def _qualified(self, of: QualifiedType) -> drgn.Type:
        target = self.drgn_type(of.target)
        qualifier = _QUALIFIERS.get(of.qualifier)
        return target if qualifier is None else target.qualified(target.qualifiers | qualifier)

    def _enum(self, of: EnumType) -> drgn.Type:
        name = ("" if of.is_signed else "unsigned ") + _ENUM_INTS[of.size_bytes]
        compatible = self._prog.int_type(name, of.size_bytes, of.is_signed)
        values = [drgn.TypeEnumerator(name, value) for name, value in of.enumerators]
        return self._prog.enum_type(of.name or None, compatible, values)

    def _members(self, of: CompoundType) -> list[drgn.TypeMember]:
        last = of.members[-1] if of.members and not of.is_union else None
        return [self._member(member, member is last) for member in of.members]

    def _member(self, member: Member, is_last: bool) -> drgn.TypeMember:
        def make() -> drgn.Object | drgn.Type:
            kind = member.type.resolve()
            # Only a structure's last member can be an array without an end.
            if isinstance(kind, ArrayType) and not kind.count and not is_last:
                return self._prog.array_type(self.drgn_type(kind.target), 0)
            found = self.drgn_type(member.type)
            return drgn.Object(self._prog, found, bit_field_size=bits) if bits else found

        bits = member.bit_size
        return drgn.TypeMember(make, member.name or None, member.bit_offset)

    def _parameter(self, param: Param) -> drgn.TypeParameter:
        return drgn.TypeParameter(lambda: self.drgn_type(param.type), param.name or None)
