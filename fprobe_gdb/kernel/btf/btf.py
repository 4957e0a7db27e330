"""The C types of a kernel or module, by name, out of its ``.BTF`` section."""

from __future__ import annotations

import builtins
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from fprobe_gdb.errors import BtfError, TypeAmbiguous, TypeNotFound
from fprobe_gdb.kernel.btf.decode import decode
from fprobe_gdb.kernel.btf.section import BtfSection, Kind
from fprobe_gdb.kernel.btf.spelling import parse_type, same_int_names
from fprobe_gdb.kernel.btf.types import (
    ArrayType,
    CompoundType,
    DatasecType,
    EnumType,
    ForwardType,
    FuncProto,
    FuncType,
    PointerType,
    QualifiedType,
    Type,
    TypedefType,
    VarType,
    VoidType,
)
from fprobe_gdb.kernel.image import KernelImage

__all__ = ["Btf", "Variable"]

_T = TypeVar("_T", bound=Type)
_SECTION = ".BTF"
_MAX_NEAR = 3
_NEAR_CUTOFF = 0.7
_NEAR_LENGTH_DIFFERENCE = 4


class Variable(NamedTuple):
    """A variable that the type information has: per-CPU variables, since Linux 6.15 others as well."""

    name: str
    type: Type
    #: ``.data..percpu``, ...
    section: str
    #: From the start of the section: for a per-CPU variable, what its symbol's address has above ``__per_cpu_start``.
    offset: int
    size_bytes: int


