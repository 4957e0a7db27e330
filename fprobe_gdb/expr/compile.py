"""Closures: one for each node, made once, called for each hit.

Nothing is read that the result does not need. A closure may raise :class:`~fprobe_gdb.errors.MemoryFault`,
:class:`~fprobe_gdb.errors.ElementNotFound` or :class:`ZeroDivisionError`: the expression has no value for this hit.
Numbers that closures give are within the range of their node's kind; a comparison may give ``bool``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

from fprobe_gdb.errors import ElementNotFound, MemoryFault
from fprobe_gdb.expr.compile_addresses import address, load, load_string
from fprobe_gdb.expr.compile_numbers import arithmetic
from fprobe_gdb.expr.hit import HitScope
from fprobe_gdb.expr.kinds import ULONG, IntKind, PointerKind, TextKind, wrap
from fprobe_gdb.expr.typed import (
    AnyOf,
    Argument,
    Arithmetic,
    Cast,
    Chosen,
    Compare,
    Connective,
    Const,
    Convert,
    Element,
    Field,
    Glob,
    IsErr,
    MemberPlace,
    Moved,
    Negation,
    Register,
    RetVal,
    Running,
    StartsWith,
    StringLength,
    StringOf,
    Typed,
)
from fprobe_gdb.kernel.values import FAULT, Value
from fprobe_gdb.kernel.values.error_codes import MAX_ERRNO
from fprobe_gdb.probe.glob import MatchType, glob_match, matcher, parse_filter

__all__ = ["NO_VALUE", "number", "text"]

#: What a closure raises when a hit has no value for it.
NO_VALUE = (MemoryFault, ElementNotFound, ZeroDivisionError)

_COMPARE = {"==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt,
            ">=": operator.ge}  # fmt: skip
_MASK64 = (1 << 64) - 1
_ERR_POINTERS = (1 << 64) - MAX_ERRNO


def number(node: Typed) -> Callable[[HitScope], int]:
    """A closure for a node of an int or pointer kind."""
    match node:
        case Const(value=int(value)):
            return lambda hit: value
        case Field():
            return operator.attrgetter(node.name)
        case Register(name=name):
            return lambda hit: hit.regs[name]
        case Convert() | Arithmetic() | Compare() | AnyOf() | Connective() | Negation() | Chosen():
            return _computed(node)
        case Glob() | StartsWith() | StringLength() | IsErr():
            return _tested(node)
        case RetVal(kind=IntKind(type=None)):
            # No prototype: a plain number, or a value of whatever type somebody gave it.
            return lambda hit: wrap(int(hit.retval), node.kind)  # type: ignore[arg-type]
        case Running():
            return lambda hit: int(hit.task)
        case Cast():
            return _cast(node)
        case Moved(sign=sign, size_bytes=size_bytes):
            start, count, step = number(node.base), number(node.count), sign * size_bytes
            return lambda hit: start(hit) + count(hit) * step & _MASK64
    return _loaded(node)


def text(node: Typed) -> Callable[[HitScope], str]:
    """A closure for a node of the text kind."""
    match node:
        case Const(value=str(value)):
            return lambda hit: value
        case Field():
            return operator.attrgetter(node.name)
        case Chosen():
            condition, yes, no = number(node.condition), text(node.yes), text(node.no)
            return lambda hit: yes(hit) if condition(hit) else no(hit)
        case StringOf():
            return _string(node)
    raise AssertionError(f"{node} is no text")


def _place(node: Typed) -> Callable[[HitScope], Value]:
    # What came in registers or by value, and members and elements of that; all else has an address.
    match node:
        case Argument(name=name):
            return lambda hit: hit.args[name]
        case RetVal():
            return lambda hit: hit.retval  # type: ignore[return-value]
        case MemberPlace(base=base, name=name):
            owner = _place(base)
            return lambda hit: owner(hit).member(name)
        case Element():
            array, index = _place(node.base), number(node.index)
            return lambda hit: array(hit)[index(hit)]
    raise AssertionError(f"{node} is no place")


# A number or pointer out of the guest's bytes. Value.__int__ does the same in four times the time: it asks the type.
def _loaded(node: Typed) -> Callable[[HitScope], int]:
    at = address(node, number)
    if at is not None:
        return load(node, at)
    found, kind = _place(node), node.kind
    if isinstance(node, MemberPlace) and node.is_bitfield:
        return lambda hit: int(found(hit))
    if isinstance(kind, IntKind) and kind.is_bool:
        return lambda hit: int(any(found(hit).bytes_()))
    if isinstance(kind, IntKind) and kind.signed:
        return lambda hit: int.from_bytes(found(hit).bytes_(), "little", signed=True)
    assert isinstance(kind, (IntKind, PointerKind)), f"{node} is no number"
    from_bytes = int.from_bytes
    return lambda hit: from_bytes(found(hit).bytes_(), "little")


def _computed(node: Typed) -> Callable[[HitScope], int]:
    match node:
        case Convert(operand=operand, kind=IntKind() as kind):
            inner = number(operand)
            return lambda hit: wrap(inner(hit), kind)
        case Arithmetic(kind=IntKind() as kind):
            return arithmetic(node.operator, kind, number(node.left), number(node.right))
        case Compare():
            return _compare(node)
        case AnyOf(items=items):
            among = text(node.operand) if isinstance(node.operand.kind, TextKind) else number(node.operand)
            return lambda hit: among(hit) in items
        case Connective():
            return _connective(node)
        case Negation(operand=operand):
            denied = number(operand)
            return lambda hit: not denied(hit)
        case Chosen():
            condition, yes, no = number(node.condition), number(node.yes), number(node.no)
            return lambda hit: yes(hit) if condition(hit) else no(hit)
    raise AssertionError(f"{node} is not computed")


def _compare(node: Compare) -> Callable[[HitScope], int]:
    compare = _COMPARE[node.operator]
    if isinstance(node.left.kind, TextKind):
        left_text, right_text = text(node.left), text(node.right)
        return lambda hit: compare(left_text(hit), right_text(hit))
    left = number(node.left)
    if isinstance(node.right, Const):
        limit = node.right.value
        return lambda hit: compare(left(hit), limit)
    right = number(node.right)
    return lambda hit: compare(left(hit), right(hit))


def _connective(node: Connective) -> Callable[[HitScope], int]:
    tests = [number(operand) for operand in node.operands]
    if len(tests) == 2:
        one, two = tests
        if node.operator == "&&":
            return lambda hit: 1 if one(hit) and two(hit) else 0
        return lambda hit: 1 if one(hit) or two(hit) else 0
    if node.operator == "&&":
        return lambda hit: int(all(test(hit) for test in tests))
    return lambda hit: int(any(test(hit) for test in tests))


def _tested(node: Typed) -> Callable[[HitScope], int]:
    match node:
        case Glob():
            matched, subject = _pattern(node.pattern), text(node.operand)
            return lambda hit: matched(subject(hit))
        case StartsWith():
            whole, prefix = text(node.operand), text(node.prefix)
            return lambda hit: whole(hit).startswith(prefix(hit))
        case StringLength():
            counted = text(node.operand)
            return lambda hit: len(counted(hit).encode())
        case IsErr(operand=operand):
            code = number(operand)
            if isinstance(operand.kind, IntKind) and operand.kind.signed:
                return lambda hit: -MAX_ERRNO <= code(hit) < 0
            return lambda hit: code(hit) >= _ERR_POINTERS
    raise AssertionError(f"{node} is no test")


def _cast(node: Cast) -> Callable[[HitScope], int]:
    inner, kind = number(node.base), node.kind
    if isinstance(kind, IntKind) and kind.is_bool:
        return lambda hit: int(inner(hit) != 0)
    wanted = kind if isinstance(kind, IntKind) else ULONG
    return lambda hit: wrap(inner(hit), wanted)


def _string(node: StringOf) -> Callable[[HitScope], str]:
    at = number(node.base) if isinstance(node.base.kind, PointerKind) else address(node.base, number)
    if at is not None:
        return load_string(node.base, at, node.max_bytes)
    found, max_bytes = _place(node.base), node.max_bytes

    def read(hit: HitScope) -> str:
        value = found(hit)
        string = value.string() if max_bytes is None else value.string(max_bytes)
        if string == FAULT:
            raise MemoryFault(value.address_ or 0, 1)
        return string

    return read


# As ftrace's event filters match (filter_build_regex() in kernel/trace/trace_events_filter.c), "!" in front denying.
# Its patterns cannot begin with a digit; there is no reason why ours should not.
def _pattern(pattern: str) -> Callable[[str], bool]:
    parsed = parse_filter(pattern)
    if parsed.type is MatchType.INDEX:
        matches: Callable[[str], bool] = lambda string: glob_match(parsed.search, string)  # noqa: E731
    else:
        matches = matcher(parsed)
    return (lambda string: not matches(string)) if parsed.negated else matches
