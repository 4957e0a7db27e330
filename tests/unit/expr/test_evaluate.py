"""What expressions give for a hit: C's values, and nothing read that is not needed."""

from __future__ import annotations

import struct

import pytest

from fprobe_gdb.errors import StaleValue
from fprobe_gdb.expr import compile_filter
from tests.unit.expr.made_up_hits import BARE, Hit, holds, number_of, predicate, scope
from tests.unit.kernel.values.made_up_memory import FILE, OTHER, STACK, Rig


@pytest.mark.parametrize(
    "text",
    [
        "count > 512 and comm == \"cat\"",
        "count == 4096 && pid == 71 && tgid == 70 && cpu == 1",
        "retval == 13",
        "func == \"vfs_read\" && caller == \"ksys_read\"",
        "caller_ip == 0xffffffff81000010 && ip == 0xffffffff81000000",
        "duration >= 5us && duration < 7001ns && duration == 7000",
        "file->f_path.dentry->d_name.name == \"motd\"",
        "file.f_path->dentry.d_name.name ~ \"m*\"",
        "file->f_path.dentry->d_iname == \"motd\"",
        "str(file->f_path.dentry->d_name.name, 2) == \"mo\"",
        "strlen(file->f_path.dentry->d_name.name) == 4",
        "startswith(comm, \"ca\") and not startswith(comm, \"at\")",
        "comm in (\"cat\", \"dd\") && comm not in (\"ls\")",
        "pid in (1, 70 + 1) && pid not in (1, 2)",
        "(pid == 1 ? \"a\" : comm) == \"cat\"",
        "args.count == $arg3 && $arg1 == file && $pid == 71",
        "reg.di == file && $reg.dx == 4096",
        "cast(reg.di, \"struct file *\")->f_path.dentry == file->f_path.dentry",
        "cast(file, \"unsigned long\") == reg.di && cast(300, \"unsigned char\") == 44",
        "task == 0xffff888000042000",
        "file && !(file == NULL) && file != 0 && NULL == 0",
        "file > 0 && !(file > -1)",
        "(file + 1) - file == 1 && 1 + file > file",
        "cast(file + 1, \"unsigned long\") - cast(file, \"unsigned long\") == 112",
        "(*file).f_pos == file[0].f_pos && file[-1 + 1].f_mode == file->f_mode",
    ],
)  # fmt: skip
def test_true_of_the_made_up_call(text: str) -> None:
    assert holds(text)
    assert not holds(f"!({text})")


def test_bit_fields_arrays_enumerations_truth_values() -> None:
    rig = Rig()
    rig.raw.put(FILE + 24, struct.pack("<i", -2))
    rig.raw.put(FILE + 28, struct.pack("<I", 0xABCDEF << 8 | 0b10110 << 3 | 0b101))
    rig.raw.put(FILE + 53, b"\x07")
    rig.raw.put(FILE + 64, struct.pack("<6i", 1, 2, 3, 4, 5, -6))
    hit = Hit(rig=rig)
    assert number_of("file->low", hit) == 5
    assert number_of("file->neg", hit) == 0b10110 - 32
    assert number_of("file->wide", hit) == 0xABCDEF
    assert number_of("file->f_array[1][2]", hit) == -6
    assert number_of("file->f_array[pid - 70][0]", hit) == 4
    assert number_of("file->f_lock", hit) == 1
    assert holds("file->f_mode == MODE_BAD && file->f_mode < MODE_OFF", hit)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # size_t count against int: compared unsigned, as in C.
        ("count > -1", 0),
        ("count - 4097 > 0", 1),
        ("retval - 14 < 0", 1),
        ("pid - 72 < 0", 1),
        ("0xffffffff + 1", 0),
        ("2147483647 + 1", -(2**31)),
        ("-7 / 2", -3),
        ("-7 % 2", -1),
        ("-7 >> 1", -4),
        ("1u << 31", 2**31),
        ("1 << 31", -(2**31)),
        ("~0u", 2**32 - 1),
        ("~5", -6),
        ("-1u", 2**32 - 1),
        ("!!42", 1),
        ("~(1 == 1)", -2),
        ("(1 == 1) + (2 > 1)", 2),
        ("1 ? -1 : 1u", 2**32 - 1),
    ],
)
def test_integers_behave_as_in_c(text: str, value: int) -> None:
    assert number_of(text) == value


