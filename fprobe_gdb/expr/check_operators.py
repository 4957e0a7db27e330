"""Operators: which types they take, and C's conversions between them."""

from __future__ import annotations

from collections.abc import Sequence

from fprobe_gdb.errors import WrongType
from fprobe_gdb.expr.context import Context, as_text, converted, int_kind
from fprobe_gdb.expr.kinds import INT, LONG, TEXT, PointerKind, TextKind, common, promoted
from fprobe_gdb.expr.syntax import Binary, Choice, Membership, Unary
from fprobe_gdb.expr.typed import AnyOf, Arithmetic, Chosen, Compare, Connective, Const, Glob, Moved, Negation, Typed
from fprobe_gdb.kernel.btf import FuncProto

__all__ = ["binary", "choice", "membership", "unary"]

_COMPARE = frozenset(("==", "!=", "<", "<=", ">", ">="))
_SHIFT = frozenset(("<<", ">>"))


def unary(ctx: Context, operator: str, operand: Typed, node: Unary) -> Typed:
    """``- + ~ !``."""
    ctx.need_number(operand, node.operand.column, operator)
    if operator == "!":
        return ctx.folded(Negation(INT, operand), node.column, operand)
    kind = promoted(int_kind(operand))
    inner = converted(operand, kind)
    match operator:
        case "-":
            made = Arithmetic(kind, "-", Const(kind, 0), inner)
        case "~":
            made = Arithmetic(kind, "^", inner, converted(Const(INT, -1), kind))
        case _:
            made = Arithmetic(kind, "+", inner, Const(kind, 0))
    return ctx.folded(made, node.column, operand)


def binary(ctx: Context, node: Binary, left: Typed, right: Typed) -> Typed:
    """Two operands, by operator."""
    if node.operator == "~":
        return _glob(ctx, node, left, right)
    if node.operator in _COMPARE:
        return _compare(ctx, node.operator, node.column, left, right)
    ctx.need_number(left, node.left.column, node.operator)
    ctx.need_number(right, node.right.column, node.operator)
    if node.operator in "+-" and (moved := _pointers(ctx, node, left, right)) is not None:
        return moved
    if node.operator in _SHIFT:
        return _shift(ctx, node, left, right)
    kind = common(int_kind(left), int_kind(right))
    made = Arithmetic(kind, node.operator, converted(left, kind), converted(right, kind))
    if node.operator in "/%" and isinstance(right, Const) and right.value == 0:
        raise ctx.error("this divides by zero", node.column)
    return ctx.folded(made, node.column, left, right)


def membership(ctx: Context, node: Membership, operand: Typed, items: Sequence[Typed]) -> Typed:
    """``x in (a, b)`` is ``x == a || x == b``; constants of one kind are looked up at once."""
    tests = [_compare(ctx, "==", item.column, operand, typed) for item, typed in zip(node.items, items, strict=True)]
    compares = [test for test in tests if isinstance(test, Compare) and isinstance(test.right, Const)]
    if len(compares) == len(tests) and len({(test.left, test.right.kind) for test in compares}) == 1:
        values = frozenset(test.right.value for test in compares if isinstance(test.right, Const))
        return AnyOf(INT, compares[0].left, values)
    return ctx.folded(Connective(INT, "||", tuple(tests)), node.column, *tests)


def choice(ctx: Context, node: Choice, condition: Typed, yes: Typed, no: Typed) -> Typed:
    """``condition ? yes : no``; both sides must be numbers, or text, or pointers of one type."""
    if isinstance(yes.kind, TextKind) or isinstance(no.kind, TextKind):
        yes_text, no_text = as_text(yes), as_text(no)
        if yes_text is None or no_text is None:
            raise ctx.error("one side of this ?: is text, and the other is not", node.column)
        return Chosen(TEXT, condition, yes_text, no_text)
    ctx.need_number(yes, node.yes.column, "?:")
    ctx.need_number(no, node.no.column, "?:")
    if isinstance(yes.kind, PointerKind) and isinstance(no.kind, PointerKind) and yes.kind.type is no.kind.type:
        return Chosen(yes.kind, condition, yes, no)
    kind = common(int_kind(yes), int_kind(no))
    made = Chosen(kind, condition, converted(yes, kind), converted(no, kind))
    return ctx.folded(made, node.column, condition, yes, no)


def _compare(ctx: Context, operator: str, column: int, left: Typed, right: Typed) -> Typed:
    if isinstance(left.kind, TextKind) or isinstance(right.kind, TextKind):
        left_text, right_text = as_text(left), as_text(right)
        if left_text is None or right_text is None:
            other = right if right_text is None else left
            hint = "; str(...) reads the text at a pointer" if isinstance(other.kind, PointerKind) else ""
            raise ctx.error(f"text cannot be compared with {other.kind}{hint}", column)
        if operator not in ("==", "!="):
            raise ctx.error(f"text has no {operator}; there are ==, != and ~", column)
        return ctx.folded(Compare(INT, operator, left_text, right_text), column, left_text, right_text)
    ctx.need_number(left, column, operator)
    ctx.need_number(right, column, operator)
    kind = common(int_kind(left), int_kind(right))
    made = Compare(INT, operator, converted(left, kind), converted(right, kind))
    return ctx.folded(made, column, left, right)


def _glob(ctx: Context, node: Binary, left: Typed, right: Typed) -> Typed:
    text = as_text(left)
    if text is None:
        raise ctx.error(f"~ matches text, and this is {left.kind}", node.left.column)
    if not isinstance(right, Const) or not isinstance(right.value, str):
        raise ctx.error('~ takes a pattern in quotes, as "vfs_*"', node.right.column)
    return Glob(INT, text, right.value)


def _shift(ctx: Context, node: Binary, left: Typed, right: Typed) -> Typed:
    kind = promoted(int_kind(left))
    if isinstance(right, Const) and isinstance(right.value, int) and not 0 <= right.value < kind.bits:
        raise ctx.error(f"a {kind.bits}-bit number cannot be shifted by {right.value}", node.column)
    made = Arithmetic(kind, node.operator, converted(left, kind), right)
    return ctx.folded(made, node.column, left, right)


# Pointer arithmetic; None where no typed pointer takes part.
def _pointers(ctx: Context, node: Binary, left: Typed, right: Typed) -> Typed | None:
    left_bytes, right_bytes = _step_bytes(ctx, node, left), _step_bytes(ctx, node, right)
    if left_bytes and right_bytes:
        if node.operator == "+" or left_bytes != right_bytes:
            raise ctx.error(f"{left.kind} {node.operator} {right.kind} means nothing", node.column)
        bytes_between = Arithmetic(LONG, "-", converted(left, LONG), converted(right, LONG))
        return Arithmetic(LONG, "/", bytes_between, Const(LONG, left_bytes))
    if left_bytes:
        return Moved(left.kind, left, right, 1 if node.operator == "+" else -1, left_bytes)
    if right_bytes:
        if node.operator == "-":
            raise ctx.error("a pointer cannot be subtracted from a number", node.column)
        return Moved(right.kind, right, left, 1, right_bytes)
    return None


def _step_bytes(ctx: Context, node: Binary, operand: Typed) -> int:
    target = operand.kind.target if isinstance(operand.kind, PointerKind) else None
    if target is None:
        return 0
    if isinstance(target.resolve(), FuncProto):
        return 1
    try:
        return target.size_bytes or 1
    except WrongType:
        raise ctx.error(f"the size of what {operand.kind} points to is not known", node.column) from None
