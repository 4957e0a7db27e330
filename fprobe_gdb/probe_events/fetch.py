"""Run compiled arguments at a hit: registers and memory to values (``process_fetch_insn()``, Linux 6.12)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fprobe_gdb.errors import MemoryFault
from fprobe_gdb.probe_events.argument import FetchArgument
from fprobe_gdb.probe_events.definition import EventDefinition
from fprobe_gdb.probe_events.program import Deref, FetchProgram, OpKind
from fprobe_gdb.registers import ARGUMENT_REGISTERS, MASK64

__all__ = ["STACK_BYTES", "CutText", "FetchContext", "Fetched", "entry_words", "fetch", "fetched", "text_of"]

_WORD_BYTES = 8
#: MAX_STRING_SIZE (PATH_MAX), with the NUL.
_MAX_STRING_BYTES = 4096
_CHUNK_BYTES = 256
_PAGE_BYTES = 4096
#: THREAD_SIZE of x86_64 without KASAN; stacks are aligned to it.
STACK_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class FetchContext:
    """A hit, as fetch programs see it.

    :param regs: ``struct pt_regs`` of the entry or of the exit, by name.
    :param read: (address, size in bytes) to bytes; raises MemoryFault.
    :param comm: name of the running task.
    :param entry_data: of a return probe, the words that :func:`entry_words` gave at entry.
    """

    regs: Mapping[str, int]
    read: Callable[[int, int], bytes]
    comm: Callable[[], str]
    entry_data: Sequence[int] = ()


class CutText(bytes):
    """Text that goes on, but its place has an end."""


def text_of(slot: bytes) -> str:
    """A string; of one that goes on, with dots behind."""
    return slot.decode(errors="backslashreplace") + ("..." if isinstance(slot, CutText) else "")


@dataclass(frozen=True, slots=True)
class Fetched:
    """An argument's value at one hit."""

    argument: FetchArgument
    #: One, or those of an array: what is in the record's slot (unsigned), or a string's bytes, None if unreadable.
    slots: tuple[int | bytes | None, ...]
    #: Something could not be read. Numbers are 0 then (the kernel shows what its ring buffer held there before).
    is_fault: bool

    @property
    def value(self) -> int | str | list[int | str | None] | None:
        """For people and filters: signed where the type is, text for strings, None for what could not be read."""
        if self.is_fault and not self.argument.count:
            return None
        found = [self._plain(slot) for slot in self.slots]
        return found if self.argument.count else found[0]

    def _plain(self, slot: int | bytes | None) -> int | str | None:
        if isinstance(slot, bytes):
            return text_of(slot)
        bits = self.argument.type.size_bytes * 8
        if slot is not None and self.argument.type.is_signed and slot >> (bits - 1):
            return slot - (1 << bits)
        return slot


def fetch(definition: EventDefinition, context: FetchContext, symbol_text: Callable[[int], str]) -> tuple[Fetched, ...]:
    """Values of all arguments of an event.

    :param symbol_text: address to ``name+0xoff/0xsize``, for symstr.
    """
    return tuple(_fetch_one(argument, context, symbol_text) for argument in definition.arguments)


def entry_words(definition: EventDefinition, context: FetchContext) -> tuple[int, ...]:
    """What a return probe has to keep at entry."""
    return tuple(_argument(context, number) for number in definition.entry_args)


def _fetch_one(argument: FetchArgument, context: FetchContext, symbol_text: Callable[[int], str]) -> Fetched:
    program = argument.program
    run = _Run(program, context)
    slots: list[int | bytes | None]
    if program.store is OpKind.ST_SYMSTR:
        slots = [None if (value := run.value()) is None else symbol_text(value).encode()]
    elif argument.type.is_string:
        slots = list(run.strings())
    else:
        slots = list(run.numbers())
    return fetched(argument, slots)


