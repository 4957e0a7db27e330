"""The parsed form of an expression: what was written, and where. Nothing here knows what a name means.

``column`` counts characters from 0 and is where an error about the node belongs: at a name, or at an operator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = [
    "Binary",
    "Call",
    "Choice",
    "Index",
    "Logic",
    "Member",
    "Membership",
    "Name",
    "Node",
    "Number",
    "String",
    "Unary",
    "children",
    "depth",
    "names",
]


@dataclass(frozen=True, slots=True)
class Number:
    """An integer, a character, or a duration in nanoseconds."""

    column: int
    value: int
    #: The C type of the literal: ``int``, ``unsigned int``, ``long`` or ``unsigned long``.
    bits: int
    signed: bool


@dataclass(frozen=True, slots=True)
class String:
    """Text, in the form in which typed values give theirs (bytes that are no UTF-8 as ``\\xNN``)."""

    column: int
    value: str


@dataclass(frozen=True, slots=True)
class Name:
    """A name; ``$pid`` keeps its ``$``."""

    column: int
    name: str


@dataclass(frozen=True, slots=True)
class Member:
    """``base.name`` and ``base->name``, which mean the same."""

    column: int
    base: Node
    name: str


@dataclass(frozen=True, slots=True)
class Index:
    """``base[index]``."""

    column: int
    base: Node
    index: Node


@dataclass(frozen=True, slots=True)
class Call:
    """``name(arguments)``: one of the language's few functions."""

    column: int
    name: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Unary:
    """``-``, ``+``, ``~``, ``!`` (``not`` too) or ``*`` before an operand."""

    column: int
    operator: str
    operand: Node


@dataclass(frozen=True, slots=True)
class Binary:
    """Two operands; ``~`` is the glob match, however it was spelled."""

    column: int
    operator: str
    left: Node
    right: Node
    #: Whether parentheses stand around it.
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Logic:
    """``&&`` or ``||`` over two or more operands; a chain is one node."""

    column: int
    operator: str
    operands: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Membership:
    """``operand in (items)``."""

    column: int
    operand: Node
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """``condition ? yes : no``."""

    column: int
    condition: Node
    yes: Node
    no: Node


Node = Number | String | Name | Member | Index | Call | Unary | Binary | Logic | Membership | Choice


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly below one."""
    match node:
        case Number() | String() | Name():
            return ()
        case Member():
            return (node.base,)
        case Index():
            return node.base, node.index
        case Call():
            return node.arguments
        case Unary():
            return (node.operand,)
        case Binary():
            return node.left, node.right
        case Logic():
            return node.operands
        case Membership():
            return node.operand, *node.items
        case Choice():
            return node.condition, node.yes, node.no


def depth(node: Node) -> int:
    """How many nodes lie on the longest way down. Does not recurse."""
    level, deepest = [node], 0
    while level:
        deepest += 1
        level = [below for one in level for below in children(one)]
    return deepest


def names(node: Node) -> Iterator[Name]:
    """All names in an expression, members not among them. Does not recurse."""
    waiting = [node]
    while waiting:
        found = waiting.pop()
        if isinstance(found, Name):
            yield found
        waiting += reversed(children(found))
