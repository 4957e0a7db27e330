"""A C value of the guest: a type and where its bytes are. Nothing is read before it is needed.

>>> file.f_path.dentry.d_name.name.string()  # doctest: +SKIP
'motd'

Rules:

1. A member access, an index or ``deref()`` follows pointers by itself, as C's ``->`` and ``[]`` do.
2. A pointer that leads nowhere gives a value that is a *fault*: it prints as ``(fault)`` and all that is reached
   through it is a fault too. Only asking it for a number raises :class:`~fprobe_gdb.errors.MemoryFault`.
3. A value is valid until the guest resumes; after that, reading raises :class:`~fprobe_gdb.errors.StaleValue`.
   :meth:`Value.copy` makes one that lasts.
4. Members named as a method of this class (``string``, ``cast``, ...) or as a word of Python (``class``) are reached as
   ``value["string"]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, overload

from fprobe_gdb.errors import ElementNotFound, MemberNotFound, MemoryFault, WrongType
from fprobe_gdb.kernel.btf import (
    ArrayType,
    Btf,
    CompoundType,
    EnumType,
    FuncProto,
    IntType,
    Member,
    PointerType,
    Type,
    VoidType,
)
from fprobe_gdb.kernel.values.arithmetic import Arithmetic
from fprobe_gdb.kernel.values.error_codes import error_code, error_name
from fprobe_gdb.kernel.values.memory import GuestMemory

if TYPE_CHECKING:
    from typing import Self

__all__ = ["FAULT", "Value"]

#: What ftrace prints for what it cannot read (kernel/trace/trace_probe.h).
FAULT = "(fault)"
_STRING_BYTES = 4096
_MASK64 = (1 << 64) - 1


class Value(Arithmetic):
    """A value of a C type, in guest memory (``addr``) or held by us (``data``). Exactly one of the two is given.

    :param bits: (first bit, width) within the bytes, for a bit-field.
    """

    __slots__ = ("_addr", "_bits", "_btf", "_data", "_epoch", "_fault", "_memory", "_type")

    def __init__(
        self,
        btf: Btf,
        memory: GuestMemory,
        type_: Type,
        addr: int | None = None,
        data: bytes | None = None,
        *,
        bits: tuple[int, int] | None = None,
        fault: MemoryFault | None = None,
        epoch: int | None = None,
    ) -> None:
        self._btf = btf
        self._memory = memory
        self._type = type_
        self._addr = None if addr is None else addr & _MASK64
        self._data = data
        self._bits = bits
        self._fault = fault
        self._epoch = memory.epoch if epoch is None else epoch

    @classmethod
    def of_int(cls, btf: Btf, memory: GuestMemory, type_: Type, number: int) -> Self:
        """A value of a scalar type out of a number, cut to the type's size."""
        size_bytes = type_.size_bytes
        return cls(btf, memory, type_, data=(number & ((1 << 8 * size_bytes) - 1)).to_bytes(size_bytes, "little"))

    # Section: what it is

    @property
    def type_(self) -> Type:
        """The C type that it was declared with."""
        return self._type

    @property
    def address_(self) -> int | None:
        """Where it is in guest memory; None for a value of a register, and for a fault."""
        return self._addr

    @property
    def fault_(self) -> MemoryFault | None:
        """Why it cannot be read, as far as that is known without reading it; None for others."""
        return self._fault

    # Section: raw contents

    def bytes_(self) -> bytes:
        """Its bytes as they are in memory; of a bit-field, the bytes that hold it. One exchange.

        :raise MemoryFault: it cannot be read.
        :raise StaleValue: the guest has run on.
        """
        if self._fault is not None:
            raise MemoryFault(self._fault.addr, self._fault.size_bytes) from None
        if self._data is not None:
            return self._data
        assert self._addr is not None
        return self._memory.read(self._addr, self._size_bytes(), self._epoch)

    def copy(self) -> Value:
        """The same value, read now, which stays valid when the guest runs on. What its pointers lead to does not.

        Of an unreadable value, a fault.
        """
        try:
            data = self.bytes_()
        except MemoryFault as fault:
            return self._derived(self._type, fault=fault)
        return self._derived(self._type, data=data, bits=self._bits)

    def __int__(self) -> int:
        """The number: of integers, characters, truth values, enumerations and pointers.

        :raise WrongType: it is a structure, an array, ...
        :raise MemoryFault: it cannot be read.
        """
        kind = self._type.resolve()
        if not isinstance(kind, (IntType, EnumType, PointerType)):
            raise WrongType(f"{self._type} is no number")
        number = int.from_bytes(self.bytes_(), "little")
        width = kind.size_bytes * 8
        if self._bits is not None:
            shift, width = self._bits
            number = number >> shift & ((1 << width) - 1)
        if isinstance(kind, IntType) and kind.is_bool and self._bits is None:
            return int(bool(number))
        is_signed = isinstance(kind, (IntType, EnumType)) and kind.is_signed
        return number - (1 << width) if is_signed and number >> (width - 1) else number

    def string(self, max_bytes: int = _STRING_BYTES) -> str:
        """The text that a ``char *`` points to, or that a character array holds, up to its zero byte.

        Bytes that are no UTF-8 come as ``\\xNN``. What cannot be read is the text ``(fault)``, as in ftrace.

        :raise WrongType: it is neither pointer nor array.
        """
        kind = self._type.resolve()
        try:
            if isinstance(kind, ArrayType) and self._addr is not None:
                limit_bytes = min(max_bytes, kind.size_bytes) if kind.count else max_bytes
                raw = self._memory.read_string(self._addr, limit_bytes, self._epoch)
            elif isinstance(kind, ArrayType):
                raw = self.bytes_()[:max_bytes].partition(b"\0")[0]
            elif isinstance(kind, PointerType):
                raw = self._memory.read_string(int(self), max_bytes, self._epoch)
            else:
                raise WrongType(f"{self._type} is no string; only pointers and arrays are")
        except MemoryFault:
            return FAULT
        return raw.decode("utf-8", "backslashreplace")

    # Section: names for numbers

    def enum_name(self) -> str | None:
        """The enumerator's name, None where the enumeration has none for the value.

        :raise WrongType: it is no enumeration.
        """
        kind = self._type.resolve()
        if not isinstance(kind, EnumType):
            raise WrongType(f"{self._type} is no enumeration")
        return kind.names.get(int(self))

    def error_name(self) -> str | None:
        """``"-ENOENT"`` for a negative error code or an ``ERR_PTR``; None for any other value."""
        kind = self._type.resolve()
        if not isinstance(kind, (IntType, PointerType)) or self._fault is not None:
            return None
        number = int(self)
        code = error_code(number) if isinstance(kind, PointerType) else number
        return error_name(code) if code is not None else None

    # Section: ways to other values

    def __getattr__(self, name: str) -> Value:
        # Python asks for protocols this way; the kernel has no member named so.
        if (name.startswith("__") and name.endswith("__")) or name in Value.__slots__:
            raise AttributeError(name)
        return self.member(name)

    @overload
    def __getitem__(self, index: str | int) -> Value: ...

    @overload
    def __getitem__(self, index: slice) -> list[Value]: ...

    def __getitem__(self, index: str | int | slice) -> Value | list[Value]:
        """``value["name"]``, ``value["a.b"]``, ``array[3]``, ``pointer[3]``, ``array[1:4]``.

        :raise MemberNotFound: no such member.
        :raise ElementNotFound: outside an array.
        """
        if isinstance(index, str):
            return self.member(index)
        if isinstance(index, slice):
            return [self._element(at) for at in self._range(index)]
        return self._element(index.__index__())

    def member(self, path: str) -> Value:
        """A member of the structure that this is or points to, by its C path.

        :raise MemberNotFound: no such member.
        :raise WrongType: it is no structure, nor a pointer to one.
        """
        owner = self.deref() if isinstance(self._type.resolve(), PointerType) else self
        compound = owner._type.resolve()
        if not isinstance(compound, CompoundType):
            raise MemberNotFound(path, f"{self._type}, which is no known structure,")
        found = compound.flat_members.get(path) or compound.find_member(path)
        return owner._part(found)

    def deref(self) -> Value:
        """What it points to; a fault if the pointer itself cannot be read. The target is not read yet.

        :raise WrongType: it is no pointer.
        """
        kind = self._type.resolve()
        if not isinstance(kind, PointerType):
            raise WrongType(f"{self._type} is no pointer")
        try:
            return self._derived(kind.target, addr=int(self))
        except MemoryFault as fault:
            return self._derived(kind.target, fault=fault)

    def address_of(self) -> Value:
        """A pointer to it, C's ``&``.

        :raise WrongType: it is not in memory, or is a bit-field.
        """
        if self._fault is not None:
            return self._derived(self._btf.pointer_to(self._type), fault=self._fault)
        if self._addr is None or self._bits is not None:
            what = "a bit-field" if self._bits is not None else "not in guest memory"
            raise WrongType(f"this {self._type} is {what} and has no address")
        return self._number(self._btf.pointer_to(self._type), self._addr)

    def cast(self, to: Type | str) -> Value:
        """The number or pointer as another type, as C's cast; an array or a structure in memory, seen as another type.

        :param to: a type, or C text such as ``struct inode *``.
        """
        wanted = self._btf.type(to) if isinstance(to, str) else to
        if self._fault is not None:
            return self._derived(wanted, fault=self._fault)
        if not isinstance(self._type.resolve(), (IntType, EnumType, PointerType)):
            if self._addr is not None:
                return self._derived(wanted, addr=self._addr)
            raise WrongType(f"a {self._type} that is not in guest memory cannot become {wanted}")
        if not isinstance(wanted.resolve(), (IntType, EnumType, PointerType)):
            raise WrongType(f"{self._type} cannot become {wanted}; cast to a pointer to it, then deref()")
        try:
            return self._number(wanted, int(self))
        except MemoryFault as fault:
            return self._derived(wanted, fault=fault)

    def container_of(self, container: Type | str, member: str) -> Value:
        """The structure around the member that this pointer points to, as a pointer; the kernel's ``container_of()``.

        :param container: ``struct inode``, or the type.
        :param member: its C path in there: ``i_lru``.
        :raise MemberNotFound: no such member.
        """
        outer = self._btf.type(container) if isinstance(container, str) else container
        compound = outer.resolve()
        if not isinstance(compound, CompoundType):
            raise WrongType(f"{outer} is no structure or union")
        offset = compound.find_member(member).byte_offset
        pointer = self if isinstance(self._type.resolve(), PointerType) else self.address_of()
        try:
            return self._number(self._btf.pointer_to(outer), int(pointer) - offset)
        except MemoryFault as fault:
            return self._derived(self._btf.pointer_to(outer), fault=fault)

    # Section: Python's protocols

    def __len__(self) -> int:
        """The number of an array's elements.

        :raise WrongType: it is no array.
        """
        return self._array().count

    def __iter__(self) -> Iterator[Value]:
        """An array's elements.

        :raise WrongType: it is no array.
        """
        return map(self._element, range(self._array().count))

    def __dir__(self) -> list[str]:
        kind = self._type.resolve()
        kind = kind.target.resolve() if isinstance(kind, PointerType) else kind
        members = kind.flat_members if isinstance(kind, CompoundType) else ()
        return sorted({*super().__dir__(), *members})

    def __str__(self) -> str:
        """The value without its type: ``13``, ``0xffff888005cf9a80 "motd"``, ``{.len = 4, ...}``, ``(fault)``."""
        from fprobe_gdb.kernel.values.text import one_line

        return one_line(self)

    def __repr__(self) -> str:
        return f"({self._type}){self}"

    def dump(self) -> str:
        """The whole value as indented C, one member a line. One exchange, and one for each string."""
        from fprobe_gdb.kernel.values.text import indented

        return indented(self)

    def __format__(self, spec: str) -> str:
        """As ``int`` for specs that ask for a number (``x``, ``d``, ...), else as the text; a fault is ``(fault)``."""
        if not spec or spec[-1] not in "bcdoxX":
            return format(str(self), spec)
        try:
            return format(int(self), spec)
        except MemoryFault:
            return FAULT

    # Section: parts

    def _size_bytes(self) -> int:
        if self._bits is not None:
            return (self._bits[0] + self._bits[1] + 7) // 8
        return self._type.size_bytes

    def _derived(
        self,
        type_: Type,
        addr: int | None = None,
        data: bytes | None = None,
        bits: tuple[int, int] | None = None,
        fault: MemoryFault | None = None,
    ) -> Value:
        return Value(self._btf, self._memory, type_, addr, data, bits=bits, fault=fault, epoch=self._epoch)

    def _number(self, type_: Type, number: int) -> Value:
        size_bytes = type_.size_bytes
        kind = type_.resolve()
        if isinstance(kind, IntType) and kind.is_bool:
            number = int(bool(number))
        return self._derived(type_, data=(number & ((1 << 8 * size_bytes) - 1)).to_bytes(size_bytes, "little"))

    def _part(self, member: Member) -> Value:
        bits = (member.bit_offset % 8, member.bit_size) if member.is_bitfield else None
        return self._piece(member.type, member.byte_offset, bits)

    # What is at an offset from our start: in memory, or within the bytes that we hold.
    def _piece(self, type_: Type, offset: int, bits: tuple[int, int] | None = None) -> Value:
        if self._fault is not None:
            return self._derived(type_, fault=self._fault)
        if self._addr is not None:
            return self._derived(type_, addr=self._addr + offset, bits=bits)
        assert self._data is not None
        size_bytes = (bits[0] + bits[1] + 7) // 8 if bits else type_.size_bytes
        data = self._data[offset : offset + size_bytes]
        if len(data) < size_bytes or offset < 0:
            # Behind the end of what was copied: an array without a known end, or damaged types.
            return self._derived(type_, fault=MemoryFault(offset, size_bytes))
        return self._derived(type_, data=data, bits=bits)

    def _array(self) -> ArrayType:
        kind = self._type.resolve()
        if not isinstance(kind, ArrayType):
            raise WrongType(f"{self._type} is no array")
        return kind

    def _element(self, index: int) -> Value:
        kind = self._type.resolve()
        if isinstance(kind, PointerType):
            target = self.deref()
            return target if not index else target._piece(kind.target, index * kind.target.size_bytes)
        array = self._array()
        at = index + array.count if index < 0 else index
        # A count of 0 is an array whose end is known only to the kernel's code.
        if at < 0 or (array.count and at >= array.count):
            raise ElementNotFound(f"{self._type} has no [{index}]")
        return self._piece(array.target, at * array.target.size_bytes)

    def _range(self, wanted: slice) -> range:
        kind = self._type.resolve()
        if isinstance(kind, ArrayType) and kind.count:
            return range(*wanted.indices(kind.count))
        if wanted.stop is None or (wanted.start or 0) < 0 or wanted.stop < 0:
            raise ElementNotFound(f"{self._type} has no known end; give the slice both ends")
        return range(wanted.start or 0, wanted.stop, wanted.step or 1)

    # Pointer arithmetic for Arithmetic: a pointer some elements further on.
    def _advanced(self, elements: int) -> Value | None:
        kind = self._type.resolve()
        if not isinstance(kind, PointerType):
            return None
        step = 1 if isinstance(kind.target.resolve(), (VoidType, FuncProto)) else kind.target.size_bytes
        return self._number(self._type, int(self) + elements * step)

    def _distance(self, other: Any) -> int | None:
        kind = self._type.resolve()
        if not isinstance(kind, PointerType) or not isinstance(other, Value):
            return None
        if not isinstance(other._type.resolve(), PointerType):
            return None
        step = 1 if isinstance(kind.target.resolve(), (VoidType, FuncProto)) else kind.target.size_bytes
        return (int(self) - int(other)) // (step or 1)
