"""Reading BTF: every kind, both byte orders, modules, names, and C text."""

from __future__ import annotations

import pytest

from fprobe_gdb.errors import (
    BtfError,
    ElementNotFound,
    MemberNotFound,
    TypeAmbiguous,
    TypeNotFound,
    WrongType,
)
from fprobe_gdb.kernel.btf import Btf, CompoundType, Kind
from fprobe_gdb.kernel.btf.section import BtfSection
from tests.unit.kernel.btf.made_up_btf import MadeUpBtf
from tests.unit.kernel.btf.made_up_kernel_types import made_up


@pytest.fixture(params=["<", ">"], ids=["little", "big"])
def btf(request: pytest.FixtureRequest) -> Btf:
    return Btf.from_bytes(made_up(request.param).bytes())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("vfs_read", "ssize_t vfs_read(struct file *file, char *buf, size_t count, loff_t *pos)"),
        ("printk", "int printk(const char *fmt, ...)"),
        ("odd", "void (*odd(const char *const *argv, int (*cb)(void *, int (*)[4])))(int)"),
        ("user", "void user(char __user *buf)"),
        ("nothing", "void nothing(void)"),
        ("same", "void same(int a)"),
    ],
)
def test_prototypes_are_written_as_c_declares_them(btf: Btf, name: str, text: str) -> None:
    assert str(btf.function(name)) == text


def test_functions_of_one_name_with_different_parameters_are_ambiguous(btf: Btf) -> None:
    with pytest.raises(TypeAmbiguous) as caught:
        btf.function("twin")
    assert len(caught.value.choices) == 2
    assert "void twin(long a)" in str(caught.value)
    assert [str(proto) for proto in btf.functions("twin")] == ["void twin(int a)", "void twin(long a)"]


def test_what_is_not_there_is_named_with_its_neighbours(btf: Btf) -> None:
    with pytest.raises(TypeNotFound, match="did you mean vfs_read"):
        btf.function("vfs_raed")
    with pytest.raises(TypeNotFound):
        btf.struct("hidden")
    with pytest.raises(MemberNotFound, match="struct file has no member 'f_pth'; did you mean f_path"):
        btf.struct("file").find_member("f_pth")
    for odd in ("", "\0", "v" * 100_000, "\ud800"):
        with pytest.raises(TypeNotFound):
            btf.function(odd)


@pytest.mark.parametrize(
    ("path", "byte", "bit", "width", "text"),
    [
        ("f_path.dentry", 16, 128, 0, "struct dentry *"),
        ("f_count", 0, 0, 0, "int"),
        ("low", 28, 224, 3, "unsigned int"),
        ("neg", 28, 227, 5, "int"),
        ("wide", 29, 232, 24, "unsigned int"),
        ("f_array[1][2]", 84, 672, 0, "int"),
        ("f_array [ 0x1 ]", 76, 608, 0, "int [3]"),
        ("f_tail[5]", 132, 1056, 0, "int"),
    ],
)
def test_members_are_found_through_anonymous_ones(
    btf: Btf, path: str, byte: int, bit: int, width: int, text: str
) -> None:
    found = btf.struct("file").find_member(path)
    assert (found.byte_offset, found.bit_offset, found.bit_size) == (byte, bit, width)
    assert found.type.c_text() == text.replace(" [", "[")


@pytest.mark.parametrize(
    "path", ["", ".", "f_path.", ".f_path", "f_path..dentry", "f_path dentry", "[0]x", "f_path.3", "[" * 9999]
)
def test_paths_that_make_no_sense_are_refused(btf: Btf, path: str) -> None:
    with pytest.raises((MemberNotFound, WrongType)):
        btf.struct("file").find_member(path)


def test_paths_end_at_pointers_and_at_the_ends_of_arrays(btf: Btf) -> None:
    file = btf.struct("file")
    with pytest.raises(WrongType, match="'dentry' is struct dentry \\*"):
        file.find_member("f_path.dentry.d_name")
    with pytest.raises(ElementNotFound):
        file.find_member("f_array[2]")


