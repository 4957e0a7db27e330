"""A call's arguments and return value by the function's C prototype: the System V ABI for x86_64.

Integers and pointers come in ``di si dx cx r8 r9``, further ones on the stack behind the return address. A structure of
up to 16 bytes takes one or two registers if enough are left; larger ones, and what does not fit, lie on the stack. A
structure of more than 16 bytes is returned through a hidden first parameter. Floating-point registers cannot be read
through a kernel's ``pt_regs``: such values are *unsupported* faults, and the kernel has none.

The prototype says what the source declares. Where the compiler dropped or merged parameters of a static function
(``.isra``, ``.constprop``), no prototype can be right; pahole leaves such functions out of BTF since v1.25.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import overload

from fprobe_gdb.errors import ElementNotFound, MemberNotFound, MemoryFault
from fprobe_gdb.kernel.btf import ArrayType, Btf, CompoundType, FloatType, FuncProto, Type, VoidType
from fprobe_gdb.kernel.btf.layout import align_bytes, is_packed
from fprobe_gdb.kernel.values.memory import GuestMemory
from fprobe_gdb.kernel.values.value import Value
from fprobe_gdb.registers import ARGUMENT_REGISTERS

__all__ = ["ArgumentPlace", "Arguments", "argument_places", "arguments", "return_value"]

_WORD_BYTES = 8
_MOST_REGISTER_BYTES = 16
_MASK64 = (1 << 64) - 1


class Arguments(Mapping[str, Value]):
    """The arguments of one call, by name (``args.file``, ``args["file"]``) and by number from 0 (``args[0]``).

    Nameless parameters are ``arg1``, ``arg2``, ... as in the kernel's probe events.
    """

    def __init__(self, proto: FuncProto, values: tuple[Value, ...]) -> None:
        self._proto = proto
        self._values = values
        self._by_name = {
            param.name or f"arg{number}": value
            for number, (param, value) in enumerate(zip(proto.params, values, strict=True), 1)
        }

    @property
    def proto_(self) -> FuncProto:
        """The prototype that they were read by."""
        return self._proto

    @overload
    def __getitem__(self, key: str | int) -> Value: ...

    @overload
    def __getitem__(self, key: slice) -> tuple[Value, ...]: ...

    def __getitem__(self, key: str | int | slice) -> Value | tuple[Value, ...]:
        """One by name or number, several by slice.

        :raise MemberNotFound: no parameter of this name.
        :raise ElementNotFound: not so many parameters.
        """
        if isinstance(key, str):
            found = self._by_name.get(key)
            if found is None:
                near = difflib.get_close_matches(key, self._by_name)
                raise MemberNotFound(key, f"{self._proto.name or 'the function'}()", near)
            return found
        try:
            return self._values[key]
        except IndexError:
            raise ElementNotFound(f"{self._proto} has {len(self._values)} parameters; there is no [{key}]") from None

    def __getattr__(self, name: str) -> Value:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._values)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._by_name})

    def __str__(self) -> str:
        """``file=0xffff888005cf9a80, count=4096``."""
        return ", ".join(f"{name}={value}" for name, value in self._by_name.items())

    def __repr__(self) -> str:
        return f"{self._proto.name}({self})"


@dataclass(frozen=True, slots=True)
class ArgumentPlace:
    """Where a call has one of its arguments: in registers, or on the stack behind those before it."""

    type: Type
    #: Empty for one on the stack.
    registers: tuple[str, ...]
    #: On the stack: the 64-bit words that it takes, and what its address is a multiple of.
    words: int = 0
    align_bytes: int = _WORD_BYTES
    #: False for one in a floating-point register, which has neither.
    supported: bool = True


def argument_places(proto: FuncProto) -> list[ArgumentPlace]:
    """The places of a function's arguments, in their order."""
    registers = list(ARGUMENT_REGISTERS)
    if _is_in_memory(proto.return_type):
        registers.pop(0)
    return [_place(param.type, registers) for param in proto.params]


# Takes the registers that are needed out of the list.
def _place(of: Type, registers: list[str]) -> ArgumentPlace:
    kind = of.resolve()
    size_bytes = kind.size_bytes
    if isinstance(kind, FloatType) or (size_bytes <= _MOST_REGISTER_BYTES and _has_float(kind)):
        return ArgumentPlace(of, (), supported=False)
    words = -(-size_bytes // _WORD_BYTES)
    if not _is_in_memory(kind) and words <= len(registers):
        return ArgumentPlace(of, tuple(registers.pop(0) for _ in range(words)))
    return ArgumentPlace(of, (), words, max(_WORD_BYTES, align_bytes(kind)))


def arguments(btf: Btf, proto: FuncProto, regs: Mapping[str, int], memory: GuestMemory) -> Arguments:
    """The arguments of a call, seen at the function's entry (its ftrace location): ``sp`` is at the return address.

    Nothing is read before a value is used.
    """
    # Behind the return address.
    stack_addr = regs["sp"] + _WORD_BYTES
    values = []
    for place in argument_places(proto):
        if not place.supported:
            values.append(_unsupported(btf, memory, place.type))
        elif place.registers or not place.words:
            data = b"".join((regs[name] & _MASK64).to_bytes(_WORD_BYTES, "little") for name in place.registers)
            values.append(Value(btf, memory, place.type, data=data[: place.type.resolve().size_bytes]))
        else:
            addr = -(-stack_addr // place.align_bytes) * place.align_bytes
            stack_addr = addr + place.words * _WORD_BYTES
            values.append(Value(btf, memory, place.type, addr=addr))
    return Arguments(proto, tuple(values))


def return_value(btf: Btf, proto: FuncProto, regs: Mapping[str, int], memory: GuestMemory) -> Value | None:
    """What a call returned, seen right after its return; None for ``void``.

    A structure returned through memory is read where ``ax`` says. Of a ``bool`` only the low 8 bits of ``ax`` count.
    """
    kind = proto.return_type.resolve()
    if isinstance(kind, VoidType):
        return None
    if isinstance(kind, FloatType) or _has_float(kind):
        return _unsupported(btf, memory, proto.return_type)
    if _is_in_memory(kind):
        return Value(btf, memory, proto.return_type, addr=regs["ax"])
    words = b"".join((regs[name] & _MASK64).to_bytes(_WORD_BYTES, "little") for name in ("ax", "dx"))
    return Value(btf, memory, proto.return_type, data=words[: kind.size_bytes])


# Class MEMORY of the ABI: too large for two registers, or with members that are not aligned.
def _is_in_memory(of: Type) -> bool:
    kind = of.resolve()
    if not isinstance(kind, CompoundType):
        return False
    return kind.size_bytes > _MOST_REGISTER_BYTES or is_packed(kind)


def _has_float(of: Type) -> bool:
    waiting = [of.resolve()]
    seen: set[Type] = set()
    for found in waiting:
        if isinstance(found, FloatType):
            return True
        if found in seen:
            continue
        seen.add(found)
        if isinstance(found, CompoundType):
            waiting += [member.type.resolve() for member in found.members]
        elif isinstance(found, ArrayType):
            waiting.append(found.target.resolve())
    return False


def _unsupported(btf: Btf, memory: GuestMemory, of: Type) -> Value:
    return Value(btf, memory, of, fault=MemoryFault(0, of.size_bytes))
