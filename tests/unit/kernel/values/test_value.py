"""Values: what C reaches through members, pointers and arrays, and what happens where nothing can be read."""

from __future__ import annotations

import copy

import pytest

from fprobe_gdb.errors import (
    ElementNotFound,
    MemberNotFound,
    MemoryFault,
    StaleValue,
    WrongType,
)
from fprobe_gdb.kernel.values import FAULT, Value
from tests.unit.kernel.values.made_up_memory import BASE, DENTRY, FILE, NAME, OTHER, SIZE, Rig


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_path_of_members_is_followed_to_its_string(rig: Rig) -> None:
    assert rig.raw.reads == 0
    assert rig.file.f_path.dentry.d_name.name.string() == "motd"
    assert rig.raw.reads == 3
    assert rig.file.f_path.dentry.d_iname.string() == "motd"
    assert rig.file["f_path.dentry"].d_name.len == 4


def test_numbers_have_their_sign_and_width(rig: Rig) -> None:
    file = rig.file
    assert file.f_count == -5
    assert file.f_raw == (1 << 32) - 5
    assert (file.low, file.neg, file.wide) == (5, -15, 0xABCDEF)
    assert file.f_pos == -1 << 40
    assert bool(file.f_lock) is True
    assert f"{file.f_path.dentry:#x} {file.f_raw:x}" == f"{DENTRY:#x} fffffffb"
    assert file.f_count + 1 == -4
    assert 10 - file.f_count == 15
    assert file.low & 4 == 4
    assert file.f_count < 0 <= file.low
    assert [10, 20, 30, 40, 50, 60][file.low] == 60
    assert {file.low: "x"}[5] == "x"


def test_names_of_methods_and_of_python_are_reached_by_index(rig: Rig) -> None:
    assert rig.file["string"] == 42
    assert rig.file["class"] == 7
    assert "f_path" in dir(rig.file)


def test_arrays(rig: Rig) -> None:
    matrix = rig.file.f_array
    assert len(matrix) == 2
    assert [[int(cell) for cell in row] for row in matrix] == [[1, 2, 3], [4, 5, 6]]
    assert matrix[-1][0] == 4
    assert [int(cell) for cell in matrix[0][1:]] == [2, 3]
    with pytest.raises(ElementNotFound):
        matrix[2]
    with pytest.raises(IndexError):
        matrix[-3]
    assert [int(cell) for cell in rig.file.f_tail[:2]] == [71, 72]
    with pytest.raises(ElementNotFound):
        rig.file.f_tail[1:]


def test_pointers_count_in_elements(rig: Rig) -> None:
    first = rig.file.f_array[0][0].address_of()
    assert str(first.type_) == "int *"
    assert (first + 2).deref() == 3
    assert first[5] == 6
    assert (first + 4) - first == 4
    assert int(1 + first) == FILE + 68
    assert int(first - 1) == FILE + 60
    assert [int(one) for one in first[1:3]] == [2, 3]


def test_enumerations_by_name(rig: Rig) -> None:
    assert rig.file.f_mode.enum_name() == "MODE_BAD"
    assert str(rig.file.f_mode) == "MODE_BAD"
    assert str(rig.file.f_next.f_mode) == "99"
    assert rig.file.f_big.enum_name() == "BIG_TOP"


def test_container_of_and_cast(rig: Rig) -> None:
    name = rig.file.f_path.dentry.d_name.address_of()
    dentry = name.container_of("struct dentry", "d_name")
    assert int(dentry) == DENTRY
    assert str(dentry.type_) == "struct dentry *"
    assert rig.file.f_path.dentry.cast("unsigned long") == DENTRY
    assert rig.file.f_count.cast("unsigned char") == 251
    assert rig.file.f_array.cast("int[6]")[5] == 6
    assert rig.file.f_count.cast("bool") == 1
    with pytest.raises(WrongType):
        rig.file.f_count.cast("struct file")