@pytest.mark.parametrize(
    ("text", "canonical", "size"),
    [
        ("unsigned long", "unsigned long", 8),
        ("long unsigned int", "unsigned long", 8),
        ("long", "long", 8),
        ("unsigned", "unsigned int", 4),
        ("struct file", "struct file", 112),
        ("struct file *", "struct file *", 8),
        ("const char *const *", "const char *const *", 8),
        ("struct hidden *", "struct hidden *", 8),
        ("int[2][3]", "int[2][3]", 24),
        ("void", "void", 1),
        ("size_t", "size_t", 8),
        ("enum big", "enum big", 8),
    ],
)
def test_types_are_found_as_people_write_them(btf: Btf, text: str, canonical: str, size: int) -> None:
    found = btf.type(text)
    assert str(found) == canonical
    assert found.size_bytes == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*",
        "struct",
        "file",
        "struct file x",
        "int (*)(void)",
        "long long long",
        "int[-1]",
        "x" * 5000,
        "int" + "*" * 40,
    ],
)
def test_what_is_no_type_is_refused(btf: Btf, text: str) -> None:
    with pytest.raises(TypeNotFound):
        btf.type(text)


def test_enumerations(btf: Btf) -> None:
    assert btf.enum("mode").values == {"MODE_OFF": 0, "MODE_ON": 1, "MODE_BAD": -2}
    assert btf.enum("big").names[1 << 63] == "BIG_TOP"


def test_per_cpu_variables(btf: Btf) -> None:
    var = btf.var("this_cpu_off")
    assert (var.section, var.offset, var.size_bytes, str(var.type)) == (".data..percpu", 16, 8, "unsigned long")


def test_definitions_are_indented_c(btf: Btf) -> None:
    text = btf.struct("file").c_definition()
    assert text.startswith("struct file {\n\tunion {\n\t\tint f_count;\n\t\tunsigned int f_raw;\n\t};\n")
    assert "\tvoid (*release)(void);\n" in text
    assert "\t\tint neg: 5;\n" in text
    assert text.endswith("\tint f_tail[0];\n};")


def test_a_module_continues_the_kernels_types() -> None:
    kernel = made_up()
    base = Btf.from_bytes(kernel.bytes())
    module = MadeUpBtf(base=kernel)
    own = module.compound("mine", 8, ("file", base.type("struct file").id, 0))
    module.func("mod_init", module.proto(0, ("m", module.ptr(own))))
    split = Btf.from_bytes(module.bytes(), "mod", base)
    assert str(split.function("mod_init")) == "void mod_init(struct mine *m)"
    assert str(split.function("vfs_read")).startswith("ssize_t vfs_read(")
    assert split.struct("mine").find_member("file.f_path.dentry").byte_offset == 16
    assert own == len(base)
    assert len(Btf.from_bytes(MadeUpBtf(base=kernel).bytes(), "empty", base)) == len(base)


def test_many_names_are_looked_up_as_few_are() -> None:
    """Behind some hundred names the look-up goes another way."""
    names = ["file", "vfs_read", "twin", "same", "mode", "no_such_name", "read", ""]
    few = [BtfSection(made_up().bytes(), "few").ids_named(name) for name in names]
    section = BtfSection(made_up().bytes(), "many")
    for number in range(300):
        assert section.ids_named(f"unknown{number}") == []
    assert [section.ids_named(name) for name in names] == few
    assert few[0]
    assert not few[-1]


def test_names_may_be_the_tails_of_other_names() -> None:
    b = MadeUpBtf()
    b.int("unsigned char", 1)
    b.types += b.words(1 + len("unsigned "), Kind.INT << 24, 1, 8)
    assert Btf.from_bytes(b.bytes()).type("char").id == 2


def test_a_longer_header_is_a_newer_one() -> None:
    assert Btf.from_bytes(made_up().bytes(header_bytes=32)).struct("file")


def test_a_type_is_one_object(btf: Btf) -> None:
    file = btf.struct("file")
    assert file.find_member("f_next").type is btf.function("vfs_read").params[0].type
    assert isinstance(file, CompoundType)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "truncated"),
        (b"\x9f\xeb\x01\x00" + b"\0" * 10, "truncated"),
        (b"\0" * 24, "magic"),
        (made_up().bytes(version=2), "version 2"),
        (made_up().bytes()[:-1], "truncated"),
        (made_up().bytes()[:60], "truncated"),
        (MadeUpBtf().bytes() + b"x", None),
    ],
)
def test_damaged_sections_are_typed_errors(data: bytes, why: str | None) -> None:
    if why is None:
        assert len(Btf.from_bytes(data)) == 1
        return
    with pytest.raises(BtfError, match=why):
        Btf.from_bytes(data, "vmlinuz")


def test_a_kind_that_is_not_known_is_named() -> None:
    b = made_up()
    b.add(25, "new", 0)
    with pytest.raises(BtfError, match="kind 25, which is not known"):
        Btf.from_bytes(b.bytes())
