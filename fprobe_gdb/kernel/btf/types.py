"""C types as BTF describes them: frozen, made when first needed, and knowing each other only through their IDs.

A type is made by its :class:`TypeTable` and is the same object each time. Types that a caller writes down but the
kernel does not have (``struct foo *`` where no pointer to foo exists) are made beside the table and have the ID 0.

Nothing here loops or recurses without a bound: damaged BTF can hold cycles.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from fprobe_gdb.errors import BtfError, WrongType

if TYPE_CHECKING:
    from fprobe_gdb.kernel.btf.members import Member

__all__ = [
    "ArrayType",
    "CompoundType",
    "DatasecType",
    "DeclTagType",
    "EnumType",
    "FloatType",
    "ForwardType",
    "FuncProto",
    "FuncType",
    "IntType",
    "Param",
    "PointerType",
    "QualifiedType",
    "Type",
    "TypeTable",
    "TypedefType",
    "VarType",
    "VoidType",
]

#: As the kernel's own MAX_RESOLVE_DEPTH (kernel/bpf/btf.c, Linux 6.12) of 32, and some more.
MAX_DEPTH = 64
POINTER_BYTES = 8


class TypeTable(Protocol):
    """Who makes types out of IDs: :class:`~fprobe_gdb.kernel.btf.btf.Btf`."""

    def by_id(self, type_id: int) -> Type:
        """The type of an ID; ``void`` for 0."""
        ...

    def error(self, why: str) -> BtfError:
        """An error about this table's data, to be raised."""
        ...


class Type:
    """A C type. ``str()`` gives its C name, such as ``struct file *``."""

    def __init__(self, table: TypeTable, type_id: int, name: str) -> None:
        self.table = table
        #: BTF type ID; 0 for ``void`` and for types that are not in the section.
        self.id = type_id
        #: "" where it has none.
        self.name = name

    @property
    def size_bytes(self) -> int:
        """What ``sizeof`` gives.

        :raise WrongType: for types without a size: functions, and structures of which only the name is known.
        """
        raise WrongType(f"{self} has no size")

    def resolve(self) -> Type:
        """The type behind typedefs, ``const``, ``volatile``, ``restrict`` and type tags.

        :raise BtfError: they form a cycle.
        """
        found: Type = self
        for _ in range(MAX_DEPTH):
            if not isinstance(found, (TypedefType, QualifiedType)):
                return found
            found = found.target
        raise self.table.error(f"type {self.id} is a typedef of itself, or is nested too deeply; damaged")

    def c_text(self, name: str = "") -> str:
        """C text of the type, or of a declaration of ``name`` with it: ``char *argv[4]``."""
        from fprobe_gdb.kernel.btf.declare import declaration

        return declaration(self, name)

    def c_definition(self) -> str:
        """The whole definition, indented as ``bpftool btf dump ... format c`` does it, without a last newline."""
        from fprobe_gdb.kernel.btf.define import definition

        return definition(self)

    def __str__(self) -> str:
        return self.c_text()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}: {self}>"


class VoidType(Type):
    """``void``. Its size is 1, as in the kernel's C (GNU C) with its pointer arithmetic."""

    @property
    def size_bytes(self) -> int:
        """1."""
        return 1


class IntType(Type):
    """An integer, character or truth type."""

    def __init__(self, table: TypeTable, type_id: int, name: str, size_bytes: int, encoding: int) -> None:
        super().__init__(table, type_id, name)
        self._size_bytes = size_bytes
        flags = encoding >> 24 & 0x0F
        self.is_signed = bool(flags & 1)
        self.is_bool = bool(flags & 4) or name == "_Bool"
        #: Old encoders leave the flag for characters unset; C's name for the type does as well.
        self.is_char = bool(flags & 2) or (size_bytes == 1 and name in ("char", "signed char", "unsigned char"))
        #: Where the value starts in its bytes, and how many bits it has: bit-fields of old encoders.
        self.bit_offset = encoding >> 16 & 0xFF
        self.bit_size = encoding & 0xFF

    @property
    def size_bytes(self) -> int:
        """1, 2, 4, 8 or 16."""
        return self._size_bytes