def test_a_bad_pointer_is_a_fault_and_what_lies_behind_it_too(rig: Rig) -> None:
    bad = rig.file.f_next.f_path.dentry.d_name
    assert str(bad) == FAULT
    assert bad.name.string() == FAULT
    assert repr(bad.name) == f"(const char *){FAULT}"
    assert f"{bad.len:>9x}" == FAULT
    assert f"{bad.len:>9}" == f"  {FAULT}"
    assert (bad.len == 0) is False
    for ask in (int, bool, hash, bytes_of):
        with pytest.raises(MemoryFault):
            ask(bad.len)
    further = bad.name.cast("struct file *").f_next.f_next.f_array[1][1]
    assert str(further) == FAULT
    assert str(bad.name.container_of("struct dentry", "d_flags")) == FAULT
    assert str(further.copy()) == FAULT


def bytes_of(value: Value) -> bytes:
    return value.bytes_()


def test_a_string_may_end_at_the_end_of_what_is_mapped(rig: Rig) -> None:
    rig.raw.put(BASE + SIZE - 3, b"ab\0")
    near_end = Value.of_int(rig.btf, rig.memory, rig.btf.type("const char *"), BASE + SIZE - 3)
    assert near_end.string() == "ab"
    rig.raw.put(BASE + SIZE - 1, b"c")
    assert near_end.string() == FAULT
    assert near_end.string(2) == "ab"


def test_error_codes_have_names(rig: Rig) -> None:
    assert rig.file.f_count.error_name() == "-EIO"
    assert rig.file.low.error_name() is None
    assert rig.file.f_next.f_next.error_name() == "-ENOENT"
    assert repr(rig.file.f_next.f_next) == "(struct file *)ERR_PTR(-ENOENT)"


def test_values_grow_stale_when_the_guest_runs_on(rig: Rig) -> None:
    dentry = rig.file.f_path.dentry
    kept = rig.file.deref().copy()
    rig.raw.epoch += 1
    for ask in (int, str, repr, bool, bytes_of, Value.dump, Value.copy):
        with pytest.raises(StaleValue, match="run on"):
            ask(dentry)
    # What was held already stays; what it leads to does not.
    assert int(rig.file) == FILE
    assert kept.f_count == -5
    assert kept.f_array[1][2] == 6
    with pytest.raises(StaleValue):
        kept.f_path.dentry.d_name.len.__int__()


def test_one_line(rig: Rig) -> None:
    assert repr(rig.file) == f"(struct file *){FILE:#x}"
    assert repr(rig.file.f_path.dentry.d_name) == f'(struct qstr){{.hash = 4660, .len = 4, .name = {NAME:#x} "motd"}}'
    assert "\n" not in repr(rig.file.deref())
    assert str(rig.file.f_array) == "{{1, 2, 3}, {4, 5, 6}}"
    rig.raw.put(NAME, b'a"\n\xff\0')
    assert str(rig.file.f_path.dentry.d_name.name) == f'{NAME:#x} "a\\"\\x0a\\\\xff"'


def test_a_whole_structure_is_indented(rig: Rig) -> None:
    lines = rig.file.deref().dump().splitlines()
    assert lines[0] == "(struct file){"
    assert lines[-1] == "}"
    assert "\t\t.f_count = -5," in lines
    assert "\t\t.neg = -15," in lines
    assert f"\t.f_next = {OTHER:#x}," in lines
    assert rig.file.f_next.f_path.dentry.deref().dump() == f"(struct dentry){FAULT}"


def test_what_makes_no_sense_is_refused(rig: Rig) -> None:
    file = rig.file
    with pytest.raises(MemberNotFound, match="did you mean f_path"):
        _ = file.f_paht
    assert not hasattr(file, "nonsense")
    assert not hasattr(file.f_count, "member_of_int")
    for ask in (
        lambda: int(file.f_path),
        lambda: len(file),
        lambda: list(file.f_count),
        lambda: file.f_count.string(),
        lambda: file.low.address_of(),
        lambda: file.address_of(),
        lambda: file.f_count.deref(),
        lambda: file.f_count.enum_name(),
        lambda: file.container_of("int", "x"),
        lambda: file.f_count + "1",
    ):
        with pytest.raises(TypeError):
            ask()
    assert file.f_path != file
    assert file.f_count != "text"


def test_a_value_can_be_copied_by_python(rig: Rig) -> None:
    assert copy.copy(rig.file) == rig.file
