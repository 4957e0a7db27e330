"""Whatever is typed: an expression or an ExprError, and soon."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from fprobe_gdb.errors import ExprError
from fprobe_gdb.expr import compile_filter, compile_keys, errors_filter, min_duration_filter
from tests.unit.expr.made_up_hits import BARE, Hit, scope

NAMES = (
    "file count pos buf retval comm pid duration task args reg.di $pid $arg1 f_path dentry d_name low f_array f_tail"
)
OTHERS = 'MODE_ON ENOENT true NULL "cat" "c*" \'a\' 0 1 -1 0xffffffffffffffff 5us 64 2.5 str( strlen( cast( is_err( = @'
SIGNS = "+ - * / % & | ^ ~ << >> == != < <= > >= && || ! ? : ( ) [ ] . -> , in not and or"
WORDS = [*NAMES.split(" "), *OTHERS.split(" "), *SIGNS.split(" "), '"struct file *"']

SCOPES = {"exit": scope(), "entry": scope(is_exit=False), "bare": BARE}
EXPRESSIONS = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join),
    st.lists(st.sampled_from(WORDS), max_size=14).map("".join),
)


@settings(max_examples=80, deadline=1000)
@given(EXPRESSIONS)
def test_only_expression_errors_come_out(text: str) -> None:
    for where in SCOPES.values():
        with contextlib.suppress(ExprError):
            compile_filter(text, {1: where})
        with contextlib.suppress(ExprError):
            compile_keys(text, {1: where})
    with contextlib.suppress(ExprError):
        min_duration_filter(text, {1: scope()})
    with contextlib.suppress(ExprError):
        errors_filter([text], {1: scope()})


# Operands between operators, so that most are well-formed.
OPERANDS = st.sampled_from(
    ("count", "retval", "pid", "*pos", "file->low", "file->neg", "file->f_array[1][2]", "file->f_tail[count]", "2",
     "-1", "file->f_next", "file", "0x8000000000000000", "NULL", "comm", '"cat"', "file->f_path.dentry->d_name.name")
)  # fmt: skip
OPERATORS = st.sampled_from(
    ("+", "-", "*", "/", "%", "<<", ">>", "==", "!=", "<", ">=", "&&", "||", "~", "& 7 &", "| 1 |", "^", "? 1 :")
)


@settings(max_examples=80, deadline=1000)
@given(st.lists(st.tuples(OPERANDS, OPERATORS), min_size=1, max_size=5), OPERANDS)
def test_what_compiles_can_be_evaluated(pairs: list[tuple[str, str]], last: str) -> None:
    text = " ".join(f"{operand} {operator}" for operand, operator in pairs) + f" {last}"
    with contextlib.suppress(ExprError):
        found = compile_filter(text, {1: scope()}).predicates[1]
        hit = Hit()
        assert found(hit) in (True, False)
        assert found.faults in (0, 1)
