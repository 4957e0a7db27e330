"""Names, members and types that do not fit: what the error says, and where its caret is."""

from __future__ import annotations

import pytest

from fprobe_gdb.errors import ExprError, TypeNotFound
from fprobe_gdb.expr import Scope, compile_filter, compile_keys, compile_quantity
from fprobe_gdb.kernel.btf import Btf
from tests.unit.expr.made_up_hits import BARE, RIG, scope
from tests.unit.kernel.btf.made_up_btf import MadeUpBtf


@pytest.mark.parametrize(
    ("text", "caret", "message"),
    [
        ("cuont > 5", "^", "no argument or other name 'cuont'; did you mean count"),
        ("1 < retvla", "    ^", "did you mean retval"),
        ("retval == -ENOETN", "           ^", "did you mean .*ENOENT"),
        ("$cmm == 1", "^", "there is no .cmm; did you mean .comm"),
        ("$arg5 == 1", "^", "no argument 5"),
        ("args.cnt", "     ^", "no argument 'cnt'; did you mean count"),
        ("args == 1", "^", "used as args.NAME"),
        ("reg.rdi == 1", "    ^", "no register 'rdi'; did you mean di"),
        ("reg.bogus == 1", "    ^", "no register"),
        ("file->f_paht.dentry", "      ^", "struct file has no member 'f_paht'; did you mean f_path"),
        ("file->f_path.dentry->d_nam.len", " " * 21 + "^", "struct dentry has no member 'd_nam'; did you mean d_name"),
        ("count.x", "      ^", "size_t has no members"),
        ("buf->x", "     ^", r"char \* has no members"),
        ("file->f_path.mnt->x", "                  ^", r"void \* has no members; tell its type with cast"),
        ("count[1]", "^", "neither array nor pointer"),
        ("file->f_array[2][0]", "              ^", r"has no \[2\]"),
        ("file->f_array[-1][0]", "              ^", r"has no \[-1\]"),
        ('file->f_array["x"]', "              ^", "an index is an integer"),
        ("*count", "^", "is no pointer"),
        ("*NULL", "^", "points to nothing of a known type"),
        ("*file->f_path.mnt", "^", "points to nothing of a known type"),
        ("comm", "^", "a condition takes numbers, and this is text"),
        ("file->f_path", "      ^", "a condition takes numbers, and this is struct path"),
        ("pid == 1 && comm", "            ^", "and this is text"),
        ("!comm", " ^", "this is text"),
        ("-comm == 1", " ^", "- takes numbers"),
        ("comm + 1 == 1", "^", r"\+ takes numbers"),
        ("1 + file->f_array == 1", "          ^", "name a member or element"),
        ('count == "cat"', "      ^", "text cannot be compared with size_t"),
        ('file == "cat"', "     ^", r"text cannot be compared with struct file \*; str\("),
        ('comm < "cat"', "     ^", "text has no <"),
        ('comm in ("a", 1)', "              ^", "text cannot be compared"),
        ('count ~ "4*"', "^", "~ matches text"),
        ("comm ~ comm", "       ^", "pattern in quotes"),
        ('1 ? "a" : 2', "  ^", "one side of this"),
        ("1 / 0", "  ^", "divides by zero"),
        ("count % (2 - 2)", "      ^", "divides by zero"),
        ("1 << 32", "  ^", "32-bit number cannot be shifted by 32"),
        ("count >> -1", "      ^", "64-bit number cannot be shifted by -1"),
        ("file + file", "     ^", "means nothing"),
        ("file - buf", "     ^", "means nothing"),
        ("1 - file", "  ^", "cannot be subtracted"),
        ("str(count)", "    ^", "is no pointer"),
        ("str(comm)", "    ^", "text already"),
        ("str(buf, 0)", "         ^", "from 1 to 4096"),
        ("str(buf, pid)", "         ^", "from 1 to 4096"),
        ("str()", "^", "it is written str"),
        ("strlne(comm)", "^", "no function 'strlne'; did you mean strlen"),
        ("strlen(file)", "       ^", "takes text"),
        ("startswith(comm)", "^", "it is written startswith"),
        ("is_err(comm)", "       ^", "this is text"),
        ('cast(file, "struct nothing *")', "           ^", "no struct nothing"),
        ('cast(file, "struct file")', "           ^", r'cast to "struct file \*"'),
        ("cast(file, file)", "           ^", "stands in quotes"),
        ('cast(comm, "long")', "     ^", "this is text"),
    ],
)  # fmt: skip
def test_what_does_not_fit(text: str, caret: str, message: str) -> None:
    with pytest.raises(ExprError, match=message) as raised:
        compile_filter(text, {"vfs_read": scope()})
    assert str(raised.value).splitlines()[-1] == "    " + caret


