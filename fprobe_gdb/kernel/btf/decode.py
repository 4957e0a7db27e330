"""One record of a BTF section as a :class:`~fprobe_gdb.kernel.btf.types.Type`."""

from __future__ import annotations

from collections.abc import Callable

from fprobe_gdb.kernel.btf.members import Member
from fprobe_gdb.kernel.btf.section import BtfSection, Kind, Record
from fprobe_gdb.kernel.btf.types import (
    ArrayType,
    CompoundType,
    DatasecType,
    DeclTagType,
    EnumType,
    FloatType,
    ForwardType,
    FuncProto,
    FuncType,
    IntType,
    Param,
    PointerType,
    QualifiedType,
    Type,
    TypedefType,
    TypeTable,
    VarType,
)

__all__ = ["decode"]

_QUALIFIERS = {Kind.CONST: "const", Kind.VOLATILE: "volatile", Kind.RESTRICT: "restrict"}
# include/linux/compiler_types.h (Linux 6.12) makes these tags out of the kernel's own words.
_KNOWN_TAGS = frozenset(("user", "percpu", "rcu", "kptr", "kptr_untrusted", "percpu_kptr", "uptr"))
_INT_SIZES = (1, 2, 4, 8, 16)
_ENUM_SIZES = (1, 2, 4, 8)
_FLOAT_SIZES = (2, 4, 8, 10, 12, 16)
_SIGN_BIT = 1 << 31


def decode(table: TypeTable, section: BtfSection, type_id: int) -> Type:
    """The type of a record.

    :raise BtfError: the record makes no sense.
    """
    record = section.record(type_id)
    return _DECODERS[record.kind](table, section, type_id, record)


def _int(table: TypeTable, section: BtfSection, type_id: int, record: Record) -> Type:
    _check_size(section, type_id, record.size_or_type, _INT_SIZES)
    found = IntType(table, type_id, section.string(record.name_offset), record.size_or_type, record.extra[0])
    if not found.bit_size or found.bit_offset + found.bit_size > record.size_or_type * 8:
        raise section.error(f"integer type {type_id} has {found.bit_size} bits in {record.size_or_type} bytes; damaged")
    return found


def _float(table: TypeTable, section: BtfSection, type_id: int, record: Record) -> Type:
    _check_size(section, type_id, record.size_or_type, _FLOAT_SIZES)
    return FloatType(table, type_id, section.string(record.name_offset), record.size_or_type)


def _pointer(table: TypeTable, section: BtfSection, type_id: int, record: Record) -> Type:
    return PointerType(table, type_id, "", record.size_or_type)


def _typedef(table: TypeTable, section: BtfSection, type_id: int, record: Record) -> Type:
    return TypedefType(table, type_id, section.string(record.name_offset), record.size_or_type)


def _qualified(table: TypeTable, section: BtfSection, type_id: int, record: Record) -> Type:
    return QualifiedType(table, type_id, "", record.size_or_type, _QUALIFIERS[record.kind])


# Since v6.15 kind_flag says that the tag is an attribute's own text, not the argument of btf_type_tag().
def _type_tag(table: TypeTable, section: BtfSection, type_id: int, record: Record) -> Type:
    tag = section.string(record.name_offset)
    if record.kind_flag:
        written = f"__attribute__(({tag}))"
    else:
        written = f"__{tag}" if tag in _KNOWN_TAGS else f'__attribute__((btf_type_tag("{tag}")))'
    return QualifiedType(table, type_id, tag, record.size_or_type, written)


def _array(table: TypeTable, section: BtfSection, type_id: int, record: Record) -> Type:
    element_id, _index_id, count = record.extra
    return ArrayType(table, type_id, element_id, count)


def _compound(table: TypeTable, section: BtfSection, type_id: int, record: Record) -> Type:
    words = iter(record.extra)
    members = []
    for name_offset, member_id, place in zip(words, words, words, strict=True):
        # With kind_flag the upper byte is a bit-field's width, 0 for others.
        bit_offset, bit_size = (place & 0xFFFFFF, place >> 24) if record.kind_flag else (place, None)
        members.append(Member(table, section.string(name_offset), member_id, bit_offset, bit_size))
        if bit_offset + (bit_size or 0) > record.size_or_type * 8:
            raise section.error(f"type {type_id} has a member behind its end; damaged")
    name = section.string(record.name_offset)
    return CompoundType(table, type_id, name, record.size_or_type, record.kind == Kind.UNION, tuple(members))


