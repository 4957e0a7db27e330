"""Members and elements by address: offsets are known from the check, so that a hit costs additions and reads only.

Following ``file->f_path.dentry->d_name.name`` so takes a fifth of the time of four steps from value to value. Only what
is held in registers (arguments, the return value) or came by value goes through :class:`Value`.
"""

from __future__ import annotations

from collections.abc import Callable

from fprobe_gdb.errors import ElementNotFound
from fprobe_gdb.expr.hit import HitScope
from fprobe_gdb.expr.kinds import IntKind, ObjectKind, PointerKind, wrap
from fprobe_gdb.expr.typed import Const, Deref, Element, MemberPlace, Typed
from fprobe_gdb.kernel.btf import ArrayType

__all__ = ["Number", "address", "load", "load_string"]

Number = Callable[[HitScope], int]
_POINTER_BITS = 64
_BYTE_BITS = 8
#: As much of a string as is read at most.
_STRING_BYTES = 4096


def address(node: Typed, number: Callable[[Typed], Number]) -> Number | None:
    """A closure for the address of a place; None where it is not sure to be in memory.

    :param number: makes closures of int and pointer nodes.
    """
    match node:
        case Deref(base=base) if isinstance(base.kind, PointerKind):
            return number(base)
        case MemberPlace(base=base, offset_bytes=offset):
            start = _start(base, number)
            return None if start is None else _moved(start, offset)
        case Element(base=base):
            start = _start(base, number)
            return None if start is None else _element(node, start, number)
    return None


def load(node: Typed, at: Number) -> Number:
    """A closure for the number at an address, of an int or pointer node."""
    kind = node.kind
    if isinstance(node, MemberPlace) and node.is_bitfield:
        assert isinstance(kind, IntKind)
        return _bits(at, kind, node.first_bit)
    is_signed = isinstance(kind, IntKind) and kind.signed
    size_bytes = (kind.bits if isinstance(kind, IntKind) else _POINTER_BITS) // _BYTE_BITS
    from_bytes = int.from_bytes
    if isinstance(kind, IntKind) and kind.is_bool:
        return lambda hit: int(any(hit.memory.read(at(hit), size_bytes, hit.epoch)))
    if is_signed:
        return lambda hit: from_bytes(hit.memory.read(at(hit), size_bytes, hit.epoch), "little", signed=True)
    return lambda hit: from_bytes(hit.memory.read(at(hit), size_bytes, hit.epoch), "little")


def load_string(node: Typed, at: Number, max_bytes: int | None) -> Callable[[HitScope], str]:
    """A closure for the text at an address.

    :param node: what holds or points to the text; an array bounds it.
    """
    limit_bytes = max_bytes or _STRING_BYTES
    array = node.kind.type.resolve() if isinstance(node.kind, ObjectKind) else None
    if isinstance(array, ArrayType) and array.count:
        limit_bytes = min(limit_bytes, array.size_bytes)

    def read(hit: HitScope) -> str:
        return hit.memory.read_string(at(hit), limit_bytes, hit.epoch).decode("utf-8", "backslashreplace")

    return read


# Where that begins of which a member or an element is taken.
def _start(base: Typed, number: Callable[[Typed], Number]) -> Number | None:
    return number(base) if isinstance(base.kind, PointerKind) else address(base, number)


def _moved(start: Number, offset: int) -> Number:
    return (lambda hit: start(hit) + offset) if offset else start


def _element(node: Element, start: Number, number: Callable[[Typed], Number]) -> Number:
    size_bytes = node.size_bytes
    if isinstance(node.index, Const) and isinstance(node.index.value, int):
        return _moved(start, node.index.value * size_bytes)
    index = number(node.index)
    array = node.base.kind.type.resolve() if isinstance(node.base.kind, ObjectKind) else None
    count = array.count if isinstance(array, ArrayType) else 0
    if array is None:
        return lambda hit: start(hit) + index(hit) * size_bytes

    def at(hit: HitScope) -> int:
        chosen = index(hit)
        # A count of 0 is an array whose end is known only to the kernel's code.
        if chosen < 0 or (count and chosen >= count):
            raise ElementNotFound(f"{array} has no [{chosen}]")
        return start(hit) + chosen * size_bytes

    return at


def _bits(at: Number, kind: IntKind, first_bit: int) -> Number:
    size_bytes = (first_bit + kind.bits + _BYTE_BITS - 1) // _BYTE_BITS

    def read(hit: HitScope) -> int:
        number = int.from_bytes(hit.memory.read(at(hit), size_bytes, hit.epoch), "little")
        return wrap(number >> first_bit, kind)

    return read