class Btf:
    """All types of a kernel, or of a kernel and one module. Made by :meth:`of_image` or :meth:`from_bytes`.

    Opening costs about 0.1 s for a distribution's kernel, a look-up by name about 1 ms; types are made when asked for.
    """

    def __init__(self, section: BtfSection) -> None:
        self._section = section
        self._types: dict[int, Type] = {0: VoidType(self, 0, "")}
        self._pointers: dict[Type, PointerType] = {}
        #: Where it came from, for messages.
        self.path = section.path
        section.prepare()

    @classmethod
    def of_image(cls, image: KernelImage) -> Btf:
        """The types of a kernel image.

        :raise BtfError: the image has none (built without ``CONFIG_DEBUG_INFO_BTF``), or they are damaged.
        """
        section = image.section(_SECTION)
        if section is None or not section.has_bytes:
            why = "has no type information (.BTF); the kernel was built without CONFIG_DEBUG_INFO_BTF"
            raise BtfError(image.path, why)
        return cls.from_bytes(image.section_bytes(section), image.path)

    @classmethod
    def from_bytes(cls, data: bytes, path: str = "BTF", base: Btf | None = None) -> Btf:
        """The types of a ``.BTF`` section's bytes, or of a file of ``/sys/kernel/btf``.

        :param base: the kernel's types, when ``data`` is a module's (split BTF); the result has them as well.
        :raise BtfError: they are damaged, truncated, or of a form that is not known.
        """
        return cls(BtfSection(data, path, base._section if base else None))

    def __len__(self) -> int:
        """How many types there are, ``void`` among them; the highest ID is one less."""
        return self._section.end_id

    def __iter__(self) -> Iterator[Type]:
        """All types in the order of their IDs. Takes seconds.

        :raise BtfError: one of them is damaged.
        """
        return map(self.by_id, range(len(self)))

    def __repr__(self) -> str:
        return f"Btf({len(self)} types of {self.path})"

    def error(self, why: str) -> BtfError:
        """An error about this section's data, to be raised."""
        return self._section.error(why)

    def by_id(self, type_id: int) -> Type:
        """The type of an ID.

        :raise BtfError: there is none, or it is damaged.
        """
        found = self._types.get(type_id)
        if found is None:
            found = self._types[type_id] = decode(self, self._section, type_id)
        return found

    def function(self, name: str) -> FuncProto:
        """The prototype of a function. Functions that the compiler changed or split are missing.

        :raise TypeNotFound: there is no such function, or its parameters are not what its source says.
        :raise TypeAmbiguous: several (static) functions of this name take different parameters.
        """
        return self._one(self.functions(name), f"function {name!r}", Kind.FUNC, str)

    def functions(self, name: str) -> tuple[FuncProto, ...]:
        """The prototypes of all functions of a name; where a module has one, the module's own."""
        found = self._named(name, Kind.FUNC, FuncType)
        own = tuple(one for one in found if one.id >= self._section.first_id)
        return tuple(one.proto for one in own or found)

    def struct(self, name: str) -> CompoundType:
        """A structure by its tag.

        :raise TypeNotFound: there is none, or only its name is known.
        :raise TypeAmbiguous: several different ones have this tag.
        """
        return self._one(self.structs(name), f"struct {name}", Kind.STRUCT, Type.c_definition)

    def structs(self, name: str) -> tuple[CompoundType, ...]:
        """All structures of a tag."""
        return self._named(name, Kind.STRUCT, CompoundType)

    def union(self, name: str) -> CompoundType:
        """A union by its tag. Errors as :meth:`struct`."""
        found = self._named(name, Kind.UNION, CompoundType)
        return self._one(found, f"union {name}", Kind.UNION, Type.c_definition)

    def enum(self, name: str) -> EnumType:
        """An enumeration by its tag. Errors as :meth:`struct`."""
        found = (*self._named(name, Kind.ENUM, EnumType), *self._named(name, Kind.ENUM64, EnumType))
        return self._one(found, f"enum {name}", Kind.ENUM, Type.c_definition)

    def enums(self) -> Iterator[EnumType]:
        """All enumerations, nameless ones too. Some 100 ms.

        :raise BtfError: one of them is damaged.
        """
        for kind in (Kind.ENUM, Kind.ENUM64):
            for type_id in self._section.ids_of(kind):
                found = self.by_id(type_id)
                if isinstance(found, EnumType):
                    yield found

    @cached_property
    def enumerators(self) -> Mapping[str, tuple[EnumType, ...]]:
        """The enumerations that have an enumerator, by its name. Some 100 ms at the first use.

        :raise BtfError: an enumeration is damaged.
        """
        found: dict[str, tuple[EnumType, ...]] = {}
        for enum in self.enums():
            for name, _ in enum.enumerators:
                found[name] = (*found.get(name, ()), enum)
        return MappingProxyType(found)

    def type(self, text: str) -> Type:
        """A type as C writes it: ``size_t``, ``struct file *``, ``unsigned long``, ``char [16]``; no function pointers.

        :raise TypeNotFound: its name is not known, or the text is no type.
        :raise TypeAmbiguous: its name stands for several different types.
        """
        spelling = parse_type(text)
        found = self._plain(spelling.tag, spelling.name)
        for suffix in spelling.suffixes:
            if suffix == "*":
                found = self.pointer_to(found)
            elif isinstance(suffix, int):
                found = ArrayType(self, 0, found, suffix)
            else:
                found = QualifiedType(self, 0, "", found, str(suffix))
        return found

    def pointer_to(self, target: Type) -> PointerType:
        """The type of a pointer to another type, whether the kernel has it or not."""
        found = self._pointers.get(target)
        if found is None:
            found = self._pointers[target] = PointerType(self, 0, "", target)
        return found

    @cached_property
    def vars(self) -> Mapping[str, Variable]:
        """All variables that the type information has, by name; of several of a name, the first. Under 10 ms.

        :raise BtfError: they are damaged.
        """
        found: dict[str, Variable] = {}
        for section_id in self._section.ids_of(Kind.DATASEC):
            section = self.by_id(section_id)
            assert isinstance(section, DatasecType)
            for type_id, offset, size_bytes in section.places:
                var = self.by_id(type_id)
                # Clang lists functions in sections too.
                if isinstance(var, VarType):
                    found.setdefault(var.name, Variable(var.name, var.target, section.name, offset, size_bytes))
        return MappingProxyType(found)

    def var(self, name: str) -> Variable:
        """One of :attr:`vars`.

        :raise TypeNotFound: there is none of this name.
        """
        found = self.vars.get(name)
        if found is None:
            raise TypeNotFound(f"variable {name!r}", difflib.get_close_matches(name, self.vars, _MAX_NEAR))
        return found

    def names(self, kind: int) -> set[str]:
        """The names of all types of a :class:`~fprobe_gdb.kernel.btf.section.Kind`. Some 50 ms.

        :raise BtfError: one of them is damaged.
        """
        section = self._section
        return {section.string(section.record(type_id).name_offset) for type_id in section.ids_of(kind)} - {""}

    # A type of one name: a tag's, a typedef, or one of the integers, which have several spellings.
    def _plain(self, tag: str, name: str) -> Type:
        if tag == "struct":
            return self._tagged(self.structs(name), tag, name) or self.struct(name)
        if tag == "union":
            return self._tagged(self._named(name, Kind.UNION, CompoundType), tag, name) or self.union(name)
        if tag == "enum":
            return self.enum(name)
        if name == "void":
            return self.by_id(0)
        found: tuple[Type, ...] = self._named(name, Kind.TYPEDEF, TypedefType)
        for spelling in () if found else same_int_names(name):
            found = found or (*self._named(spelling, Kind.INT, Type), *self._named(spelling, Kind.FLOAT, Type))
        return self._one(found, f"type {name!r}", Kind.TYPEDEF, Type.c_definition)

    # Pointers to a structure make sense where only its name is known.
    def _tagged(self, known: Iterable[CompoundType], tag: str, name: str) -> Type | None:
        if any(True for _ in known):
            return None
        forward = self._named(name, Kind.FWD, ForwardType)
        return next((found for found in forward if found.keyword == tag), None)

    def _named(self, name: str, kind: int, made: builtins.type[_T]) -> tuple[_T, ...]:
        section = self._section
        found = (self.by_id(type_id) for type_id in section.ids_named(name) if section.kind(type_id) == kind)
        return tuple(one for one in found if isinstance(one, made))

    def _one(self, found: Iterable[_T], what: str, kind: int, text: Callable[[_T], str]) -> _T:
        all_found = tuple(found)
        if len(all_found) == 1:
            return all_found[0]
        if not all_found:
            raise TypeNotFound(what, lambda: self._near(what, kind))
        # Encoders leave some types in several times, word for word the same.
        different = {text(one): one for one in reversed(all_found)}
        if len(different) > 1:
            choices = [f"type ID {one.id}: {written}" for written, one in different.items()]
            raise TypeAmbiguous(what, choices)
        return all_found[0]

    def _near(self, what: str, kind: int) -> list[str]:
        wanted = what.split(" ", 1)[-1].strip("'")
        alike = [name for name in self.names(kind) if abs(len(name) - len(wanted)) <= _NEAR_LENGTH_DIFFERENCE]
        alike = [name for name in alike if name[:2] == wanted[:2] or name[-3:] == wanted[-3:] or wanted in name]
        return difflib.get_close_matches(wanted, alike, _MAX_NEAR, _NEAR_CUTOFF)
