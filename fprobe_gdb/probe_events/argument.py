"""One fetch argument, ``[NAME=]BODY[:TYPE]``: text to a program (``traceprobe_parse_probe_arg()``, Linux 6.12)."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from fprobe_gdb.kernel.btf import ArrayType, IntType, PointerType, Type
from fprobe_gdb.probe_events.expression import ExpressionParser
from fprobe_gdb.probe_events.fetch_types import FetchType, find_fetch_type, name_of_btf_type
from fprobe_gdb.probe_events.numbers import NotANumber, kstrtouint, simple_strtoul
from fprobe_gdb.probe_events.probe_point import ProbePoint
from fprobe_gdb.probe_events.program import Bits, Deref, FetchProgram, Op, OpKind

__all__ = ["FetchArgument", "is_good_name", "parse_argument"]

_MAX_ARG_NAME_CHARS = 32
_MAX_ARG_CHARS = 63
_MAX_ARRAY_COUNT = 64
#: MAX_PROBE_EVENT_SIZE: all arguments' slots together.
_MAX_EVENT_BYTES = 3072
_RESERVED = (
    "common_type", "common_flags", "common_preempt_count", "common_pid", "common_tgid", "__probe_ip", "__probe_ret_ip",
    "__probe_func",
)  # fmt: skip
_GOOD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# What may stand before a store.
_VALUES_FOR_SYMSTR = {OpKind.STACK, OpKind.RETVAL, OpKind.ARG, OpKind.DEREF}
_VALUES_FOR_STRING = {OpKind.DEREF, OpKind.UDEREF, OpKind.IMM, OpKind.COMM, OpKind.DATA}
_POINTERS_THEMSELVES = {OpKind.IMM, OpKind.COMM, OpKind.DATA}
_DEREFS = (OpKind.DEREF, OpKind.UDEREF)


@dataclass(frozen=True, slots=True)
class FetchArgument:
    """A compiled argument."""

    name: str
    #: Body and type as ``dynamic_events`` shows them.
    body: str
    type: FetchType
    #: Elements of an array, 0 for none.
    count: int
    program: FetchProgram


def is_good_name(name: str) -> bool:
    """Whether it is a C identifier."""
    return _GOOD_NAME.fullmatch(name) is not None


def parse_argument(at: ProbePoint, word: str, number: int, others: Collection[FetchArgument]) -> FetchArgument:
    """Compile one word of a definition.

    :param number: of the argument, from 0.
    :param others: the arguments before it.
    :raise ProbeEventError: the kernel would not accept it.
    """
    name, equals, body = word.partition("=")
    if not equals:
        name, body = _name_of_body(word, number), word
    elif len(name) > _MAX_ARG_NAME_CHARS:
        raise at.log.error(0, "ARG_NAME_TOO_LONG")
    elif not name:
        raise at.log.error(0, "NO_ARG_NAME")
    if not is_good_name(name):
        raise at.log.error(0, "BAD_ARG_NAME")
    if name in _RESERVED or any(other.name == name for other in others):
        raise at.log.error(0, "USED_ARG_NAME")
    used_bytes = sum(other.type.size_bytes * (other.count or 1) for other in others)
    return _Argument(at, name, body, len(word) - len(body), used_bytes).parse()


# A variable's own name, else its position.
def _name_of_body(word: str, number: int) -> str:
    name = word.partition(":")[0]
    return name if is_good_name(name) else f"arg{number + 1}"


class _Argument:
    def __init__(self, at: ProbePoint, name: str, body: str, offset: int, used_bytes: int) -> None:
        self._at = at
        self._name = name
        self._body = body
        self._used_bytes = used_bytes
        self._expression = ExpressionParser(at, offset)
        self._count = 0
        # Where the type begins in the body.
        self._type_at = 0

    def parse(self) -> FetchArgument:
        if len(self._body) > _MAX_ARG_CHARS:
            raise self._error(0, "ARG_TOO_LONG", "E2BIG")
        if not self._body:
            raise self._error(0, "NO_ARG_BODY")
        text, type_name, fetch_type = self._split_type()
        self._expression.parse(text)
        if self._expression.last_type is not None:
            if type_name is None:
                fetch_type = self._type_by_btf(self._expression.last_type)
            elif "string" in type_name:
                self._follow_char_pointer(self._expression.last_type, type_name)
        if self._used_bytes + fetch_type.size_bytes * (self._count or 1) > _MAX_EVENT_BYTES:
            raise self._error(0, "EVENT_TOO_BIG", "E2BIG")
        program = self._finish(fetch_type, type_name)
        return FetchArgument(self._name, self._body, fetch_type, self._count, program)

    # Errors point at, or behind, what the expression parser has come to.
    def _error(self, offset: int, message_id: str, errno_name: str = "EINVAL") -> Exception:
        return self._at.log.error(self._expression.offset + offset, message_id, errno_name)

    def _split_type(self) -> tuple[str, str | None, FetchType]:
        text, colon, rest = self._body.partition(":")
        type_name: str | None = None
        if colon:
            self._type_at = len(text) + 1
            type_name = self._split_array(rest)
        # Neither can be in brackets, so that a look at the text is enough.
        if text in ("$comm", "$COMM") or text.startswith('\\"'):
            if self._count or type_name not in (None, "string"):
                raise self._error(self._type_at, "NEED_STRING_TYPE")
            fetch_type = find_fetch_type("string")
        else:
            fetch_type = find_fetch_type(type_name)
        if fetch_type is None:
            raise self._error(self._type_at, "BAD_TYPE")
        return text, type_name, fetch_type

    def _split_array(self, text: str) -> str:
        name, bracket, rest = text.partition("[")
        if not bracket:
            return name
        number_at = self._type_at + len(name) + 1
        number, closing, suffix = rest.partition("]")
        if not closing:
            raise self._error(number_at + len(rest), "ARRAY_NO_CLOSE")
        if suffix:
            raise self._error(number_at + len(number) + 1, "BAD_ARRAY_SUFFIX")
        try:
            count = kstrtouint(number)
        except NotANumber:
            count = 0
        if not count:
            raise self._error(number_at, "BAD_ARRAY_NUM")
        if count > _MAX_ARRAY_COUNT:
            raise self._error(number_at, "ARRAY_TOO_BIG")
        self._count = count
        return name

    def _type_by_btf(self, of: Type) -> FetchType:
        if isinstance(of, IntType) and not of.is_signed and of.bit_size not in (8, 16, 32, 64):
            # Bit-fields of old encoders, whose place is in their type.
            self._expression.last_bit_size = of.bit_size
            self._expression.last_bit_offset += of.bit_offset
        found = find_fetch_type(name_of_btf_type(of))
        assert found is not None
        return found

    # A string of an array of char is where the array is; that of a char pointer, where it points to.
    def _follow_char_pointer(self, of: Type, type_name: str) -> None:
        if isinstance(of, ArrayType) and _is_char(of.target):
            return
        if not (isinstance(of, PointerType) and _is_char(of.target)):
            raise self._error(0, "BAD_TYPE4STR")
        self._expression.push(Op(OpKind.UDEREF if type_name.startswith("u") else OpKind.DEREF))

    def _finish(self, fetch_type: FetchType, type_name: str | None) -> FetchProgram:
        last = self._expression.ops[-1]
        if fetch_type.is_string:
            store = self._string_store(fetch_type, last)
        elif last.kind in _DEREFS:
            store = self._replace_last(OpKind.ST_MEM if last.kind is OpKind.DEREF else OpKind.ST_UMEM)
        else:
            store = self._append(OpKind.ST_RAW)
        bits = self._bits(fetch_type, type_name)
        if self._count:
            if store.kind not in (OpKind.ST_MEM, OpKind.ST_STRING, OpKind.ST_USTRING):
                raise self._error(self._type_at, "BAD_STRING")
            self._append(OpKind.LP_ARRAY)
        return self._program(store, fetch_type, bits)

    def _string_store(self, fetch_type: FetchType, last: Op) -> Op:
        is_symstr = fetch_type.name == "symstr"
        if last.kind not in (_VALUES_FOR_SYMSTR if is_symstr else _VALUES_FOR_STRING):
            raise self._error(self._type_at, "BAD_SYMSTRING" if is_symstr else "BAD_STRING")
        if is_symstr:
            return self._append(OpKind.ST_SYMSTR)
        if last.kind in _POINTERS_THEMSELVES or self._count:
            # In an array each element is a pointer to a string.
            return self._append(OpKind.ST_USTRING if fetch_type.name == "ustring" else OpKind.ST_STRING)
        is_user = fetch_type.name == "ustring" or last.kind is OpKind.UDEREF
        return self._replace_last(OpKind.ST_USTRING if is_user else OpKind.ST_STRING)

    def _append(self, kind: OpKind) -> Op:
        self._expression.push(Op(kind))
        return self._expression.ops[-1]

    # The last pointer need not be followed where the store reads memory itself.
    def _replace_last(self, kind: OpKind) -> Op:
        self._expression.ops[-1] = Op(kind, self._expression.ops[-1].value)
        return self._expression.ops[-1]

    def _bits(self, fetch_type: FetchType, type_name: str | None) -> Bits | None:
        parser = self._expression
        if type_name is not None:
            if not type_name.startswith("b"):
                return None
            bits = _bitfield(type_name, fetch_type.size_bytes * 8)
            if bits is None:
                raise self._error(self._type_at, "BAD_BITFIELD")
        # As the kernel: a field of whole bytes is read as wide as its type.
        elif parser.last_type is None or (parser.last_bit_size % 8 == 0 and parser.last_bit_offset == 0):
            return None
        else:
            bits = Bits(parser.last_bit_offset, parser.last_bit_size)
        self._append(OpKind.MOD_BF)
        return bits

    def _program(self, store: Op, fetch_type: FetchType, bits: Bits | None) -> FetchProgram:
        before = self._expression.ops[: self._expression.ops.index(store)]
        derefs = [Deref(op.value, op.kind is OpKind.UDEREF) for op in before if op.kind in _DEREFS]
        source = before[0]
        return FetchProgram(source, tuple(derefs), store.kind, store.value, fetch_type.size_bytes, bits, self._count)


# As btf_type_is_char_ptr(): an unsigned integer of 8 bits, which char is in the kernel (-funsigned-char).
def _is_char(of: Type) -> bool:
    kind = of.resolve()
    return isinstance(kind, IntType) and not kind.is_signed and kind.bit_size == 8


# bWIDTH@OFFSET/CONTAINER
def _bitfield(text: str, container_bits: int) -> Bits | None:
    width, rest = simple_strtoul(text[1:])
    if not width or not rest.startswith("@"):
        return None
    offset, tail = simple_strtoul(rest[1:])
    if tail == rest[1:] or not tail.startswith("/") or width + offset > container_bits:
        return None
    return Bits(offset, width)
