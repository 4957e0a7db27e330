"""The types of fetch arguments (``probe_fetch_types`` of kernel/trace/trace_probe.c, Linux 6.12)."""

from __future__ import annotations

from dataclasses import dataclass

from fprobe_gdb.kernel.btf import EnumType, IntType, PointerType, Type
from fprobe_gdb.probe_events.numbers import NotANumber, kstrtoul

__all__ = ["DEFAULT_TYPE", "FetchType", "find_fetch_type", "name_of_btf_type"]

DEFAULT_TYPE = "x64"


@dataclass(frozen=True, slots=True)
class FetchType:
    """One type. Two arguments are of the same type only if the name is the same."""

    name: str
    #: Bytes in the record; strings have a 32-bit locator there.
    size_bytes: int
    is_signed: bool = False
    is_string: bool = False


_INTEGERS = [FetchType(f"{sign}{bits}", bits // 8, sign == "s") for sign in "usx" for bits in (8, 16, 32, 64)]
_STRINGS = [FetchType(name, 4, is_signed=True, is_string=True) for name in ("string", "ustring", "symstr")]
_TYPES = {known.name: known for known in [*_STRINGS, *_INTEGERS, FetchType("char", 1), FetchType("symbol", 8)]}


def find_fetch_type(name: str | None) -> FetchType | None:
    """The type of a name; a bit-field's is the unsigned one of its container. None for unknown ones."""
    name = DEFAULT_TYPE if name is None else name
    if name.startswith("b"):
        _, slash, container = name.partition("/")
        try:
            return _TYPES.get(f"u{kstrtoul(container)}") if slash else None
        except NotANumber:
            return None
    return _TYPES.get(name)


def name_of_btf_type(of: Type) -> str | None:
    """The type that an argument gets by its C type (``fetch_type_from_btf_type``); None leaves the default."""
    match of:
        case EnumType():
            return "s64" if of.size_bytes == 8 else "s32"
        case PointerType():
            return "x64"
        case IntType() if of.bit_size in (8, 16, 32, 64):
            return f"{'s' if of.is_signed else 'u'}{of.bit_size}"
        case IntType() if not of.is_signed:
            return "u64"
    return None