def _enum(table: TypeTable, section: BtfSection, type_id: int, record: Record) -> Type:
    name = section.string(record.name_offset)
    if not record.vlen and record.size_or_type == 0:
        return ForwardType(table, type_id, name, "enum")
    _check_size(section, type_id, record.size_or_type, _ENUM_SIZES)
    words = iter(record.extra)
    values = []
    if record.kind == Kind.ENUM64:
        for name_offset, low, high in zip(words, words, words, strict=True):
            values.append((section.string(name_offset), _value(low | high << 32, 64, record.kind_flag)))
    else:
        for name_offset, low in zip(words, words, strict=True):
            values.append((section.string(name_offset), _value(low, 32, record.kind_flag)))
    return EnumType(table, type_id, name, record.size_or_type, record.kind_flag, tuple(values))


def _value(word: int, bits: int, is_signed: bool) -> int:
    return word - (1 << bits) if is_signed and word >> (bits - 1) else word


def _forward(table: TypeTable, section: BtfSection, type_id: int, record: Record) -> Type:
    keyword = "union" if record.kind_flag else "struct"
    return ForwardType(table, type_id, section.string(record.name_offset), keyword)


def _func(table: TypeTable, section: BtfSection, type_id: int, record: Record) -> Type:
    found = FuncType(table, type_id, section.string(record.name_offset), record.size_or_type)
    found.linkage = record.vlen
    return found


def _func_proto(table: TypeTable, section: BtfSection, type_id: int, record: Record) -> Type:
    words = iter(record.extra)
    pairs = list(zip(words, words, strict=True))
    # A last parameter without name and type is the "..." of C.
    is_variadic = bool(pairs) and pairs[-1] == (0, 0)
    params = tuple(
        Param(table, 0, section.string(name_offset), param_id)
        for name_offset, param_id in (pairs[:-1] if is_variadic else pairs)
    )
    return FuncProto(table, type_id, "", record.size_or_type, params, is_variadic)


def _var(table: TypeTable, section: BtfSection, type_id: int, record: Record) -> Type:
    return VarType(table, type_id, section.string(record.name_offset), record.size_or_type)


def _datasec(table: TypeTable, section: BtfSection, type_id: int, record: Record) -> Type:
    words = iter(record.extra)
    places = tuple(zip(words, words, words, strict=True))
    return DatasecType(table, type_id, section.string(record.name_offset), record.size_or_type, places)


def _decl_tag(table: TypeTable, section: BtfSection, type_id: int, record: Record) -> Type:
    found = DeclTagType(table, type_id, section.string(record.name_offset), record.size_or_type)
    component = record.extra[0]
    found.component = component - (1 << 32) if component & _SIGN_BIT else component
    return found


def _check_size(section: BtfSection, type_id: int, size_bytes: int, known: tuple[int, ...]) -> None:
    if size_bytes not in known:
        raise section.error(f"type {type_id} has a size of {size_bytes} bytes; damaged")


_DECODERS: dict[int, Callable[[TypeTable, BtfSection, int, Record], Type]] = {
    Kind.INT: _int,
    Kind.PTR: _pointer,
    Kind.ARRAY: _array,
    Kind.STRUCT: _compound,
    Kind.UNION: _compound,
    Kind.ENUM: _enum,
    Kind.FWD: _forward,
    Kind.TYPEDEF: _typedef,
    Kind.VOLATILE: _qualified,
    Kind.CONST: _qualified,
    Kind.RESTRICT: _qualified,
    Kind.FUNC: _func,
    Kind.FUNC_PROTO: _func_proto,
    Kind.VAR: _var,
    Kind.DATASEC: _datasec,
    Kind.FLOAT: _float,
    Kind.DECL_TAG: _decl_tag,
    Kind.TYPE_TAG: _type_tag,
    Kind.ENUM64: _enum,
}
