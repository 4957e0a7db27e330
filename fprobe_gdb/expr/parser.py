"""Tokens to syntax: C's operators with C's precedence, and a few words of Python's.

From loose to tight::

    ?:    || or    && and    not    |    ^    &    == != ~ =~    < <= > >= in, not in    << >>    + -    * / %
    - + ! ~ *    . -> [] ()

``not`` binds as in Python, so that ``not a == b`` is ``!(a == b)``. Two things that C accepts are refused, since they
never mean what was meant: ``a < b < c``, and ``flags & 1 == 0`` without parentheses.

Rule 1: time and depth are bounded for any text.
"""

from __future__ import annotations

from dataclasses import replace

from fprobe_gdb.errors import ExprError
from fprobe_gdb.expr.lexer import Token, tokenize
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
    depth,
)

__all__ = ["parse", "parse_list"]

_LEVELS = (("||",), ("&&",), ("not",), ("|",), ("^",), ("&",), ("==", "!=", "~"), ("<", "<=", ">", ">=", "in"),
           ("<<", ">>"), ("+", "-"), ("*", "/", "%"))  # fmt: skip
_LEVEL = {operator: level for level, row in enumerate(_LEVELS) for operator in row}
_NOT = _LEVEL["not"]
_COMPARISONS = frozenset((_LEVEL["=="], _LEVEL["<"]))
_BIT_OPERATORS = frozenset("&|^")
_PREFIX = frozenset("-+!~*")
# Of the finished tree, which the later phases walk recursively, and of the parser's own recursion.
_MAX_DEPTH = 100
_MAX_NESTING = 120


def parse(text: str) -> Node:
    """One expression.

    :raise ExprError: it is none; its column is where reading ended.
    """
    parser = _Parser(text)
    node = parser.expression()
    parser.expect("end")
    return _bounded(node, text)


def parse_list(text: str) -> tuple[tuple[str, Node], ...]:
    """Expressions separated by commas, each with its own text.

    :raise ExprError: one of them is none.
    """
    parser = _Parser(text)
    found: list[tuple[str, Node]] = []
    while True:
        start = parser.token.column
        node = _bounded(parser.expression(), text)
        found.append((text[start : parser.token.column].strip(), node))
        if not parser.take(","):
            parser.expect("end")
            return tuple(found)


def _bounded(node: Node, text: str) -> Node:
    if depth(node) > _MAX_DEPTH:
        raise ExprError(f"the expression is nested more than {_MAX_DEPTH} deep", text, node.column)
    return node


