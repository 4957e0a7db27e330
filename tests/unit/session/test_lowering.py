"""Pads and closures give one answer: whatever is asked, of whatever call."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fprobe_gdb.errors import ExprError, NotCompiled
from fprobe_gdb.expr.compile import NO_VALUE, number
from fprobe_gdb.expr.names import Scope
from fprobe_gdb.expr.typed import Typed
from fprobe_gdb.registers import MASK64
from fprobe_gdb.session.lowering import GuestFacts, Lowering, TaskFields
from tests.unit.dispatch.pad_expr_machine import COMM, KHZ, PID, TGID, ExprMachine
from tests.unit.expr.made_up_hits import BARE, Hit, scope, typed
from tests.unit.kernel.values.made_up_memory import BASE, FILE, OTHER, SIZE, STACK, Rig

FACTS = GuestFacts(TaskFields(COMM, PID, TGID), KHZ, True)
STEADY = settings(max_examples=200)


@cache
def machine(is_exit: bool, direct_map: int) -> ExprMachine:
    return ExprMachine(Hit(), is_exit=is_exit, direct_map=direct_map)


def answers(node: Typed, hit: Hit, where: Scope, direct_map: int = 0) -> tuple[int | None, int | None]:
    """Of the closures, and of the machine code; None for no value."""
    try:
        expected: int | None = int(number(node)(hit)) & MASK64
    except NO_VALUE:
        expected = None
    cpu = machine(where.is_exit, direct_map)
    cpu.set(hit)
    return expected, cpu.value(Lowering(where, Hit.ip, FACTS).number(node))


@pytest.mark.parametrize("is_exit", [False, True], ids=["entry", "exit"])
@pytest.mark.parametrize(
    "text",
    [
        'count > 512 and comm == "cat"',
        'count == 4096 && pid == 71 && tgid == 70 && cpu == 1',
        'func == "vfs_read" && "vfs_read" == func && func ~ "vfs*"',
        "caller_ip == 0xffffffff81000010 && ip == 0xffffffff81000000",
        'startswith(comm, "ca") and not startswith(comm, "at")',
        'comm in ("cat", "dd") && comm not in ("ls", "ca", "cats")',
        'comm ~ "ca*" && comm ~ "cat" && !(comm ~ "!c*") && comm ~ "!d*"',
        "pid in (1, 70 + 1) && pid not in (1, 2)",
        "args.count == $arg3 && $arg1 == file && $pid == 71",
        "cast(file, \"unsigned long\") == $arg1 && cast(300, \"unsigned char\") == 44",
        "task == 0xffff888000042000",
        "file && !(file == NULL) && file != 0 && NULL == 0",
        "file > 0 && !(file > -1)",
        "(file + 1) - file == 1 && 1 + file > file",
        "cast(file + 1, \"unsigned long\") - cast(file, \"unsigned long\") == 112",
        "(count > 1 ? 5 : 6) == 5 && (count < 1 ? 5 : count) == 4096",
        "count / 0x10 == 256 && count % 5 == 1 && -count >> 60 == 15",
    ],
)  # fmt: skip
def test_true_of_the_made_up_call(text: str, is_exit: bool) -> None:
    where = scope(is_exit=is_exit)
    assert answers(typed(text, where), Hit(), where) == (1, 1)
    assert answers(typed(f"!({text})", where), Hit(), where) == (0, 0)


@pytest.mark.parametrize(
    "text",
    ["retval == 13 && duration == 7000 && duration < 7001ns", "is_err(retval) == 0", "reg.ax == 13 && reg.bp == 26214"],
)
def test_true_of_the_return(text: str) -> None:
    assert answers(typed(text), Hit(bp=0x6666), scope()) == (1, 1)


@pytest.mark.parametrize("is_exit", [False, True], ids=["entry", "exit"])
@pytest.mark.parametrize("direct_map", [0, BASE - 0x1000], ids=["page tables", "direct map"])
@pytest.mark.parametrize(
    "text",
    [
        'file->f_path.dentry->d_name.name == "motd" && file->f_path.dentry->d_name.name != "mot"',
        'file->f_path.dentry->d_name.name ~ "m*" && file->f_path.dentry->d_name.name ~ "!o*"',
        'file->f_path.dentry->d_iname == "motd" && "motdx" != file->f_path.dentry->d_iname',
        'str(file->f_path.dentry->d_name.name, 2) == "mo" && startswith(file->f_path.dentry->d_iname, "mo")',
        'str(file->f_path.dentry->d_name.name) in ("motd", "passwd")',
        'cast(reg.di, "struct file *")->f_path.dentry == file->f_path.dentry',
        "(*file).f_pos == file[0].f_pos && file[-1 + 1].f_mode == file->f_mode && file->f_pos == -0x10000000000",
        "file->low == 5 && file->neg == -15 && file->wide == 0xabcdef && file->class == 7 && file->f_lock",
        "file->f_array[1][2] == 6 && file->f_array[pid - 70][0] == 4 && file->f_tail[pid - 70] == 72",
        "file->f_mode == MODE_BAD && file->f_count == -5 && file->f_raw == 0xfffffffb && file->f_big > 1",
        "file->f_next->f_next == -2 && file->f_next->f_count == 9",
    ],
)
def test_true_of_what_pointers_lead_to(text: str, direct_map: int, is_exit: bool) -> None:
    where = scope(is_exit=is_exit)
    text = text.replace("reg.di", "$arg1")
    assert answers(typed(text, where), Hit(), where, direct_map) == (1, 1)
    assert answers(typed(f"!({text})", where), Hit(), where, direct_map) == (0, 0)


@pytest.mark.parametrize(
    "text",
    [
        "file->f_next->f_path.dentry->d_flags == 1",
        "file->f_next->f_next->f_count == 1",
        'file->f_next->f_path.dentry->d_name.name == "motd"',
        'str(file->f_path.mnt) == "x"',
        "file->f_array[pid - 69][0] == 1 || 1",
        "file->f_tail[70 - pid] == 1",
        "*pos == 1",
    ],
)
@pytest.mark.parametrize("direct_map", [0, BASE - 0x1000], ids=["page tables", "direct map"])
def test_no_value(text: str, direct_map: int) -> None:
    assert answers(typed(text), Hit(), scope(), direct_map) == (None, None)


@pytest.mark.parametrize(
    "addr", [0xDEAD000000000100, 0x800000000000, MASK64, BASE + SIZE - 4, BASE + SIZE - 1, BASE - 1]
)
def test_bad_pointers(addr: int) -> None:
    for text in ("*pos", "file->f_path.dentry == NULL", 'cast(pos, "char *")[0] < 100', 'str(buf) != "x"'):
        expected, found = answers(typed(text), Hit(cx=addr, di=addr, si=addr), scope())
        assert expected == found, text


def test_a_text_that_runs_into_what_is_not_mapped_is_read_up_to_the_first_difference() -> None:
    rig = Rig()
    rig.raw.put(BASE + SIZE - 3, b"abc")
    hit = Hit(rig=rig, si=BASE + SIZE - 3)
    assert answers(typed('startswith(buf, "abx")'), hit, scope())[1] == 0
    assert answers(typed('str(buf, 3) == "abc"'), hit, scope()) == (1, 1)
    assert answers(typed('str(buf) == "abcd"'), hit, scope()) == (None, None)


@pytest.mark.parametrize("func", ["many", "find", "vfs_read"])
@pytest.mark.parametrize("ax", [0, 1, 0x100, -2 & MASK64, -4096 & MASK64, -4095 & MASK64, 0xFFFFFFF3, 1 << 63])
def test_a_return_value_is_as_its_type_says(func: str, ax: int) -> None:
    where = scope(func)
    for text in ("retval", "is_err(retval)", "retval == -13", "!retval", "retval > 0"):
        expected, found = answers(typed(text, where), Hit(func, ax=ax), where)
        assert expected == found, text


def test_arguments_on_the_stack() -> None:
    rig = Rig()
    rig.raw.put(STACK + 8, (-7 & MASK64).to_bytes(8, "little") + (8).to_bytes(8, "little"))
    for is_exit in (False, True):
        where = scope("many", is_exit=is_exit)
        assert answers(typed("g * 100 + h == -692 && f == 6", where), Hit("many", rig=rig), where) == (1, 1)


def test_nothing_is_known_of_a_function() -> None:
    assert answers(typed("$arg3 == 4096 && reg.di == $arg1", BARE), Hit(), BARE) == (1, 1)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('comm ~ "*at"', "more than the beginning"),
        ('caller == "ksys_read"', "caller is text"),
        ("strlen(comm) == 3", "length"),
        ("reg.r10 == 1", "r10"),
        (r'comm == "a\\b"', "backslash"),
        ("comm == func", "no constant"),
    ],
)
def test_what_pads_cannot_do_is_said(text: str, why: str) -> None:
    with pytest.raises(NotCompiled, match=why):
        Lowering(scope(), Hit.ip, FACTS).number(typed(text))


# Of all sizes and signs: long, unsigned long, int, pointers, enumerations, truth values.
ATOMS = {
    "many": ["a", "b", "c", "d", "e", "f", "g", "h", "retval", "pid", "cpu", "duration", "$arg2", "reg.ax"],
    "vfs_read": [
        "count",
        "retval",
        "pid",
        "tgid",
        "caller_ip",
        "ip",
        "task",
        "duration",
        "file",
        "pos",
        "is_err(buf)",
        "file->f_path.dentry->d_flags",
        "file->neg",
        "file->f_array[pid & 3][1]",
        "*pos",
        "file->f_lock",
        "file->f_next->f_next->class",
        "file->f_big",
        "pos[retval]",
    ],
    "find": ["mode", "retval", "pid", "reg.dx", 'cast(mode, "unsigned char")', 'cast(retval, "bool")'],
}
NUMBERS = st.sampled_from(
    ["0", "1", "2", "-1", "7", "31", "63", "255", "-128", "2147483647", "-2147483648", "0xffffffff", "4096u",
     "0x7fffffffffffffff", "0x8000000000000000", "0xffffffffffffffff", "5us", "MODE_BAD", "'a'"]
)  # fmt: skip
BINARY = st.sampled_from(["+", "-", "*", "/", "%", "&", "|", "^", "<<", ">>", "==", "!=", "<", "<=", ">", ">=", "&&",
                          "||"])  # fmt: skip
WORDS = st.one_of(
    st.integers(0, MASK64),
    st.sampled_from([0, 1, 63, 0x80, 0xFFFFFFFF, 1 << 31, 1 << 63, MASK64, MASK64 - 1, 71, FILE, OTHER, STACK]),
)


def expressions(func: str) -> st.SearchStrategy[str]:
    atoms = st.one_of(st.sampled_from(ATOMS[func]), NUMBERS)
    return st.recursive(
        atoms,
        lambda inner: st.one_of(
            st.tuples(inner, BINARY, inner).map(lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"),
            st.tuples(st.sampled_from("-~!"), inner).map(lambda parts: f"{parts[0]}({parts[1]})"),
            st.tuples(inner, inner, inner).map(lambda parts: f"({parts[0]} ? {parts[1]} : {parts[2]})"),
            st.tuples(inner, inner, NUMBERS).map(lambda parts: f"({parts[0]} in ({parts[1]}, {parts[2]}, 3))"),
            inner.map(lambda part: f'cast({part}, "int")'),
        ),
        max_leaves=8,
    )


@STEADY
@given(st.data())
def test_pads_compute_what_closures_compute(data: st.DataObject) -> None:
    func = data.draw(st.sampled_from(sorted(ATOMS)))
    text = data.draw(expressions(func))
    try:
        node = typed(text, scope(func))
    except ExprError:
        return
    regs = {name: data.draw(WORDS) for name in ("di", "si", "dx", "cx", "r8", "r9", "ax")}
    hit = Hit(func, **regs)
    expected, found = answers(node, hit, scope(func))
    assert expected == found, text


@STEADY
@given(st.text("ca\0té", max_size=15), st.text("ca\0té", max_size=17))
def test_texts_are_compared_as_closures_do(comm: str, other: str) -> None:
    if len(comm.encode()) > 15 or "\0" in comm:
        return
    quoted = other.replace("\0", r"\0")
    for text in (f'comm == "{quoted}"', f'comm != "{quoted}"', f'startswith(comm, "{quoted}")'):
        try:
            node = typed(text)
        except ExprError:
            return
        expected, found = answers(node, Hit(comm=comm), scope())
        assert expected == found, text
