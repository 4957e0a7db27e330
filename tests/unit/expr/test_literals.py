"""Integers, characters, durations and strings as C has them."""

from __future__ import annotations

import pytest

from fprobe_gdb.errors import ExprError
from fprobe_gdb.expr import parse_duration
from fprobe_gdb.expr.kinds import IntKind
from tests.unit.expr.made_up_hits import BARE, holds, number_of, typed

INT, UINT, LONG, ULONG = IntKind(32, True), IntKind(32, False), IntKind(64, True), IntKind(64, False)


@pytest.mark.parametrize(
    ("text", "value", "kind"),
    [
        ("0", 0, INT),
        ("2147483647", 2**31 - 1, INT),
        ("2147483648", 2**31, LONG),
        ("9223372036854775808", 2**63, ULONG),
        ("18446744073709551615", 2**64 - 1, ULONG),
        ("0x7fffffff", 2**31 - 1, INT),
        ("0xffffffff", 2**32 - 1, UINT),
        ("0x100000000", 2**32, LONG),
        ("0xffff888000000000", 0xFFFF888000000000, ULONG),
        ("017", 15, INT),
        ("0b101", 5, INT),
        ("5u", 5, UINT),
        ("5L", 5, LONG),
        ("5UL", 5, ULONG),
        ("5llu", 5, ULONG),
        ("4294967296u", 2**32, ULONG),
        ("'a'", 97, INT),
        (r"'\n'", 10, INT),
        (r"'\x41'", 65, INT),
        (r"'\377'", -1, INT),
        ("5ns", 5, LONG),
        ("5us", 5000, LONG),
        ("5\u00b5s", 5000, LONG),
        ("1.5ms", 1_500_000, LONG),
        ("2s", 2_000_000_000, LONG),
        ("0.1ns", 1, LONG),
        ("ENOENT", 2, INT),
        ("-EPROBE_DEFER", -517, INT),
        ("EWOULDBLOCK", 11, INT),
        ("MODE_ON", 1, INT),
        ("MODE_BAD", -2, INT),
        ("BIG_TOP", 2**63, ULONG),
        ("true", 1, INT),
        ("false", 0, INT),
        ("NULL", 0, None),
    ],
)
def test_numbers(text: str, value: int, kind: IntKind | None) -> None:
    assert number_of(text) == value
    assert kind is None or typed(text).kind == kind


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("08", "octal"),
        ("1.5", "only durations have fractions"),
        ("12abc", "is no number"),
        ("18446744073709551616", "64 bits"),
        ("9" * 4000, "64 bits"),
        ("1e400s", "is no number"),
        ("99999999999s", "longer than 64 bits"),
        ("''", "no character"),
        ("'cat'", "double quotes"),
        (r"'\q'", "no escape"),
        (r"'\400'", "more than a byte"),
        ("'a", "no end"),
        ('"a', "no end"),
        (r'"a\0b"', "ends at its first"),
        ("a = 5", "write =="),
        ("a @ 5", "means nothing"),
        ("a; b", "no statements"),
    ],
)
def test_what_is_no_literal(text: str, message: str) -> None:
    with pytest.raises(ExprError, match=message):
        typed(text)


@pytest.mark.parametrize(
    ("literal", "same"),
    [(r'"c\x61t"', "cat"), (r'"\143at"', "cat"), (r'"a\tb\"c\\"', 'a\tb"c\\'), ('"\u00e4"', "\u00e4"),
     (r'"\xff"', "\\xff"), ('"\udcff"', "\\xff")],
)  # fmt: skip
def test_strings_have_the_form_of_the_guests_strings(literal: str, same: str) -> None:
    assert typed(literal).value == same  # type: ignore[attr-defined]
    assert holds(f"{literal} == {literal}", where=BARE)


@pytest.mark.parametrize(("text", "ns"), [("5us", 5000), ("1.5ms", 1_500_000), (" 2s ", 2_000_000_000), ("17", 17)])
def test_durations_of_the_command_line(text: str, ns: int) -> None:
    assert parse_duration(text) == ns


@pytest.mark.parametrize("text", ["", "x", "5 us", "-5us", "5m", "9" * 30, "1.5", "\u0665us"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ExprError, match="write 5us"):
        parse_duration(text)