class _Parser:
    # Precedence climbing over a list of tokens; `token` is the next one.
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tokenize(text)
        self._at = 0
        self._nesting = 0

    @property
    def token(self) -> Token:
        return self._tokens[self._at]

    def take(self, *kinds: str) -> Token | None:
        token = self._tokens[self._at]
        if token.kind not in kinds or token.kind == "end":
            return None
        self._at += 1
        return token

    def expect(self, kind: str) -> Token:
        token = self._tokens[self._at]
        if token.kind != kind:
            raise self._error(self._expected(kind), token.column)
        self._at += kind != "end"
        return token

    def expression(self) -> Node:
        condition = self._binary(0)
        mark = self.take("?")
        if mark is None:
            return condition
        self._deeper(mark.column)
        yes = self.expression()
        self.expect(":")
        no = self.expression()
        self._nesting -= 1
        return Choice(mark.column, condition, yes, no)

    def _binary(self, lowest: int) -> Node:
        self._deeper(self.token.column)
        word = self.take("not") if lowest <= _NOT else None
        left = Unary(word.column, "!", self._binary(_NOT)) if word else self._unary()
        last = -1
        while (operator := self._infix()) is not None and (level := _LEVEL[operator]) >= lowest:
            column = self.token.column
            if level == last and level in _COMPARISONS:
                raise self._error("comparisons do not chain; write a < b && b < c", column)
            left, last = self._joined(left, operator, level), level
        self._nesting -= 1
        return left

    # The operator that comes next; "not in" is told by its "not".
    def _infix(self) -> str | None:
        kind = self.token.kind
        if kind == "not":
            return "in" if self._tokens[self._at + 1].kind == "in" else None
        return kind if kind in _LEVEL else None

    def _joined(self, left: Node, operator: str, level: int) -> Node:
        token = self.token
        self._at += 1
        if operator == "in":
            return self._membership(left, token)
        if operator in ("&&", "||"):
            return self._logic(left, operator, level, token.column)
        right = self._binary(level + 1)
        if operator in _BIT_OPERATORS:
            self._refuse_bare_comparison(left, operator, right)
        return Binary(token.column, operator, left, right)

    def _logic(self, left: Node, operator: str, level: int, column: int) -> Node:
        operands = [left, self._binary(level + 1)]
        while self.take(operator):
            operands.append(self._binary(level + 1))
        return Logic(column, operator, tuple(operands))

    def _membership(self, operand: Node, token: Token) -> Node:
        if token.kind == "not":
            self.expect("in")
        self.expect("(")
        found = Membership(token.column, operand, self._items())
        return Unary(token.column, "!", found) if token.kind == "not" else found

    def _refuse_bare_comparison(self, left: Node, operator: str, right: Node) -> None:
        for side in (left, right):
            if isinstance(side, Binary) and not side.closed and _LEVEL[side.operator] in _COMPARISONS:
                why = (
                    f"{side.operator} binds tighter than {operator} in C; put parentheses around what belongs together"
                )
                raise self._error(why, side.column)

    def _unary(self) -> Node:
        token = self.token
        if token.kind not in _PREFIX:
            return self._postfix(self._primary())
        self._at += 1
        self._deeper(token.column)
        operand = self._unary()
        self._nesting -= 1
        return Unary(token.column, token.kind, operand)

    def _postfix(self, node: Node) -> Node:
        while (token := self.take(".", "->", "[")) is not None:
            if token.kind == "[":
                node = Index(token.column, node, self.expression())
                self.expect("]")
                continue
            # Members may be named as our words are.
            name = self.take("name", "in", "not", "&&", "||")
            if name is None or not name.text.isidentifier():
                column = (name or self.token).column
                raise self._error(f"after {token.kind} comes the name of a member", column)
            node = Member(name.column, node, name.text)
        return node

    def _primary(self) -> Node:
        token = self.token
        self._at += 1
        match token.kind:
            case "number":
                return Number(token.column, token.value, token.bits, token.signed)
            case "string":
                return String(token.column, token.text)
            case "name" if self.take("("):
                return Call(token.column, token.text, () if self.take(")") else self._items())
            case "name":
                return Name(token.column, token.text)
            case "(":
                node = self.expression()
                self.expect(")")
                return replace(node, closed=True) if isinstance(node, Binary) else node
        self._at -= 1
        raise self._error(self._expected("an operand"), token.column)

    # What stands in parentheses, up to and with the closing one.
    def _items(self) -> tuple[Node, ...]:
        found = [self.expression()]
        while self.take(","):
            found.append(self.expression())
        self.expect(")")
        return tuple(found)

    def _deeper(self, column: int) -> None:
        self._nesting += 1
        if self._nesting > _MAX_NESTING:
            raise self._error("the expression is nested too deeply", column)

    def _expected(self, what: str) -> str:
        token = self.token
        if token.kind == "end":
            return (
                "the expression is empty" if len(self._tokens) == 1 else f"the expression ends where {what} is missing"
            )
        shown = f'"{token.text}"' if token.kind == "string" else token.text
        if what == "end":
            return f"{shown} does not follow from what is before it; an operator (&&, ==, ...) is missing"
        return f"{what} is missing before {shown}"

    def _error(self, message: str, column: int) -> ExprError:
        return ExprError(message, self._text, column)
