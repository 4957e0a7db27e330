"""What all parts of the check share: where they are, how to complain, and how to fold constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fprobe_gdb.errors import ExprError
from fprobe_gdb.expr.compile import number
from fprobe_gdb.expr.kinds import ULONG, IntKind, ObjectKind, PointerKind, TextKind, fits, is_text_type, wrap
from fprobe_gdb.expr.names import Scope
from fprobe_gdb.expr.typed import Const, Convert, StringOf, Typed

__all__ = ["Context", "as_text", "converted", "int_kind"]


@dataclass(frozen=True, slots=True)
class Context:
    """One check of one text in one scope."""

    scope: Scope
    text: str

    def error(self, message: str, column: int, near: Sequence[str] = ()) -> ExprError:
        """An error at a column, to be raised."""
        return ExprError(message, self.text, column, near)

    def folded(self, node: Typed, column: int, *operands: Typed) -> Typed:
        """The node, or the constant that it is.

        :raise ExprError: it divides by zero.
        """
        if not isinstance(node.kind, IntKind) or not all(isinstance(operand, Const) for operand in operands):
            return node
        try:
            # No node of constants looks at the hit.
            return Const(node.kind, int(number(node)(None)))  # type: ignore[arg-type]
        except ZeroDivisionError:
            raise self.error("this divides by zero", column) from None

    def need_number(self, node: Typed, column: int, user: str) -> None:
        """Refuse what is neither integer nor pointer.

        :raise ExprError: always with the reason.
        """
        if isinstance(node.kind, TextKind):
            raise self.error(f"{user} takes numbers, and this is text", column)
        if isinstance(node.kind, ObjectKind):
            raise self.error(f"{user} takes numbers, and this is {node.kind}; name a member or element of it", column)


def int_kind(node: Typed) -> IntKind:
    """The kind that a number or pointer counts with: pointers are unsigned."""
    return node.kind if isinstance(node.kind, IntKind) else ULONG


def converted(node: Typed, kind: IntKind) -> Typed:
    """A number or pointer as another kind of integer."""
    if isinstance(node, Const):
        assert isinstance(node.value, int)
        return Const(kind, wrap(node.value, kind))
    return node if fits(int_kind(node), kind) else Convert(kind, node)


def as_text(node: Typed) -> Typed | None:
    """Text, or what can be read as text without being told so; else None."""
    if isinstance(node.kind, TextKind):
        return node
    if isinstance(node.kind, (PointerKind, ObjectKind)) and node.kind.type and is_text_type(node.kind.type):
        return StringOf(TextKind(), node, None)
    return None