@pytest.mark.parametrize("text", ["retval < 0", "$retval < 0", "duration > 5us", "count && is_err(retval)"])
def test_what_only_an_exit_knows(text: str) -> None:
    assert compile_filter(text, {1: scope(is_exit=True)}).predicates
    with pytest.raises(ExprError, match="known only when the function returns"):
        compile_filter(text, {1: scope(is_exit=False)})


def test_void_has_no_retval() -> None:
    with pytest.raises(ExprError, match="returns void"):
        compile_filter("retval == 0", {1: scope("nothing")})


def test_an_argument_named_as_a_word_of_ours_is_not_guessed() -> None:
    made = MadeUpBtf()
    number = made.int("int", 4, True)
    made.func("f", made.proto(0, ("pid", number), ("args", number), ("reg", number), ("task", number)))
    btf = Btf.from_bytes(made.bytes())
    where = {1: Scope("f", btf, btf.function("f"))}
    for text in ("pid == 1", "args.pid == 1", "reg.di == 1", "task == 0"):
        with pytest.raises(ExprError, match="and a word of this language"):
            compile_filter(text, where)
    assert compile_filter("$args.pid == $pid && $args.args == 1 && $reg.di == 1 && $args.reg == 2", where).predicates


def test_an_enumerator_of_two_values_is_not_guessed() -> None:
    made = MadeUpBtf()
    made.enum("a", 4, {"SAME": 1, "TWICE": 1})
    made.enum("b", 4, {"SAME": 1, "TWICE": 2})
    where = {1: Scope("f", Btf.from_bytes(made.bytes()))}
    assert compile_filter("SAME == 1", where).predicates
    with pytest.raises(ExprError, match="several enumerations have TWICE, with the values 1, 2"):
        compile_filter("TWICE == 1", where)


def test_a_function_without_a_prototype() -> None:
    with pytest.raises(ExprError, match=r"arguments are \$arg1"):
        compile_filter("count > 5", {1: BARE})
    with pytest.raises(ExprError, match=r"only \$arg1 to \$arg6"):
        compile_filter("$arg7", {1: BARE})
    with pytest.raises(ExprError, match="cannot be known at the exit"):
        compile_filter("$arg1", {1: Scope("mystery", is_exit=True)})
    with pytest.raises(ExprError, match="no type information"):
        compile_filter('cast($arg1, "long")', {1: BARE})
    assert compile_filter("retval < 0 && is_err(retval)", {1: Scope("mystery", is_exit=True)}).predicates


def test_only_numbers_make_histograms_and_no_structures_make_keys() -> None:
    with pytest.raises(ExprError, match="a histogram takes numbers"):
        compile_quantity("comm", {1: scope()})
    with pytest.raises(ExprError, match="a key takes numbers") as raised:
        compile_keys("comm, file->f_path", {1: scope()})
    assert raised.value.column == len("comm, file->")


def test_a_kernel_without_task_struct_has_plain_tasks() -> None:
    with pytest.raises(TypeNotFound):
        RIG.btf.struct("task_struct")
    with pytest.raises(ExprError, match="has no members"):
        compile_filter("task->pid == 1", {1: scope()})
