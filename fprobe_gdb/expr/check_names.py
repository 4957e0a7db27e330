"""Names: arguments, what every hit has, registers, and constants.

A plain name that is both an argument and a word of ours (``task``, ``pid``, ``cpu`` ...) is refused rather than
guessed: over several functions it would mean different things. ``args.pid`` and ``$pid`` are always clear.
"""

from __future__ import annotations

import re

from fprobe_gdb.errors import ExprError
from fprobe_gdb.expr.context import Context
from fprobe_gdb.expr.kinds import INT, LONG, ULONG, IntKind, ObjectKind, PointerKind, kind_of, promoted
from fprobe_gdb.expr.names import EXIT_ONLY, FIELDS, SPECIAL, WORDS, enumerator, error_numbers, near
from fprobe_gdb.expr.syntax import Member, Name
from fprobe_gdb.expr.typed import Argument, Const, Field, Register, RetVal, Running, Typed
from fprobe_gdb.kernel.btf import VoidType
from fprobe_gdb.registers import ARGUMENT_REGISTERS, REGISTERS

__all__ = ["name", "owned"]

_NUMBERED = re.compile(r"\$arg([1-9][0-9]?)")


def name(ctx: Context, node: Name) -> Typed:
    """What a name alone stands for."""
    word = node.name
    if match := _NUMBERED.fullmatch(word):
        return _numbered(ctx, int(match[1]), node)
    if word.startswith("$"):
        if word[1:] not in FIELDS and word[1:] not in SPECIAL:
            known = [f"${one}" for one in (*FIELDS, *SPECIAL, "arg1")]
            raise ctx.error(f"there is no {word}", node.column, near(word, known))
        return _ours(ctx, word[1:], node.column)
    is_argument = any(word == known for known, _ in ctx.scope.params)
    is_ours = word in FIELDS or word in SPECIAL
    if is_argument and is_ours:
        raise _ambiguous(ctx, word, node.column)
    if is_argument:
        return _argument(ctx, word)
    return _ours(ctx, word, node.column) if is_ours else _constant(ctx, node)


def owned(ctx: Context, owner: str, node: Member) -> Typed:
    """``args.NAME`` and ``reg.NAME``."""
    column = node.base.column
    if not owner.startswith("$") and any(owner == known for known, _ in ctx.scope.params):
        raise _ambiguous(ctx, owner, column)
    if owner.endswith("args"):
        known = [param for param, _ in ctx.scope.params]
        if node.name not in known:
            raise _no_argument(ctx, f"no argument {node.name!r}", node.column, near(node.name, known))
        return _argument(ctx, node.name)
    if node.name not in REGISTERS:
        near_names = [node.name[1:]] if node.name[1:] in REGISTERS else near(node.name, REGISTERS)
        raise ctx.error(f"there is no register {node.name!r}", node.column, near_names)
    return Register(IntKind(64, False, is_address=True), node.name)


def _argument(ctx: Context, word: str) -> Typed:
    return Argument(kind_of(dict(ctx.scope.params)[word].type), word)


# By number from 1, as in the kernel's probe events; raw registers where nothing is known of the function.
def _numbered(ctx: Context, number: int, node: Name) -> Typed:
    if ctx.scope.proto is None:
        if ctx.scope.is_exit:
            raise ctx.error(f"{node.name} cannot be known at the exit: no prototype is known", node.column)
        if number <= len(ARGUMENT_REGISTERS):
            return Register(ULONG, ARGUMENT_REGISTERS[number - 1])
        raise ctx.error("without a prototype only $arg1 to $arg6 are known", node.column)
    known = [param for param, _ in ctx.scope.params]
    if number > len(known):
        raise ctx.error(f"no argument {number}", node.column)
    return _argument(ctx, known[number - 1])


def _ours(ctx: Context, word: str, column: int) -> Typed:
    if word in EXIT_ONLY and not ctx.scope.is_exit:
        raise ctx.error(f"{word} is known only when the function returns, and this is evaluated at its entry", column)
    if word in FIELDS:
        return Field(FIELDS[word], "duration_ns" if word == "duration" else word)
    if word == "retval":
        return _retval(ctx, column)
    if word == "task":
        task_type = ctx.scope.task_type
        return Running(PointerKind(task_type) if task_type else IntKind(64, False, is_address=True))
    raise ctx.error(f"{word} is used as {word}.{'NAME' if word == 'args' else 'di'}", column)


def _retval(ctx: Context, column: int) -> Typed:
    if ctx.scope.proto is None:
        return RetVal(LONG)
    kind = kind_of(ctx.scope.proto.return_type)
    if isinstance(kind, ObjectKind) and isinstance(kind.type.resolve(), VoidType):
        raise ctx.error("no retval: the function returns void", column)
    return RetVal(kind)


def _constant(ctx: Context, node: Name) -> Typed:
    word = node.name
    if word in WORDS:
        return Const(PointerKind(None), 0) if word == "NULL" else Const(INT, int(word == "true"))
    if word in error_numbers():
        return Const(INT, error_numbers()[word])
    found = enumerator(ctx.scope.btf, word) if ctx.scope.btf is not None else ()
    if len(found) > 1:
        values = ", ".join(map(str, found))
        raise ctx.error(f"several enumerations have {word}, with the values {values}; write the number", node.column)
    if found:
        bits = next((bits for bits in (32, 64) if -(1 << bits - 1) <= found[0] < 1 << bits), 64)
        return Const(promoted(IntKind(bits, not found[0] >> bits - 1 > 0)), found[0])
    known = [*(param for param, _ in ctx.scope.params), *FIELDS, *SPECIAL, *WORDS]
    known += error_numbers() if word.isupper() else ()
    raise _no_argument(ctx, f"no argument or other name {word!r}", node.column, near(word, known))


def _no_argument(ctx: Context, message: str, column: int, near_names: list[str]) -> ExprError:
    if ctx.scope.proto is None:
        message += " (the kernel's types have no prototype of the function; arguments are $arg1 ... $arg6)"
    return ctx.error(message, column, near_names)


def _ambiguous(ctx: Context, word: str, column: int) -> ExprError:
    return ctx.error(
        f"{word} is an argument of the function and a word of this language; write args.{word} or ${word}"
        if word != "args"
        else "args is an argument of the function and a word of this language; write $args.args or $args.NAME",
        column,
    )
