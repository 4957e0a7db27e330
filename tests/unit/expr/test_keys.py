"""What histograms and counts are made of."""

from __future__ import annotations

import struct

import pytest

from fprobe_gdb.errors import ExprUnfit
from fprobe_gdb.expr import compile_keys, compile_quantity
from tests.unit.expr.made_up_hits import Hit, scope
from tests.unit.kernel.values.made_up_memory import FILE, OTHER, Rig


@pytest.mark.parametrize(
    ("function", "text", "key"),
    [
        ("vfs_read", "comm", ("cat",)),
        ("vfs_read", "comm, count ,retval", ("cat", 4096, 13)),
        ("vfs_read", "file", (hex(FILE),)),
        ("vfs_read", "reg.dx, caller_ip", ("0x1000", "0xffffffff81000010")),
        ("vfs_read", "file->f_path.dentry->d_name.name", ("motd",)),
        ("vfs_read", "file->f_path.dentry->d_iname", ("motd",)),
        ("vfs_read", "file->f_mode, file->f_mode + 0", ("MODE_ON", 1)),
        ("vfs_read", "file->f_lock, count > 5", ("true", 1)),
        ("vfs_read", "count > 4096 ? \"large\" : \"small\"", ("small",)),
        ("vfs_read", "$pid / 10 * 10", (70,)),
    ],
)  # fmt: skip
def test_keys_say_what_people_want_to_read(function: str, text: str, key: tuple[int | str, ...]) -> None:
    rig = Rig()
    rig.raw.put(FILE + 24, struct.pack("<i", 1))
    rig.raw.put(FILE + 53, b"\x01")
    found = compile_keys(text, {function: scope(function)})
    assert found.extractors[function](Hit(function, rig=rig)) == key
    assert found.titles == tuple(part.strip() for part in text.split(","))
    # A bool would be told apart from 1 by JSON.
    assert all(type(part) in (int, str) for part in key)


@pytest.mark.parametrize(
    ("function", "ax", "key"),
    [("vfs_read", -2, "-ENOENT"), ("vfs_read", -5000, -5000), ("vfs_read", 0, 0), ("find", -2, "-ENOENT"),
     ("find", FILE, hex(FILE)), ("find", 0, "0x0"), ("many", 1, "true"), ("many", 0, "false")],
)  # fmt: skip
def test_return_values_by_name(function: str, ax: int, key: int | str) -> None:
    assert compile_keys("retval", {1: scope(function)}).extractors[1](Hit(function, ax=ax)) == (key,)


def test_a_hit_without_a_value_is_counted() -> None:
    keys = compile_keys("comm, file->f_path.dentry->d_name.name", {1: scope()})
    numbers = compile_quantity("file->f_path.dentry->d_name.len", {1: scope()})
    assert keys.extractors[1](Hit(di=OTHER)) is None
    assert numbers.extractors[1](Hit(di=OTHER)) is None
    assert numbers.extractors[1](Hit()) == 4
    assert keys.faults == numbers.faults == 1


def test_numbers_are_plain() -> None:
    found = compile_quantity(" count > 5 ", {1: scope()})
    assert type(found.extractors[1](Hit())) is int
    assert found.titles == ("count > 5",)


def test_unfit_functions() -> None:
    where = {"vfs_read": scope(), "many": scope("many")}
    with pytest.raises(ExprUnfit, match=r"many\(\): no argument or other name 'count'"):
        compile_quantity("count", where)
    assert set(compile_quantity("count", where, skip_unfit=True).unfit) == {"many"}
    assert set(compile_keys("comm, count", where, skip_unfit=True).extractors) == {"vfs_read"}