@pytest.mark.parametrize(
    ("function", "ax", "text", "expected"),
    [
        ("vfs_read", -2, "retval == -ENOENT && retval < 0 && is_err(retval)", True),
        ("vfs_read", -4096, "is_err(retval)", False),
        ("printk", 0x1_FFFFFFEA, "retval == -EINVAL && is_err(retval)", True),
        ("printk", 22, "is_err(retval)", False),
        ("many", 0xFF00, "retval", False),
        ("many", 0xFF01, "retval == true && !is_err(retval)", True),
        ("find", -517, "is_err(retval) && retval == -EPROBE_DEFER", True),
        ("find", FILE, "is_err(retval)", False),
        ("find", FILE, "retval->f_path.dentry->d_name.len == 4", True),
        ("find", 0, "retval == NULL", True),
    ],
)
def test_return_values_by_type(function: str, ax: int, text: str, expected: bool) -> None:
    assert holds(text, Hit(function, ax=ax), scope(function)) is expected


def test_only_what_is_needed_is_asked_for() -> None:
    found = predicate("count > 5000 and comm == \"cat\"")  # fmt: skip
    hit = Hit()
    assert not found(hit)
    assert hit.asked == ["args"]
    hit = Hit(dx=6000)
    assert found(hit)
    assert hit.asked == ["args", "comm"]
    hit = Hit()
    assert holds('comm == "cat" || retval > 0', hit)
    assert hit.asked == ["comm"]
    rig = Rig()
    assert holds("pid == 71 ? count : file->f_pos", Hit(rig=rig))
    assert rig.raw.reads == 0


def test_a_hit_that_cannot_be_evaluated_is_false_and_counted() -> None:
    name = predicate('file->f_path.dentry->d_name.name == "motd"')
    denied = predicate('!(file->f_path.dentry->d_name.name == "motd")')
    for found in (name, denied):
        assert not found(Hit(di=OTHER))
        assert not found(Hit(di=0))
        assert found.faults == 2
    assert name(Hit())
    divided = predicate("count / (pid - 71) == 0 || true")
    assert not divided(Hit())
    assert divided.faults == 1
    outside = predicate("file->f_array[count][0] == 0")
    assert not outside(Hit())
    assert outside.faults == 1
    assert not predicate("file->f_pos").faults


def test_a_fault_that_is_not_reached_is_none() -> None:
    found = predicate('file != NULL && file->f_path.dentry->d_name.name == "motd"')
    assert not found(Hit(di=0))
    assert not found.faults


def test_a_hit_of_an_earlier_stop_is_an_error() -> None:
    rig = Rig()
    hit = Hit(rig=rig)
    assert hit.args
    rig.raw.epoch += 1
    with pytest.raises(StaleValue):
        predicate("file->f_pos == 0")(hit)


def test_without_a_prototype() -> None:
    assert holds('$arg3 == 4096 && comm == "cat" && reg.sp > 0', where=BARE)
    assert number_of("reg.sp", where=BARE) == STACK


@pytest.mark.parametrize(
    ("pattern", "comms"),
    [("c*", "cat"), ("*t", "cat"), ("*a*", "cat"), ("c?t", "cat"), ("[a-c]at", "cat"), ("cat", "cat"), ("!ls", "cat"),
     ("9p*", "9pfs"), ("*", ""), ("", "")],
)  # fmt: skip
def test_patterns_are_ftraces(pattern: str, comms: str) -> None:
    assert holds(f'comm ~ "{pattern}"', Hit(comm=comms))
    assert not holds(f'comm =~ "{pattern}x"', Hit(comm=comms)) or pattern in ("!ls", "*", "")


def test_the_filter_of_one_function_does_not_serve_another() -> None:
    found = compile_filter("a == -2", {"many": scope("many"), "by_value": scope("by_value")})
    assert found.predicates["many"](Hit("many", di=-2))
    assert not found.predicates["by_value"](Hit("by_value", di=2))


def test_structures_by_value() -> None:
    assert holds("p.a == 2 && p->b == 4096 && h.a[1] == 0", Hit("by_value", si=2), scope("by_value"))
