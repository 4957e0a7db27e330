"""BTF with wrong bytes in it: a typed error or an answer, within a bound, whatever is asked."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fprobe_gdb.errors import BtfError, FprobeGdbError
from fprobe_gdb.kernel.btf import Btf, CompoundType, Kind
from tests.unit.kernel.btf.made_up_btf import MadeUpBtf
from tests.unit.kernel.btf.made_up_kernel_types import made_up

WHOLE = made_up().bytes()


# Asks everything that can be asked of types.
def ask_everything(data: bytes) -> None:
    try:
        btf = Btf.from_bytes(data)
    except BtfError:
        return
    for type_id in range(min(len(btf), 500)):
        try:
            found = btf.by_id(type_id)
        except BtfError:
            continue
        for ask in (str, repr, lambda of: of.size_bytes, lambda of: of.resolve(), lambda of: of.c_definition()):
            try:
                ask(found)
            except FprobeGdbError:
                continue
        if isinstance(found, CompoundType):
            try:
                list(map(repr, found.flat_members.values()))
            except FprobeGdbError:
                continue
    for ask_name in (btf.function, btf.struct, btf.type, btf.enum, btf.var):
        for name in ("file", "vfs_read", "mode", "struct file *"):
            try:
                ask_name(name)
            except FprobeGdbError:
                continue


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_wrong_bytes(damage: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE)
    for at, byte in damage:
        data[at] = byte
    ask_everything(bytes(data))


# Whole words of small numbers hit type IDs and lengths, where single bytes seldom make sense.
@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(6, len(WHOLE) // 4 - 1), st.integers(0, 90)), min_size=1, max_size=8))
def test_wrong_words(damage: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE)
    for at, word in damage:
        data[at * 4 : at * 4 + 4] = word.to_bytes(4, "little")
    ask_everything(bytes(data))


@settings(max_examples=50)
@given(st.integers(0, len(WHOLE)))
def test_truncation(length: int) -> None:
    with pytest.raises(BtfError):
        Btf.from_bytes(WHOLE[: min(length, len(WHOLE) - 1)])


def test_a_typedef_of_itself() -> None:
    b = MadeUpBtf()
    b.typedef("a", 2)
    b.typedef("b", 1)
    btf = Btf.from_bytes(b.bytes())
    with pytest.raises(BtfError, match="typedef of itself"):
        btf.type("a").resolve()


def test_pointers_in_a_circle_have_no_text() -> None:
    b = MadeUpBtf()
    b.ptr(b.next_id)
    with pytest.raises(BtfError, match="no end"):
        str(Btf.from_bytes(b.bytes()).by_id(1))


def test_prototypes_that_take_each_other_have_no_text() -> None:
    b = MadeUpBtf()
    for _ in range(30):
        following = b.next_id + 1
        b.proto(following, ("a", following), ("b", following))
    b.proto(1, ("a", 1))
    with pytest.raises(BtfError, match="no end"):
        str(Btf.from_bytes(b.bytes()).by_id(1))


def test_structures_in_structures_without_end() -> None:
    b = MadeUpBtf()
    b.compound("", 8, ("", 1, 0), ("", 1, 0))
    btf = Btf.from_bytes(b.bytes())
    found = btf.by_id(1)
    assert isinstance(found, CompoundType)
    for ask in (lambda: found.flat_members, found.c_definition):
        with pytest.raises(BtfError):
            ask()


def test_arrays_of_arrays_without_end() -> None:
    b = MadeUpBtf()
    b.array(b.next_id, 1 << 31)
    found = Btf.from_bytes(b.bytes()).by_id(1)
    with pytest.raises(BtfError):
        _ = found.size_bytes
    with pytest.raises(BtfError):
        str(found)


def test_a_function_where_a_type_belongs() -> None:
    b = MadeUpBtf()
    b.func("f", b.ptr(b.next_id + 1))
    btf = Btf.from_bytes(b.bytes())
    with pytest.raises(BtfError, match="no prototype"):
        btf.function("f")
    assert btf.names(Kind.FUNC) == {"f"}


@pytest.mark.parametrize("through", ["itself", "const", "array"])
def test_a_variable_made_of_itself_has_no_size(through: str) -> None:
    b = MadeUpBtf()
    var = b.next_id + 1
    if through == "array":
        b.array(var, 2)
    else:
        b.qualified(Kind.CONST, var)
    b.add(Kind.VAR, "v", var if through == "itself" else 1, 1)
    with pytest.raises(BtfError, match="no type"):
        _ = Btf.from_bytes(b.bytes()).by_id(var).size_bytes
