"""From probe events' fetch arguments to what pads fetch, and back from what they have fetched to values. Pure.

The values are those of :func:`fprobe_gdb.probe_events.fetch`, faults too. But text is cut at a bound, since records
have one size, and where the kernel has all memory mapped, a page that it has taken out of there (KFENCE) is read all
the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from fprobe_gdb.dispatch.trampoline.pad_expr import (
    Caller,
    Choose,
    Compare,
    Compute,
    Entered,
    Frame,
    Imm,
    Left,
    OrZero,
    PadExpr,
    Peek,
)
from fprobe_gdb.dispatch.trampoline.payload import Field, Items, Number, Payload, Place, Text, Value
from fprobe_gdb.errors import NotCompiled
from fprobe_gdb.probe_events import CutText, EventDefinition, FetchArgument, Fetched, fetched
from fprobe_gdb.probe_events.fetch import STACK_BYTES
from fprobe_gdb.probe_events.program import Deref, FetchProgram, OpKind
from fprobe_gdb.registers import ARGUMENT_REGISTERS, MASK64

__all__ = ["TEXT_BYTES", "FetchPlan", "plan_fetch"]

#: Room for each text in a record, with the zero byte: any file name has that (NAME_MAX, include/uapi/linux/limits.h).
# DIFFERS: the kernel's text can have 4,095 bytes.
TEXT_BYTES = 256
# With less, many a name would be cut.
_LEAST_TEXT_BYTES = 64
_WORD_BYTES = 8
_STACK_SHIFT = STACK_BYTES.bit_length() - 1
_OFFSETS = range(-(1 << 31), 1 << 31)


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """What a pad fetches for a definition."""

    definition: EventDefinition
    payload: Payload
    #: By argument, where what was fetched for it is.
    places: tuple[tuple[Place, ...], ...]

    def values(self, payload: bytes, comm: str, symbol_text: Callable[[int], str]) -> tuple[Fetched, ...]:
        """The arguments of a hit.

        :param payload: what the pad has fetched.
        :param comm: name of the task.
        :param symbol_text: address to ``name+0xoff/0xsize``, for symstr.
        """
        values = []
        for argument, places in zip(self.definition.arguments, self.places, strict=True):
            slots = [slot for place in places for slot in _slots(argument, place, payload, symbol_text)]
            values.append(fetched(argument, _whole(argument, slots, comm)))
        return tuple(values)


# What is in the slots that handlers would fill.
def _slots(argument: FetchArgument, place: Place, payload: bytes, symbol_text: Callable[[int], str]) -> Iterator[Value]:
    for value in place.decode(payload):
        if isinstance(value, bytes):
            yield CutText(value) if len(value) == place.field.room_bytes else value
        elif value is None:
            yield None
        elif argument.program.store is OpKind.ST_SYMSTR:
            yield symbol_text(value).encode()
        else:
            yield argument.program.slot_of(value)


# Where there is nothing to fetch, or less than there are slots.
def _whole(argument: FetchArgument, slots: list[Value], comm: str) -> list[Value]:
    match argument.program.source.kind:
        case OpKind.DATA:
            return [argument.program.source.text.encode()]
        case OpKind.COMM:
            return [comm.encode()]
    return slots + [None] * ((argument.count or 1) - len(slots))


def plan_fetch(definition: EventDefinition, room_bytes: int, reaches_memory: bool) -> FetchPlan:
    """What a pad has to fetch for a definition.

    :param room_bytes: how long the payload may be.
    :param reaches_memory: pads can follow pointers.
    :raise NotCompiled: pads cannot fetch it.
    """
    lowering = _Lowering(definition)
    fields = [list(lowering.fields(argument)) for argument in definition.arguments]
    every = [field for of_argument in fields for field in of_argument]
    if not reaches_memory and any(not isinstance(field, Number) or lowering.peeks for field in every):
        raise NotCompiled("an argument follows pointers, and pads have no window onto memory in this guest, or not yet")
    limit_bytes = _text_bytes(every, room_bytes)
    every = [Text(field.address, limit_bytes) if isinstance(field, Text) else field for field in every]
    payload = Payload(tuple(every))
    places = payload.places()
    return FetchPlan(definition, payload, tuple(tuple(islice(places, len(of_argument))) for of_argument in fields))


def _text_bytes(fields: Sequence[Field], room_bytes: int) -> int:
    texts = sum(isinstance(field, Text) for field in fields)
    others = Payload(tuple(Text(Imm(0), 0) if isinstance(field, Text) else field for field in fields))
    left_bytes = room_bytes - others.size_bytes
    if not texts and left_bytes >= 0:
        return 0
    limit_bytes = min(TEXT_BYTES, left_bytes // max(1, texts) & -_WORD_BYTES)
    if limit_bytes < _LEAST_TEXT_BYTES:
        raise NotCompiled("the arguments of a definition do not fit into a record")
    return limit_bytes


# One definition's arguments.
@dataclass(slots=True)
class _Lowering:
    definition: EventDefinition
    #: Whether something in memory is read.
    peeks: bool = False

    def fields(self, argument: FetchArgument) -> Iterator[Field]:
        program = argument.program
        if program.source.kind in (OpKind.DATA, OpKind.COMM):
            return
        if program.store in (OpKind.ST_STRING, OpKind.ST_USTRING):
            yield from (Text(address, 0) for address in self._texts(program))
        elif program.store in (OpKind.ST_MEM, OpKind.ST_UMEM) and program.count:
            yield Items(_moved(self._value(program), program.offset), program.size_bytes, program.count)
        elif program.store in (OpKind.ST_MEM, OpKind.ST_UMEM):
            yield Number(self._peek(self._value(program), program.offset, program.size_bytes))
        else:
            yield Number(self._value(program))

    # Where texts are. See fetch.py.
    def _texts(self, program: FetchProgram) -> Iterator[PadExpr]:
        if not (program.count and program.derefs):
            yield _moved(self._value(program), program.offset)
            return
        base, last = self._follow(self._source(program), program.derefs[:-1]), program.derefs[-1]
        for number in range(program.count):
            yield _moved(self._peek(base, last.offset + number * _WORD_BYTES), program.offset)

    def _value(self, program: FetchProgram) -> PadExpr:
        return self._follow(self._source(program), program.derefs)

    def _follow(self, value: PadExpr, derefs: Sequence[Deref]) -> PadExpr:
        for deref in derefs:
            value = self._peek(value, deref.offset)
        return value

    def _peek(self, base: PadExpr, offset: int, size_bytes: int = _WORD_BYTES) -> PadExpr:
        self.peeks = True
        if offset in _OFFSETS:
            return Peek(base, offset, size_bytes)
        return Peek(_moved(base, offset), 0, size_bytes)

    def _source(self, program: FetchProgram) -> PadExpr:
        value = program.source.value
        match program.source.kind:
            case OpKind.ARG:
                return self._argument(value)
            case OpKind.EDATA:
                number = self.definition.entry_args[value]
                if number >= len(ARGUMENT_REGISTERS):
                    raise NotCompiled("an argument on the stack would have to be kept for the return")
                return Entered(ARGUMENT_REGISTERS[number])
            case OpKind.RETVAL:
                return Left("ax")
            case OpKind.STACK:
                return self._stack_word(value)
            case OpKind.STACKP:
                return self._stack_pointer
        return Imm(value & MASK64)

    # regs_get_kernel_argument()
    def _argument(self, number: int) -> PadExpr:
        if number < len(ARGUMENT_REGISTERS):
            return Entered(ARGUMENT_REGISTERS[number])
        return self._stack_word(1 + number - len(ARGUMENT_REGISTERS))

    @property
    def _stack_pointer(self) -> PadExpr:
        return _moved(Frame(), _WORD_BYTES if self.definition.is_return else 0)

    # regs_get_kernel_stack_nth(): 0 outside the stack.
    def _stack_word(self, number: int) -> PadExpr:
        if not (number or self.definition.is_return):
            # The return address, which another probe may have replaced.
            return Caller()
        place = _moved(self._stack_pointer, number * _WORD_BYTES)
        stacks = [Compute(">>", pointer, Imm(_STACK_SHIFT)) for pointer in (place, self._stack_pointer)]
        word = OrZero(self._peek(place, 0))
        return Choose(Compare("==", stacks[0], stacks[1], False), word, Imm(0))


def _moved(base: PadExpr, offset: int) -> PadExpr:
    return Compute("+", base, Imm(offset & MASK64)) if offset else base
