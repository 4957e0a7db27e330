"""drgn over our memory, symbols and types: values, types, objects, symbols, and what happens when the guest runs on."""

from __future__ import annotations

import sys

import drgn
import pytest

from fprobe_gdb.errors import BtfError, ExtraMissing, StaleValue, SymbolAmbiguous, TypeAmbiguous
from fprobe_gdb.kernel.drgn import DrgnPrograms, Guest
from fprobe_gdb.kernel.drgn.vmcoreinfo import made_up_vmcoreinfo
from fprobe_gdb.session.view import GuestView
from tests.unit.kernel.drgn.made_up_guest import FILE, TEXT, MadeUpGuest


@pytest.fixture
def guest() -> MadeUpGuest:
    return MadeUpGuest()


@pytest.fixture
def prog(guest: MadeUpGuest) -> drgn.Program:
    return guest.programs.program()


def test_members_of_all_kinds(guest: MadeUpGuest) -> None:
    file = guest.file()
    assert file.f_count.value_() == -5  # of an anonymous union
    assert file.f_path.dentry.d_name.name.string_() == b"motd"
    assert [file.low.value_(), file.neg.value_(), file.wide.value_()] == [5, -15, 0xABCDEF]  # bit-fields
    assert file.f_mode.value_() == -2
    assert str(file.f_mode) == "(enum mode)MODE_BAD"
    assert file.f_pos.value_() == -1 << 40
    assert file.f_lock.value_() is True
    assert file.f_array.value_() == [[1, 2, 3], [4, 5, 6]]
    assert str(file.f_big) == "(enum big)BIG_TOP"
    assert [file.f_tail[at].value_() for at in (0, 1)] == [71, 72]
    assert file.release.value_() == TEXT
    assert file.f_next.f_count.value_() == 9
    assert str(file.f_next.type_) == "struct file *"


def test_a_whole_structure_is_read_at_once(guest: MadeUpGuest) -> None:
    file = guest.file()
    before = guest.memory.reads
    assert file.read_().f_count.value_() == -5
    assert guest.memory.reads == before + 1


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("unsigned long", "unsigned long"),
        ("long unsigned int", "unsigned long"),
        ("size_t", "size_t"),
        ("bool", "bool"),
        ("char", "char"),
        ("struct file", "struct file"),
        ("enum mode", "enum mode"),
        ("struct file *[4]", "struct file *[4]"),
    ],
)
def test_types_by_name(prog: drgn.Program, text: str, name: str) -> None:
    assert prog.type(text).type_name() == name


def test_types_that_are_not_there(prog: drgn.Program) -> None:
    for text in ("struct nothing", "nothing_t", "union file", "enum file", "vfs_read"):
        with pytest.raises(LookupError):
            prog.type(text)
    with pytest.raises(LookupError):
        prog.type("struct file", "fs.c")


def test_parameters_and_qualifiers(prog: drgn.Program) -> None:
    odd = prog.type("struct file").member("release").type
    assert str(odd) == "void (*)(void)"
    read = prog["vfs_read"]
    assert read.address_ == TEXT + 0x10
    assert [(p.name, p.type.type_name()) for p in read.type_.parameters] == [
        ("file", "struct file *"),
        ("buf", "char *"),
        ("count", "size_t"),
        ("pos", "loff_t *"),
    ]
    assert prog.type("struct qstr").member("name").type.type_name() == "const char *"


def test_constants_and_variables(prog: drgn.Program) -> None:
    assert prog["MODE_BAD"].value_() == prog.constant("MODE_BAD").value_() == -2
    assert prog["BIG_TOP"].value_() == 1 << 63
    percpu = prog["this_cpu_off"]
    assert (percpu.address_, percpu.type_.type_name()) == (16, "unsigned long")
    cpus = prog.variable("nr_cpu_ids")
    assert (cpus.address_, cpus.type_.type_name()) == (TEXT + 0x110, "unsigned int")


@pytest.mark.parametrize("name", ["nothing", "avenrun", "init_task", "init_mm", "_stext"])
def test_variables_that_are_not_there(prog: drgn.Program, name: str) -> None:
    """No such symbol, a type that does not fit, a type that the kernel lacks, a symbol without a known type."""
    with pytest.raises(drgn.ObjectNotFoundError):
        prog[name]


def test_several_of_one_name_are_no_guess(prog: drgn.Program) -> None:
    with pytest.raises(SymbolAmbiguous):
        prog["same"]
    with pytest.raises(TypeAmbiguous):
        prog["twin"]


def test_symbols(prog: drgn.Program) -> None:
    found = prog.symbol("vfs_read")
    assert (found.address, found.size) == (TEXT + 0x10, 0x30)
    assert (found.binding, found.kind) == (drgn.SymbolBinding.GLOBAL, drgn.SymbolKind.FUNC)
    assert prog.symbol(TEXT + 0x15).name == "vfs_read"
    assert [s.name for s in prog.symbols(TEXT + 0x15)] == ["vfs_read", "__do_vfs_read"]
    assert [s.address for s in prog.symbols("same")] == [TEXT + 0x50, TEXT + 0x60]
    assert prog.symbol("weak_one").binding == drgn.SymbolBinding.WEAK
    assert prog.symbol("jiffies_64").kind == drgn.SymbolKind.OBJECT
    assert len(prog.symbols()) == 13
    for wrong in ("nothing", 0x1000):
        with pytest.raises(LookupError):
            prog.symbol(wrong)


def test_a_bad_address_is_drgns_own_error(prog: drgn.Program) -> None:
    with pytest.raises(drgn.FaultError, match="not mapped"):
        drgn.Object(prog, "struct file *", 0x10).f_count.value_()


def test_physical_memory_is_read_through_the_direct_mapping(prog: drgn.Program) -> None:
    physical = FILE - 0xFFFF888000000000
    assert prog.read(physical, 4, True) == prog.read(FILE, 4)


def test_what_was_kept_is_stale_when_the_guest_has_run_on(guest: MadeUpGuest) -> None:
    file = guest.file()
    kept = file.read_()
    assert guest.programs.program() is file.prog_
    guest.memory.epoch += 1
    with pytest.raises(StaleValue, match=r"k\.drgn\(\)"):
        file.f_count.value_()
    assert guest.file().f_count.value_() == -5
    # Also when a program of a later stop exists; what was read stays.
    with pytest.raises(StaleValue):
        file.f_count.value_()
    assert kept.f_count.value_() == -5


def test_a_kernel_without_a_note_of_its_own(guest: MadeUpGuest, prog: drgn.Program) -> None:
    assert prog["UTS_RELEASE"].string_() == b"6.1.0-made-up"
    assert prog["PAGE_SIZE"].value_() == 4096
    text = made_up_vmcoreinfo(guest.memory.guest_memory(), guest.programs.guest.symbols, guest.image, 0x1000000)
    assert b"KERNELOFFSET=1000000\n" in text


def test_a_kernel_without_types(guest: MadeUpGuest) -> None:
    with pytest.raises(BtfError, match="neither BTF nor DWARF"):
        DrgnPrograms(Guest(guest.memory.guest_memory(), guest.programs.guest.symbols, guest.image, None))


def test_without_drgn_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("fprobe_gdb.kernel.drgn")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "drgn", None)
    view = GuestView.__new__(GuestView)
    view._drgn = None
    with pytest.raises(ExtraMissing, match=r"pip install 'fprobe-gdb\[drgn\]'") as caught:
        view.drgn()
    assert (caught.value.package, caught.value.extra) == ("drgn", "drgn")
