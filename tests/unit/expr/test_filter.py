"""Filters over several functions; --errors and --min-duration."""

from __future__ import annotations

import pytest

from fprobe_gdb.errors import ExprError, ExprUnfit
from fprobe_gdb.expr import Scope, compile_filter, errors_filter, min_duration_filter, needs_exit
from tests.unit.expr.made_up_hits import BARE, Hit, scope
from tests.unit.kernel.values.made_up_memory import FILE

FUNCTIONS = {name: scope(name) for name in ("vfs_read", "many", "by_value", "nothing", "printk", "find", "user")}


def test_functions_that_lack_an_argument_are_listed() -> None:
    with pytest.raises(ExprUnfit) as raised:
        compile_filter("pid > 0 && a == 1", FUNCTIONS)
    assert raised.value.functions == ("vfs_read", "nothing", "printk", "find", "user")
    assert str(raised.value).splitlines() == [
        "this does not fit 5 of the 7 functions:",
        "  vfs_read(), nothing(), printk(), find(), user(): no argument or other name 'a'",
        "    pid > 0 && a == 1",
        "               ^",
    ]


def test_functions_are_listed_by_what_they_lack() -> None:
    with pytest.raises(ExprUnfit) as raised:
        compile_filter("a == 1 && p.b == 2", FUNCTIONS)
    assert str(raised.value).splitlines()[:3] == [
        "this does not fit 6 of the 7 functions:",
        "  vfs_read(), nothing(), printk(), find(), user(): no argument or other name 'a'",
        "  many(): no argument or other name 'p'",
    ]


def test_unfit_functions_can_be_left_out() -> None:
    found = compile_filter("a == 7", FUNCTIONS, skip_unfit=True)
    assert set(found.predicates) == {"many", "by_value"}
    assert set(found.unfit) == set(FUNCTIONS) - set(found.predicates)
    assert "no argument or other name 'a'" in str(found.unfit["vfs_read"])
    assert found.predicates["many"](Hit("many", di=7))


def test_what_fits_no_function_is_an_error_in_any_case() -> None:
    with pytest.raises(
        ExprError, match=r"vfs_read\(\) and 6 more: no argument or other name 'cuont'; did you mean count"
    ):
        compile_filter("cuont > 5", FUNCTIONS, skip_unfit=True)
    with pytest.raises(ExprError, match="empty"):
        compile_filter("", FUNCTIONS, skip_unfit=True)


def test_faults_of_all_functions_add_up() -> None:
    found = compile_filter("$arg1 == 1 || 1 / (cpu - 1)", {"many": scope("many"), "find": scope("find")})
    assert not found.predicates["many"](Hit("many", di=5))
    assert not found.predicates["find"](Hit("find", di=5))
    assert found.predicates["find"](Hit("find", di=1))
    assert found.faults == 2


@pytest.mark.parametrize(
    ("text", "is_needed"),
    [("count > 1", False), ("retval < 0", True), ("count && $duration > 5us", True), ('comm == "retval"', False),
     ("comm, retval", True), ("args.retval == 1", False), ("f->retval", False)],
)  # fmt: skip
def test_whether_an_exit_is_needed(text: str, is_needed: bool) -> None:
    assert needs_exit(text) is is_needed


@pytest.mark.parametrize(
    ("function", "ax", "is_error", "is_enoent"),
    [
        ("vfs_read", -2, True, True),
        ("vfs_read", -13, True, False),
        ("vfs_read", 13, False, False),
        ("vfs_read", -4096, False, False),
        ("printk", 0xFFFFFFFE, True, True),
        ("find", -2, True, True),
        ("find", FILE, False, False),
        ("find", 0, False, False),
        ("many", 0, False, False),
        ("many", -2, False, False),
        ("nothing", -2, False, False),
        ("gives_huge", -2, False, False),
        ("by_value", -2, False, False),
    ],
)
def test_errors_by_return_type(function: str, ax: int, is_error: bool, is_enoent: bool) -> None:
    where = {function: scope(function)}
    hit = Hit(function, ax=ax)
    assert errors_filter([], where).predicates[function](hit) is is_error
    assert errors_filter(["ENOENT", "-EPERM"], where).predicates[function](hit) is is_enoent
    assert errors_filter(["2"], where).predicates[function](hit) is is_enoent
    assert not errors_filter(["EPERM"], where).predicates[function](hit)


def test_errors_without_prototypes() -> None:
    where = {1: Scope("mystery", is_exit=True)}
    assert errors_filter(["enoent"], where).predicates[1](Hit(ax=-2))
    assert not errors_filter([], where).predicates[1](Hit(ax=2))


@pytest.mark.parametrize("name", ["ENOETN", "", "0", "5000", "-", "retval) || (1"])
def test_what_is_no_error_name(name: str) -> None:
    with pytest.raises(ExprError, match="no error is named"):
        errors_filter([name], {1: scope()})


def test_min_duration() -> None:
    for text, passes in (("7us", True), ("7.001us", False), ("7000", True), ("0", True), ("1s", False)):
        assert min_duration_filter(text, {1: scope()}).predicates[1](Hit()) is passes
    with pytest.raises(ExprError, match="known only when the function returns"):
        min_duration_filter("5us", {1: BARE})
