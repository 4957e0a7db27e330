"""Tests of text, as pads can do them: whether memory begins with certain bytes. Pure.

Text is compared as bytes. That is the same as comparing what typed values make of them, as long as no backslash is in
it: bytes that are no UTF-8 are told as ``\\xNN`` there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fprobe_gdb.dispatch.trampoline.pad_expr import AnyOf, Imm, Not, PadExpr, StartsWith, Task
from fprobe_gdb.errors import NotCompiled
from fprobe_gdb.expr import typed
from fprobe_gdb.expr.names import Scope
from fprobe_gdb.expr.typed import Typed
from fprobe_gdb.probe.glob import MatchType, parse_filter

__all__ = ["test"]

_COMM_BYTES = 16


def test(node: Typed, scope: Scope, comm: int | None) -> PadExpr:
    """A test of text.

    :param comm: where ``struct task_struct`` has ``comm``; None where that is not known.
    :raise NotCompiled: pads cannot do it.
    """
    match node:
        case typed.Compare(operator=operator):
            subject, constant = _sides(node, scope, comm)
            return subject.equals(constant) if operator == "==" else Not(subject.equals(constant))
        case typed.AnyOf(operand=operand, items=items):
            subject = _subject(operand, scope, comm)
            return AnyOf(tuple(subject.equals(str(item)) for item in sorted(map(str, items))))
        case typed.StartsWith(operand=operand, prefix=typed.Const(value=str(prefix))):
            return _subject(operand, scope, comm).begins(prefix)
        case typed.Glob(operand=operand, pattern=pattern):
            return _glob(_subject(operand, scope, comm), pattern)
    raise NotCompiled("two texts of which none is a constant are compared")


# Text of which is known where it is, or what it is.
@dataclass(frozen=True, slots=True)
class _Subject:
    constant: str | None
    base: PadExpr
    offset: int
    limit_bytes: int

    def equals(self, text: str) -> PadExpr:
        return self._test(text, text.__eq__, len(text.encode()) < self.limit_bytes)

    def begins(self, text: str) -> PadExpr:
        return self._test(text, lambda own: own.startswith(text), False)

    def _test(self, text: str, known: Callable[[str], bool], with_end: bool) -> PadExpr:
        if self.constant is not None:
            return Imm(int(known(self.constant)))
        data = text.encode()
        if b"\\" in data:
            raise NotCompiled("a text with a backslash may stand for other bytes")
        if b"\0" in data or len(data) > self.limit_bytes:
            return Imm(0)
        return StartsWith(self.base, self.offset, data + b"\0" * with_end)


def _sides(node: typed.Compare, scope: Scope, comm: int | None) -> tuple[_Subject, str]:
    match node:
        case typed.Compare(left=left, right=typed.Const(value=str(text))):
            return _subject(left, scope, comm), text
        case typed.Compare(left=typed.Const(value=str(text)), right=right):
            return _subject(right, scope, comm), text
    raise NotCompiled("two texts of which none is a constant are compared")


def _subject(node: Typed, scope: Scope, comm: int | None) -> _Subject:
    match node:
        case typed.Const(value=str(text)):
            return _Subject(text, Imm(0), 0, 0)
        case typed.Field(name="func"):
            return _Subject(scope.func, Imm(0), 0, 0)
        case typed.Field(name="comm") if comm is not None:
            return _Subject(None, Task(), comm, _COMM_BYTES)
        case typed.Field(name=name):
            raise NotCompiled(f"{name} is text that the kernel's symbols or types have to tell")
        case typed.StringOf():
            raise NotCompiled("it follows pointers")
    raise NotCompiled("which text is compared depends on the call")


def _glob(subject: _Subject, pattern: str) -> PadExpr:
    parsed = parse_filter(pattern)
    match parsed.type:
        case MatchType.FULL:
            found = subject.equals(parsed.search)
        case MatchType.FRONT_ONLY:
            found = subject.begins(parsed.search)
        case _:
            raise NotCompiled(f"the pattern {pattern!r} is more than the beginning of a text")
    return Not(found) if parsed.negated else found
