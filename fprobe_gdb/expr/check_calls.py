"""The language's few functions."""

from __future__ import annotations

from fprobe_gdb.errors import TypeLookupError
from fprobe_gdb.expr.context import Context, as_text
from fprobe_gdb.expr.kinds import INT, TEXT, IntKind, ObjectKind, PointerKind, TextKind, is_text_type, kind_of
from fprobe_gdb.expr.names import near
from fprobe_gdb.expr.syntax import Call
from fprobe_gdb.expr.typed import Cast, Const, IsErr, StartsWith, StringLength, StringOf, Typed
from fprobe_gdb.kernel.btf import ArrayType

__all__ = ["call"]

# Name: (fewest, most arguments, how it is written).
_FUNCTIONS = {
    "str": (1, 2, "str(POINTER) or str(POINTER, MAX_BYTES)"),
    "strlen": (1, 1, "strlen(TEXT)"),
    "startswith": (2, 2, 'startswith(TEXT, "...")'),
    "is_err": (1, 1, "is_err(VALUE)"),
    "cast": (2, 2, 'cast(POINTER, "struct X *")'),
}
_MAX_STRING_BYTES = 4096


def call(ctx: Context, node: Call, arguments: list[Typed]) -> Typed:
    """A call of one of the functions."""
    if node.name not in _FUNCTIONS:
        raise ctx.error(f"there is no function {node.name!r}", node.column, near(node.name, _FUNCTIONS))
    fewest, most, form = _FUNCTIONS[node.name]
    if not fewest <= len(arguments) <= most:
        raise ctx.error(f"it is written {form}", node.column)
    match node.name:
        case "str":
            return _str(ctx, node, arguments)
        case "strlen":
            return StringLength(INT, _text(ctx, node, 0, arguments))
        case "startswith":
            return StartsWith(INT, _text(ctx, node, 0, arguments), _text(ctx, node, 1, arguments))
        case "is_err":
            return is_err(ctx, arguments[0], node.arguments[0].column)
        case _:
            return _cast(ctx, node, arguments)


def is_err(ctx: Context, operand: Typed, column: int) -> Typed:
    """Whether a value is an error code, by its type.

    Signed integers: -4095 to -1. Pointers and ``unsigned long``: the last 4095 values, as the kernel's ``IS_ERR()`` and
    ``IS_ERR_VALUE()``. Other unsigned integers and truth values never are.
    """
    ctx.need_number(operand, column, "is_err()")
    kind = operand.kind
    if isinstance(kind, IntKind) and not kind.signed and kind.bits != 64:
        return Const(INT, 0)
    return IsErr(INT, operand)


def _str(ctx: Context, node: Call, arguments: list[Typed]) -> Typed:
    base, max_bytes = arguments[0], None
    kind = base.kind
    is_array = isinstance(kind, ObjectKind) and isinstance(kind.type.resolve(), ArrayType) and is_text_type(kind.type)
    if not is_array and not (isinstance(kind, PointerKind) and kind.type is not None):
        what = "this is text already" if isinstance(kind, TextKind) else f"{kind} is no pointer"
        raise ctx.error(f"str() reads the text at a pointer, and {what}", node.arguments[0].column)
    if len(arguments) == 2:
        limit = arguments[1]
        if not isinstance(limit, Const) or not isinstance(limit.value, int) or not 0 < limit.value <= _MAX_STRING_BYTES:
            message = f"the length is a number from 1 to {_MAX_STRING_BYTES}"
            raise ctx.error(message, node.arguments[1].column)
        max_bytes = limit.value
    return StringOf(TEXT, base, max_bytes)


def _cast(ctx: Context, node: Call, arguments: list[Typed]) -> Typed:
    base, wanted = arguments
    column = node.arguments[1].column
    if not isinstance(wanted, Const) or not isinstance(wanted.value, str):
        raise ctx.error('the type stands in quotes, as "struct sock *"', column)
    if ctx.scope.btf is None:
        raise ctx.error("this kernel has no type information", column)
    try:
        type_ = ctx.scope.btf.type(wanted.value)
    except TypeLookupError as error:
        raise ctx.error(str(error), column) from None
    kind = kind_of(type_)
    if isinstance(kind, ObjectKind):
        raise ctx.error(f'{type_} is neither integer nor pointer; cast to "{type_} *"', column)
    ctx.need_number(base, node.arguments[0].column, "cast()")
    return Cast(kind, base)


def _text(ctx: Context, node: Call, number: int, arguments: list[Typed]) -> Typed:
    found = as_text(arguments[number])
    if found is None:
        message = f"{node.name}() takes text, and this is {arguments[number].kind}"
        raise ctx.error(message, node.arguments[number].column)
    return found
