"""Arguments and return values by the System V ABI for x86_64."""

from __future__ import annotations

import struct

import pytest

from fprobe_gdb.errors import ElementNotFound, MemberNotFound, MemoryFault
from fprobe_gdb.kernel.values import FAULT, Arguments, Value, arguments, error_name, return_value
from tests.unit.kernel.values.made_up_memory import FILE, STACK, Rig

REGS = {"di": 1, "si": 2, "dx": 3, "cx": 4, "r8": 5, "r9": 6, "sp": STACK, "ax": 0}


@pytest.fixture
def rig() -> Rig:
    return Rig()


def call(rig: Rig, name: str, **regs: int) -> Arguments:
    return arguments(rig.btf, rig.btf.function(name), REGS | regs, rig.memory)


def returned(rig: Rig, name: str, **regs: int) -> Value | None:
    return return_value(rig.btf, rig.btf.function(name), REGS | regs, rig.memory)


def test_by_name_and_by_number(rig: Rig) -> None:
    args = call(rig, "vfs_read", di=FILE, dx=4096)
    assert args.file.f_path.dentry.d_name.name.string() == "motd"
    assert args["count"] == args[2] == 4096
    assert list(args) == ["file", "buf", "count", "pos"]
    assert [int(value) for value in args[2:]] == [4096, 4]
    assert str(args).startswith(f"file={FILE:#x}, buf=0x2 {FAULT}, count=4096")
    assert repr(args).startswith("vfs_read(file=")
    with pytest.raises(MemberNotFound, match="did you mean count"):
        _ = args.cuont
    with pytest.raises(ElementNotFound):
        args[4]


def test_registers_hold_more_than_the_argument_has(rig: Rig) -> None:
    assert call(rig, "many", di=0xFFFFFFFF_FFFFFFFE).a == -2
    assert call(rig, "many", di=0x1_00000007).a == 7


def test_the_seventh_and_further_ones_lie_behind_the_return_address(rig: Rig) -> None:
    rig.raw.put(STACK, struct.pack("<QqQ", 0xBAD, -7, 8))
    args = call(rig, "many")
    assert rig.raw.reads == 0
    assert [int(args[name]) for name in "abcdefgh"] == [1, 2, 3, 4, 5, 6, -7, 8]


def test_structures_by_value(rig: Rig) -> None:
    # int a: di; pair p: si, dx; huge h: stack; pair q: cx, r8; pair r: does not fit, stack; int z: r9.
    rig.raw.put(STACK, struct.pack("<6Q", 0xBAD, 11, 12, 13, 21, 22))
    args = call(rig, "by_value")
    assert args.a == 1
    assert (args.p.a, args.p.b) == (2, 3)
    assert [int(one) for one in args.h.a] == [11, 12, 13]
    assert (args.q.a, args.q.b) == (4, 5)
    assert (args.r.a, args.r.b) == (21, 22)
    assert args.z == 6


def test_a_returned_structure_takes_a_hidden_parameter(rig: Rig) -> None:
    assert call(rig, "gives_huge").a == 2
    rig.raw.put(STACK, struct.pack("<3Q", 31, 32, 33))
    huge = returned(rig, "gives_huge", ax=STACK)
    assert huge is not None
    assert [int(one) for one in huge.a] == [31, 32, 33]
    pair = returned(rig, "by_value", ax=8, dx=9)
    assert pair is not None
    assert (pair.a, pair.b) == (8, 9)


def test_floating_point_is_unsupported_and_takes_no_integer_register(rig: Rig) -> None:
    args = call(rig, "floats")
    assert (args.a, args.b) == (1, 2)
    assert str(args.f) == "<double: not supported>"
    with pytest.raises(MemoryFault):
        args.f.bytes_()


@pytest.mark.parametrize(
    ("function", "ax", "text", "error"),
    [
        ("vfs_read", 13, "13", None),
        ("vfs_read", -2, "-2", "-ENOENT"),
        ("printk", 0x1_FFFFFFEA, "-22", "-EINVAL"),
        ("many", 0xFF00, "false", None),
        ("many", 0xFF01, "true", None),
        ("find", FILE, f"{FILE:#x}", None),
        ("find", -517, "ERR_PTR(-EPROBE_DEFER)", "-EPROBE_DEFER"),
    ],
)
def test_what_a_function_returns(rig: Rig, function: str, ax: int, text: str, error: str | None) -> None:
    value = returned(rig, function, ax=ax & (1 << 64) - 1)
    assert value is not None
    assert str(value) == text
    assert value.error_name() == error


def test_void_is_nothing(rig: Rig) -> None:
    assert returned(rig, "nothing") is None


def test_error_numbers_are_the_kernels_names() -> None:
    assert [error_name(-code) for code in (11, 35, 95, 512, 524)] == [
        "-EAGAIN",
        "-EDEADLK",
        "-EOPNOTSUPP",
        "-ERESTARTSYS",
        "-ENOTSUPP",
    ]
    assert error_name(2) is None
    assert error_name(-4096) is None
    assert error_name(-4000) is None