class FloatType(Type):
    """A floating-point type; kernels have next to none."""

    def __init__(self, table: TypeTable, type_id: int, name: str, size_bytes: int) -> None:
        super().__init__(table, type_id, name)
        self._size_bytes = size_bytes

    @property
    def size_bytes(self) -> int:
        """4, 8, 12 or 16."""
        return self._size_bytes


# A type that is made of another one, which is looked up when needed.
class _Derived(Type):
    def __init__(self, table: TypeTable, type_id: int, name: str, target: int | Type) -> None:
        super().__init__(table, type_id, name)
        self._target = target

    @property
    def target(self) -> Type:
        """The type that this one is made of.

        :raise BtfError: it does not exist, or is none: a variable or a section.
        """
        found = self.table.by_id(self._target) if isinstance(self._target, int) else self._target
        # So no circle goes through a variable: what follows types has a bound, what asks a variable has none.
        if isinstance(found, (VarType, DatasecType)) and not isinstance(self, DeclTagType):
            raise self.table.error(f"type {self.id} is made of {found.id}, which is no type; damaged")
        return found


class PointerType(_Derived):
    """A pointer to :attr:`target`."""

    @property
    def size_bytes(self) -> int:
        """8: only 64-bit kernels are read."""
        return POINTER_BYTES


class TypedefType(_Derived):
    """A name for :attr:`target`."""

    @property
    def size_bytes(self) -> int:
        """That of the type behind it."""
        return self.resolve().size_bytes


class QualifiedType(_Derived):
    """:attr:`target` with ``const``, ``volatile``, ``restrict``, or a tag such as ``user`` (``__user``)."""

    def __init__(self, table: TypeTable, type_id: int, name: str, target: int | Type, qualifier: str) -> None:
        super().__init__(table, type_id, name, target)
        #: As it is written in C: ``const``, ``volatile``, ``restrict``, ``__user``, ``__rcu``, ...
        self.qualifier = qualifier

    @property
    def size_bytes(self) -> int:
        """That of the type behind it."""
        return self.resolve().size_bytes


class ArrayType(_Derived):
    """``count`` elements of type :attr:`target`; a count of 0 is an array without a known end."""

    def __init__(self, table: TypeTable, type_id: int, target: int | Type, count: int) -> None:
        super().__init__(table, type_id, "", target)
        self.count = count

    @cached_property
    def size_bytes(self) -> int:
        """All elements together.

        :raise BtfError: it is an array of itself.
        """
        found, count = self.target.resolve(), self.count
        for _ in range(MAX_DEPTH):
            if not isinstance(found, ArrayType):
                return count * found.size_bytes
            count *= found.count
            found = found.target.resolve()
        raise self.table.error(f"type {self.id} is an array of itself, or is nested too deeply; damaged")


class CompoundType(Type):
    """A structure or union; see :mod:`fprobe_gdb.kernel.btf.members` for what can be asked about members."""

    def __init__(
        self, table: TypeTable, type_id: int, name: str, size_bytes: int, is_union: bool, members: tuple[Member, ...]
    ) -> None:
        super().__init__(table, type_id, name)
        self._size_bytes = size_bytes
        self.is_union = is_union
        #: In the order of the source; anonymous ones have the name "".
        self.members = members

    @property
    def keyword(self) -> str:
        """``struct`` or ``union``."""
        return "union" if self.is_union else "struct"

    @property
    def size_bytes(self) -> int:
        """With all padding."""
        return self._size_bytes

    def find_member(self, path: str) -> Member:
        """A member by its C path (``f_path.dentry``, ``waiters[2].next``), through anonymous members as in C.

        Its offset is that from the start of this type.

        :raise MemberNotFound: there is no such member; the error has the nearest names.
        :raise WrongType: a part of the path is no structure or array, such as a pointer.
        """
        from fprobe_gdb.kernel.btf.members import find_member

        return find_member(self, path)

    @cached_property
    def flat_members(self) -> Mapping[str, Member]:
        """All members that C reaches by a single name, those of anonymous members too."""
        from fprobe_gdb.kernel.btf.members import flat_members

        return flat_members(self)


