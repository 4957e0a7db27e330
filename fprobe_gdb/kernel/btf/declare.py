"""C text of declarations: a type, or a name declared with it, as the kernel's sources would have it.

C writes a type around the name: pointers to its left, arrays and parameters to its right, and brackets where the order
has to be turned. The walk goes from the outside of the type to its innermost word and builds the text around the name.
"""

from __future__ import annotations

from collections.abc import Callable

from fprobe_gdb.errors import BtfError
from fprobe_gdb.kernel.btf.spelling import kernel_int_name
from fprobe_gdb.kernel.btf.types import (
    MAX_DEPTH,
    ArrayType,
    CompoundType,
    EnumType,
    ForwardType,
    FuncProto,
    FuncType,
    IntType,
    PointerType,
    QualifiedType,
    Type,
    VoidType,
)

__all__ = ["Budget", "declaration"]

# Parts of one text. The largest structure of Linux 6.12 needs some 5,000; damaged data, nested crosswise, has no end.
_MAX_PARTS = 100_000
#: How a nameless structure, union or enumeration is written in place.
InPlace = Callable[[Type, "Budget"], str]


class Budget:
    """What stops a text that would not end."""

    def __init__(self, of: Type) -> None:
        self.of = of
        self.parts = _MAX_PARTS
        self.depth = 0

    def spend(self) -> None:
        """Count a part.

        :raise BtfError: there were too many.
        """
        self.parts -= 1
        if self.parts < 0 or self.depth > MAX_DEPTH:
            raise self.no_end()

    def no_end(self) -> BtfError:
        """What to raise for a text without an end."""
        return self.of.table.error(f"the C text of type {self.of.id} has no end; damaged")


def declaration(of: Type, name: str = "", budget: Budget | None = None, in_place: InPlace | None = None) -> str:
    """C text that declares a name, or the type's own text when there is no name.

    :param in_place: writes nameless structures, unions and enumerations; without it they are ``struct {...}``.
    :raise BtfError: damaged data, whose text has no end.
    """
    budget = budget or Budget(of)
    budget.depth += 1
    try:
        return _declare(of, name, budget, in_place or _elided)
    finally:
        budget.depth -= 1


def _declare(of: Type, text: str, budget: Budget, in_place: InPlace) -> str:
    # Qualifiers seen since the last pointer, which belong to what comes next.
    qualifiers: list[str] = []
    after_pointer = False
    for _ in range(MAX_DEPTH):
        budget.spend()
        if isinstance(of, QualifiedType):
            if of.qualifier not in qualifiers:
                qualifiers.append(of.qualifier)
            of = of.target
        elif isinstance(of, PointerType):
            text = "*" + _join(" ".join(qualifiers), text)
            qualifiers, after_pointer, of = [], True, of.target
        elif isinstance(of, ArrayType):
            text = (f"({text})" if after_pointer else text) + f"[{of.count}]"
            # Qualifiers of an array are those of its elements.
            after_pointer, of = False, of.target
        elif isinstance(of, FuncProto):
            text = (f"({text})" if after_pointer else text) + _parameters(of, budget, in_place)
            qualifiers, after_pointer, of = [], False, of.return_type
        else:
            # "const" and the like stand before the word, "__user" and the like behind it.
            tags = [qualifier for qualifier in qualifiers if qualifier.startswith("__")]
            before = [qualifier for qualifier in qualifiers if qualifier not in tags]
            return _join(" ".join((*before, _word(of, budget, in_place), *tags)), text)
    raise budget.no_end()


# "int" and "*p" make "int *p"; "int" and "[2]" make "int[2]"; "const" and "" make "const".
def _join(left: str, right: str) -> str:
    if not left or not right:
        return left + right
    return f"{left} {right}" if right[0] not in "[" else left + right


def _parameters(proto: FuncProto, budget: Budget, in_place: InPlace) -> str:
    if not proto.params and not proto.is_variadic:
        return "(void)"
    parts = [declaration(param.type, param.name, budget, in_place) for param in proto.params]
    return f"({', '.join((*parts, '...') if proto.is_variadic else parts)})"


def _word(of: Type, budget: Budget, in_place: InPlace) -> str:
    if isinstance(of, VoidType):
        return "void"
    if isinstance(of, (CompoundType, EnumType)) and not of.name:
        return in_place(of, budget)
    if isinstance(of, (CompoundType, ForwardType)):
        return f"{of.keyword} {of.name}"
    if isinstance(of, EnumType):
        return f"enum {of.name}"
    if isinstance(of, FuncType):
        raise of.table.error(f"type {of.id} is function {of.name!r} where a type is needed; damaged")
    return kernel_int_name(of.name) if isinstance(of, IntType) else of.name or "(anon)"


def _elided(of: Type, budget: Budget) -> str:
    return f"{of.keyword} {{...}}" if isinstance(of, CompoundType) else "enum {...}"
