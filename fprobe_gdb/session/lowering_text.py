"""Tests of text, as pads can do them: whether memory begins with certain bytes. Pure.

Text is compared as bytes. That is the same as comparing what typed values make of them, as long as no backslash is in
it: bytes that are no UTF-8 are told as ``\\xNN`` there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from fprobe_gdb.dispatch.trampoline.pad_expr import AnyOf, Imm, Not, PadExpr, StartsWith
from fprobe_gdb.errors import NotCompiled
from fprobe_gdb.expr import typed
from fprobe_gdb.expr.typed import Typed
from fprobe_gdb.probe.glob import MatchType, parse_filter

__all__ = ["Known", "Stored", "Subject", "test"]


class Subject(Protocol):
    """Text that is tested."""

    def equals(self, text: str) -> PadExpr:
        """Whether it is this text."""
        ...

    def begins(self, text: str) -> PadExpr:
        """Whether it begins with this text."""
        ...


@dataclass(frozen=True, slots=True)
class Known:
    """Text that is the same for all calls."""

    text: str

    def equals(self, text: str) -> PadExpr:
        """See :class:`Subject`."""
        return Imm(int(self.text == text))

    def begins(self, text: str) -> PadExpr:
        """See :class:`Subject`."""
        return Imm(int(self.text.startswith(text)))


@dataclass(frozen=True, slots=True)
class Stored:
    """Text in memory, up to a zero byte.

    :param limit_bytes: or so long at most.
    :param kept: the memory is always there.
    """

    base: PadExpr
    offset: int
    limit_bytes: int
    kept: bool

    def equals(self, text: str) -> PadExpr:
        """See :class:`Subject`."""
        return self._test(text, b"\0" * (len(text.encode()) < self.limit_bytes))

    def begins(self, text: str) -> PadExpr:
        """See :class:`Subject`."""
        return self._test(text, b"")

    def _test(self, text: str, end: bytes) -> PadExpr:
        data = text.encode()
        if b"\\" in data:
            raise NotCompiled("a text with a backslash may stand for other bytes")
        if len(data) > _MOST_BYTES:
            raise NotCompiled(f"a text is longer than {_MOST_BYTES} bytes")
        if b"\0" in data or len(data) > self.limit_bytes:
            return Imm(0)
        return StartsWith(self.base, self.offset, data + end, self.kept)


# Each eight are four instructions in a pad.
_MOST_BYTES = 256


def test(node: Typed, subject: Callable[[Typed], Subject]) -> PadExpr:
    """A test of text.

    :param subject: what a text is, or where.
    :raise NotCompiled: pads cannot do it.
    """
    match node:
        case typed.Compare(operator=operator):
            equal = _equal(node, subject)
            return equal if operator == "==" else Not(equal)
        case typed.AnyOf(operand=operand, items=items):
            among = subject(operand)
            return AnyOf(tuple(among.equals(item) for item in sorted(map(str, items))))
        case typed.StartsWith(operand=operand, prefix=typed.Const(value=str(prefix))):
            return subject(operand).begins(prefix)
        case typed.Glob(operand=operand, pattern=pattern):
            return _glob(subject(operand), pattern)
    raise NotCompiled("a text is compared with one that is no constant")


def _equal(node: typed.Compare, subject: Callable[[Typed], Subject]) -> PadExpr:
    match node:
        case typed.Compare(left=left, right=typed.Const(value=str(text))):
            return subject(left).equals(text)
        case typed.Compare(left=typed.Const(value=str(text)), right=right):
            return subject(right).equals(text)
    raise NotCompiled("a text is compared with one that is no constant")


def _glob(subject: Subject, pattern: str) -> PadExpr:
    parsed = parse_filter(pattern)
    match parsed.type:
        case MatchType.FULL:
            found = subject.equals(parsed.search)
        case MatchType.FRONT_ONLY:
            found = subject.begins(parsed.search)
        case _:
            raise NotCompiled(f"the pattern {pattern!r} is more than the beginning of a text")
    return Not(found) if parsed.negated else found