class ForwardType(Type):
    """A structure or union of which only the name is known."""

    def __init__(self, table: TypeTable, type_id: int, name: str, keyword: str) -> None:
        super().__init__(table, type_id, name)
        #: ``struct`` or ``union``, or ``enum`` for an enumeration without members.
        self.keyword = keyword


class EnumType(Type):
    """An enumeration."""

    def __init__(
        self,
        table: TypeTable,
        type_id: int,
        name: str,
        size_bytes: int,
        is_signed: bool,
        enumerators: tuple[tuple[str, int], ...],
    ) -> None:
        super().__init__(table, type_id, name)
        self._size_bytes = size_bytes
        self.is_signed = is_signed
        #: (name, value) in the order of the source.
        self.enumerators = enumerators

    @property
    def size_bytes(self) -> int:
        """1, 2, 4 or 8."""
        return self._size_bytes

    @cached_property
    def values(self) -> Mapping[str, int]:
        """Value by name."""
        return dict(self.enumerators)

    @cached_property
    def names(self) -> Mapping[int, str]:
        """Name by value; the first where several have one value."""
        return {value: name for name, value in reversed(self.enumerators)}


class Param(_Derived):
    """One parameter of a function: ``name`` ("" where none is known) and :attr:`type`."""

    @property
    def type(self) -> Type:
        """The type that it is declared with.

        :raise BtfError: it does not exist.
        """
        return self.target

    def __str__(self) -> str:
        return self.type.c_text(self.name)


class FuncProto(Type):
    """What a function takes and returns. ``name`` is that of the function, or "" for a mere type."""

    def __init__(
        self, table: TypeTable, type_id: int, name: str, returns: int, params: tuple[Param, ...], is_variadic: bool
    ) -> None:
        super().__init__(table, type_id, name)
        self._returns = returns
        self.params = params
        #: Whether ``...`` follows the parameters.
        self.is_variadic = is_variadic

    @property
    def return_type(self) -> Type:
        """What it returns; ``void`` for nothing.

        :raise BtfError: it does not exist.
        """
        return self.table.by_id(self._returns)

    def named(self, name: str) -> FuncProto:
        """The same with a function's name."""
        return FuncProto(self.table, self.id, name, self._returns, self.params, self.is_variadic)

    def __str__(self) -> str:
        """The C declaration, without a semicolon: ``ssize_t vfs_read(struct file *file, ...)``."""
        return self.c_text(self.name)


class FuncType(_Derived):
    """A function: a name and a prototype."""

    linkage = 0

    @property
    def proto(self) -> FuncProto:
        """Its prototype, with its name.

        :raise BtfError: it has none.
        """
        found = self.target
        if not isinstance(found, FuncProto):
            raise self.table.error(f"function {self.name!r} has type {self._target}, which is no prototype; damaged")
        return found.named(self.name)

    def __str__(self) -> str:
        return str(self.proto)


class VarType(_Derived):
    """A variable: a name and :attr:`target`, its type."""

    @property
    def size_bytes(self) -> int:
        """That of its type."""
        return self.target.size_bytes

    def __str__(self) -> str:
        return self.target.c_text(self.name)


class DeclTagType(_Derived):
    """A remark of the source about another type, or about one of its members or parameters."""

    #: Index of the member or parameter, -1 for the whole.
    component = -1

    def __str__(self) -> str:
        return f"btf_decl_tag({self.name!r})"


class DatasecType(Type):
    """A data section: which variables are where in it."""

    def __init__(
        self, table: TypeTable, type_id: int, name: str, size_bytes: int, places: tuple[tuple[int, int, int], ...]
    ) -> None:
        super().__init__(table, type_id, name)
        self._size_bytes = size_bytes
        #: (type ID of the variable, offset, size in bytes).
        self.places = places

    @property
    def size_bytes(self) -> int:
        """Of the whole section."""
        return self._size_bytes

    def __str__(self) -> str:
        return f"section {self.name}"
