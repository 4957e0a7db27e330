"""What a record holds beside the call itself: numbers and text that its pad fetches. Pure.

::

    0       a byte for each value: 1 where it could not be read
    then    the values, in whole words: numbers, or text with the zero byte at its end

Room that a pad does not write stays zero, as the host leaves it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fprobe_gdb.dispatch.trampoline.pad_expr import PadExpr

__all__ = ["Field", "Items", "Number", "Payload", "Place", "Text", "Value"]

_WORD_BYTES = 8

#: A number (as wide as it was asked for), text without the zero byte, or None where it could not be read.
Value = int | bytes | None


@dataclass(frozen=True, slots=True)
class Field:
    """Base of all that a pad fetches."""

    @property
    def values(self) -> int:
        """How many values that is."""
        return 1

    @property
    def room_bytes(self) -> int:
        """Size of their place."""
        return _WORD_BYTES

    @property
    def expr(self) -> PadExpr:
        """What is evaluated for it."""
        raise NotImplementedError

    def values_in(self, data: bytes) -> Iterator[int | bytes]:
        """The values, given their place."""
        yield int.from_bytes(data, "little")


@dataclass(frozen=True, slots=True)
class Number(Field):
    """A word."""

    number: PadExpr

    @property
    def expr(self) -> PadExpr:
        """See :class:`Field`."""
        return self.number


@dataclass(frozen=True, slots=True)
class Items(Field):
    """Numbers in memory, one behind the other; each may be unreadable by itself.

    :param size_bytes: of each: 1, 2, 4 or 8.
    """

    address: PadExpr
    size_bytes: int
    count: int

    @property
    def values(self) -> int:
        """See :class:`Field`."""
        return self.count

    @property
    def room_bytes(self) -> int:
        """See :class:`Field`."""
        return _whole_words(self.size_bytes * self.count)

    @property
    def expr(self) -> PadExpr:
        """See :class:`Field`."""
        return self.address

    def values_in(self, data: bytes) -> Iterator[int | bytes]:
        """See :class:`Field`."""
        for begin in range(0, self.size_bytes * self.count, self.size_bytes):
            yield int.from_bytes(data[begin : begin + self.size_bytes], "little")


@dataclass(frozen=True, slots=True)
class Text(Field):
    """Text in memory, up to a zero byte; of text that is longer than its place, what fits in there.

    :param limit_bytes: size of its place, a multiple of 8.
    """

    address: PadExpr
    limit_bytes: int

    @property
    def room_bytes(self) -> int:
        """See :class:`Field`."""
        return self.limit_bytes

    @property
    def expr(self) -> PadExpr:
        """See :class:`Field`."""
        return self.address

    def values_in(self, data: bytes) -> Iterator[int | bytes]:
        """See :class:`Field`."""
        yield data.partition(b"\0")[0]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a field is in the payload.

    :param flags: offset of its bytes that say what could not be read.
    :param values: offset of its values.
    """

    field: Field
    flags: int
    values: int

    def decode(self, payload: bytes) -> tuple[Value, ...]:
        """The field's values."""
        field, flags = self.field, payload[self.flags : self.flags + self.field.values]
        values = field.values_in(payload[self.values : self.values + field.room_bytes])
        if any(flags):
            return tuple(None if flag else value for value, flag in zip(values, flags, strict=True))
        return tuple(values)


@dataclass(frozen=True, slots=True)
class Payload:
    """All that a pad fetches for a call."""

    fields: tuple[Field, ...]

    @property
    def size_bytes(self) -> int:
        """Size in the record, a multiple of 8."""
        return self._flag_bytes + sum(field.room_bytes for field in self.fields)

    @property
    def _flag_bytes(self) -> int:
        return _whole_words(sum(field.values for field in self.fields))

    def places(self) -> Iterator[Place]:
        """Where each field is."""
        flags, values = 0, self._flag_bytes
        for field in self.fields:
            yield Place(field, flags, values)
            flags += field.values
            values += field.room_bytes

    def decode(self, data: bytes) -> list[tuple[Value, ...]]:
        """The values of each field."""
        return [place.decode(data) for place in self.places()]


def _whole_words(size_bytes: int) -> int:
    return -(-size_bytes // _WORD_BYTES) * _WORD_BYTES
