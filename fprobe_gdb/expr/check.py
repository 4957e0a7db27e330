"""The check: what every name means and what type every part has, before anything is planted."""

from __future__ import annotations

from fprobe_gdb.expr import check_calls, check_names, check_operators, check_places
from fprobe_gdb.expr.context import Context
from fprobe_gdb.expr.kinds import TEXT, IntKind
from fprobe_gdb.expr.names import Scope
from fprobe_gdb.expr.syntax import (
    Binary,
    Call,
    Choice,
    Index,
    Logic,
    Member,
    Membership,
    Name,
    Node,
    Number,
    String,
    Unary,
)
from fprobe_gdb.expr.typed import Connective, Const, Typed

__all__ = ["check", "check_condition"]


def check(node: Node, scope: Scope, text: str) -> Typed:
    """The typed form of an expression.

    :param text: what it was parsed from, for errors.
    :raise ExprError: an unknown name or member, or an operation that its types do not have.
    """
    return _check(node, Context(scope, text))


def check_condition(node: Node, scope: Scope, text: str) -> Typed:
    """As :func:`check`, of an expression that must be true or false: a number or a pointer.

    :raise ExprError: as :func:`check`, and when it is text or a structure.
    """
    found = check(node, scope, text)
    Context(scope, text).need_number(found, node.column, "a condition")
    return found


def _check(node: Node, ctx: Context) -> Typed:
    match node:
        case Number():
            return Const(IntKind(node.bits, node.signed), node.value)
        case String():
            return Const(TEXT, node.value)
        case Name():
            return check_names.name(ctx, node)
        case Member(base=Name(name=("args" | "$args" | "reg" | "$reg") as owner)):
            return check_names.owned(ctx, owner, node)
        case Member():
            return check_places.member(ctx, _check(node.base, ctx), node)
        case Index():
            return check_places.element(ctx, _check(node.base, ctx), _check(node.index, ctx), node)
        case Unary(operator="*"):
            return check_places.deref(ctx, _check(node.operand, ctx), node)
        case Unary():
            return check_operators.unary(ctx, node.operator, _check(node.operand, ctx), node)
        case Binary():
            return check_operators.binary(ctx, node, _check(node.left, ctx), _check(node.right, ctx))
        case Membership():
            items = [_check(item, ctx) for item in node.items]
            return check_operators.membership(ctx, node, _check(node.operand, ctx), items)
        case Choice():
            condition = _condition(node.condition, ctx)
            return check_operators.choice(ctx, node, condition, _check(node.yes, ctx), _check(node.no, ctx))
        case Logic():
            operands = tuple(_condition(operand, ctx) for operand in node.operands)
            return ctx.folded(Connective(IntKind(32, True), node.operator, operands), node.column, *operands)
        case Call():
            return check_calls.call(ctx, node, [_check(argument, ctx) for argument in node.arguments])


def _condition(node: Node, ctx: Context) -> Typed:
    found = _check(node, ctx)
    ctx.need_number(found, node.column, "a condition")
    return found