def fetched(argument: FetchArgument, slots: Sequence[int | bytes | None]) -> Fetched:
    """An argument's value, given what could be read of it."""
    is_fault = any(slot is None for slot in slots)
    if not argument.type.is_string:
        # DIFFERS: the kernel does not write the slot, and prints what was in its ring buffer.
        return Fetched(argument, tuple(0 if slot is None else slot for slot in slots), is_fault)
    return Fetched(argument, tuple(slots), is_fault)


class _Run:
    def __init__(self, program: FetchProgram, context: FetchContext) -> None:
        self._program = program
        self._context = context

    def value(self) -> int | None:
        return self._follow(self._source(), self._program.derefs)

    def numbers(self) -> Iterator[int | None]:
        program = self._program
        base = self.value()
        for number in range(program.count or 1):
            slot: int | None = base
            if base is not None and program.store is not OpKind.ST_RAW:
                slot = self._read(base + program.offset + number * program.size_bytes, program.size_bytes)
            yield None if slot is None else program.slot_of(slot)

    def strings(self) -> Iterator[bytes | None]:
        program = self._program
        if program.source.kind is OpKind.DATA:
            yield program.source.text.encode()
        elif program.source.kind is OpKind.COMM:
            yield self._context.comm().encode()
        elif program.count and program.derefs:
            # An array of pointers to strings: the last pointer is followed once for each.
            base = self._follow(self._source(), program.derefs[:-1])
            for number in range(program.count):
                at = None if base is None else self._read(base + program.derefs[-1].offset + number * _WORD_BYTES)
                yield None if at is None else self._string(at + program.offset)
        else:
            value = self.value()
            yield None if value is None else self._string(value + program.offset)
            # Of a number's "array" of strings the kernel cannot get at more than the first.
            yield from [None] * (program.count - 1)

    def _source(self) -> int:
        context, value = self._context, self._program.source.value
        match self._program.source.kind:
            case OpKind.ARG:
                return _argument(context, value)
            case OpKind.EDATA:
                return context.entry_data[value]
            case OpKind.RETVAL:
                return context.regs["ax"]
            case OpKind.STACK:
                return _stack_word(context, value)
            case OpKind.STACKP:
                return context.regs["sp"]
        return value

    def _follow(self, value: int, derefs: Sequence[Deref]) -> int | None:
        for deref in derefs:
            word = self._read(value + deref.offset)
            if word is None:
                return None
            value = word
        return value

    def _read(self, addr: int, size_bytes: int = _WORD_BYTES) -> int | None:
        try:
            return int.from_bytes(self._context.read(addr & MASK64, size_bytes), "little")
        except MemoryFault:
            return None

    # Up to the NUL. A fault before it makes all of it unreadable.
    def _string(self, addr: int) -> bytes | None:
        found = b""
        while len(found) < _MAX_STRING_BYTES:
            at = (addr + len(found)) & MASK64
            # Not into a page that is not needed, and may be missing.
            size_bytes = min(_CHUNK_BYTES, _PAGE_BYTES - at % _PAGE_BYTES)
            try:
                text, end, _ = self._context.read(at, size_bytes).partition(b"\0")
            except MemoryFault:
                return None
            found += text
            if end:
                break
        return found[: _MAX_STRING_BYTES - 1]


# regs_get_kernel_argument()
def _argument(context: FetchContext, number: int) -> int:
    if number < len(ARGUMENT_REGISTERS):
        return context.regs[ARGUMENT_REGISTERS[number]]
    return _stack_word(context, 1 + number - len(ARGUMENT_REGISTERS))


# regs_get_kernel_stack_nth(): 0 outside the stack.
def _stack_word(context: FetchContext, number: int) -> int:
    sp = context.regs["sp"]
    addr = (sp + number * _WORD_BYTES) & MASK64
    if addr // STACK_BYTES != sp // STACK_BYTES:
        return 0
    try:
        return int.from_bytes(context.read(addr, _WORD_BYTES), "little")
    except MemoryFault:
        return 0
