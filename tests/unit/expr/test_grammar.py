"""How operators group, and what is refused with the caret under the right place."""

from __future__ import annotations

import pytest

from fprobe_gdb.errors import ExprError
from fprobe_gdb.expr.parser import parse, parse_list
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


def grouped(node: Node) -> str:
    """The expression with all its parentheses."""
    match node:
        case Number():
            return str(node.value)
        case String():
            return f'"{node.value}"'
        case Name():
            return node.name
        case Member():
            return f"{grouped(node.base)}.{node.name}"
        case Index():
            return f"{grouped(node.base)}[{grouped(node.index)}]"
        case Call():
            return f"{node.name}({', '.join(map(grouped, node.arguments))})"
        case Unary():
            return f"({node.operator}{grouped(node.operand)})"
        case Binary():
            return f"({grouped(node.left)} {node.operator} {grouped(node.right)})"
        case Logic():
            return f"({f' {node.operator} '.join(map(grouped, node.operands))})"
        case Membership():
            return f"({grouped(node.operand)} in {', '.join(map(grouped, node.items))})"
        case Choice():
            return f"({grouped(node.condition)} ? {grouped(node.yes)} : {grouped(node.no)})"


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("a + b * c - d", "((a + (b * c)) - d)"),
        ("a - b - c", "((a - b) - c)"),
        ("a << b + c >> d", "((a << (b + c)) >> d)"),
        ("a | b ^ c & d", "(a | (b ^ (c & d)))"),
        ("a < b == c < d", "((a < b) == (c < d))"),
        ("a & b && c | d || e", "(((a & b) && (c | d)) || e)"),
        ("a or b and c", "(a || (b && c))"),
        ("a || b || c", "(a || b || c)"),
        ("a && (b && c)", "(a && (b && c))"),
        ("!a == b", "((!a) == b)"),
        ("not a == b and c", "((!(a == b)) && c)"),
        ("not not a", "(!(!a))"),
        ("-a.b[1]", "(-a.b[1])"),
        ("- - ~!*a", "(-(-(~(!(*a)))))"),
        ("a ~ b", "(a ~ b)"),
        ("a =~ b", "(a ~ b)"),
        ("a ==~b", "(a == (~b))"),
        ("a & ~b", "(a & (~b))"),
        ("a ? b : c ? d : e", "(a ? b : (c ? d : e))"),
        ("a ? b ? c : d : e", "(a ? (b ? c : d) : e)"),
        ("a || b ? c : d", "((a || b) ? c : d)"),
        ("a in (1, b + 2) && c", "((a in 1, (b + 2)) && c)"),
        ("a not in (1)", "(!(a in 1))"),
        ("a->b.c->d", "a.b.c.d"),
        ("a.in->not.and", "a.in.not.and"),
        ("(flags & 1) == 0", "((flags & 1) == 0)"),
        ("flags & (a == 0)", "(flags & (a == 0))"),
        ("f(a, g(b))[1].c", "f(a, g(b))[1].c"),
        ("f()", "f()"),
        (" $pid\n==\t1 ", "($pid == 1)"),
    ],
)
def test_precedence(text: str, groups: str) -> None:
    assert grouped(parse(text)) == groups


def test_a_list_keeps_the_text_of_each() -> None:
    found = parse_list(" comm , f(a, b) ,c[1]")
    assert [(text, grouped(node)) for text, node in found] == [("comm", "comm"), ("f(a, b)", "f(a, b)"), ("c[1]",) * 2]


@pytest.mark.parametrize(
    ("text", "caret", "message"),
    [
        ("", "^", "empty"),
        ("   ", "^", "empty"),
        ("a +", "   ^", "ends where an operand is missing"),
        ("a + * ", "     ^", "ends where an operand"),
        ("(a", "  ^", "ends where [)] is missing"),
        ("a)", " ^", "does not follow"),
        ("a b", "  ^", "operator .* is missing"),
        ('a "b"', "  ^", '"b" does not follow'),
        ("a < b < c", "      ^", "do not chain"),
        ("a == b != c", "       ^", "do not chain"),
        ("a in (1) in (2)", "         ^", "do not chain"),
        ("flags & 1 == 0", "          ^", "== binds tighter than &"),
        ("a == 1 | b", "  ^", "binds tighter than |"),
        ("a.", "  ^", "name of a member"),
        ("a->5", "   ^", "name of a member"),
        ("a.$b", "  ^", "name of a member"),
        ("a[1", "   ^", "ends where"),
        ("a in 1", "     ^", "[(] is missing before 1"),
        ("a in ()", "      ^", "an operand is missing before [)]"),
        ("a not b", "  ^", "does not follow"),
        ("1 + not a", "    ^", "operand is missing before not"),
        ("a ? b", "     ^", "ends where : is missing"),
        ("f(a,)", "    ^", "operand is missing"),
        ("a, b", " ^", "does not follow"),
        ("\u00e4 == 1", "^", "means nothing"),
        ("a &&\n@", "     ^", "means nothing"),
    ],
)
def test_errors_have_a_caret(text: str, caret: str, message: str) -> None:
    with pytest.raises(ExprError, match=message) as raised:
        parse(text)
    assert str(raised.value).splitlines()[-1] == "    " + caret
    assert raised.value.column == len(caret) - 1
    assert raised.value.text == text


def test_a_long_text_is_shown_around_the_place() -> None:
    text = "a == 1 || " * 100 + "b = 2" + " || c == 3" * 100
    with pytest.raises(ExprError) as raised:
        parse(text)
    _, shown, caret = str(raised.value).splitlines()
    assert len(shown) <= 104
    assert shown[len(caret) - 1] == "="
    assert shown[len(caret) - 3] == "b"


@pytest.mark.parametrize(
    "text",
    ["(" * 2000, "(" * 2000 + "a" + ")" * 2000, "-" * 4000 + "a", "a" + "[a" * 2000, "a" + ".a" * 2000, "f(" * 2000,
     "a+" * 2000 + "a", "a?" * 1300 + "a", "a?a:" * 1000 + "a", "not " * 1000 + "a", "a in(" * 800, "a" * 5000,
     "a|b^" * 900],
)  # fmt: skip
def test_depth_and_length_are_bounded(text: str) -> None:
    with pytest.raises(ExprError):
        parse(text)


def test_long_chains_of_conditions_are_no_depth() -> None:
    node = parse(" || ".join(f"pid == {pid}" for pid in range(300)))
    assert isinstance(node, Logic)
    assert len(node.operands) == 300
