"""Symbols by name and address, with the kernel's rules for aliases; and their text and ELF sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from fprobe_gdb.errors import ImageError, SymbolAmbiguous, SymbolNotFound
from fprobe_gdb.kernel.image import KernelImage
from fprobe_gdb.kernel.symbol_sources import (
    from_elf,
    from_proc_kallsyms,
    from_system_map,
    kallsyms_order,
    load_symbols,
)
from fprobe_gdb.kernel.symbols import Symbol, SymbolTable
from tests.unit.kernel.made_up_image import ALLOC, EXEC, SHT_NOBITS, SHT_STRTAB, SHT_SYMTAB, WRITE, Part, elf, symtab
from tests.unit.kernel.made_up_kallsyms import GENERATIONS, RODATA, TEXT, rodata, some_symbols

DEBIAN_STUB = "ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package\n"
KALLSYMS = """\
0000000000000000 A fixed_percpu_data
000000000001fb80 A current_task
ffffffff81000000 T startup_64
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81001000 T vfs_read
ffffffff81001310 T vfs_readv
ffffffff81002000 t __do_sys_fork
ffffffff81002000 T __ia32_sys_fork
ffffffff81002000 T __x64_sys_fork
ffffffff81002080 t dup
ffffffff81003000 t dup
ffffffff81004000 T _etext
ffffffff82000000 B _end
ffffffffc0000000 t nf_hook\t[netfilter]
ffffffffc0000100 t nf_unhook\t[netfilter]
"""


@pytest.fixture(scope="module")
def table() -> SymbolTable:
    return from_proc_kallsyms(KALLSYMS)


def test_names_and_addresses(table: SymbolTable) -> None:
    assert table.one("vfs_read") == 0xFFFFFFFF81001000
    assert table.addresses("dup") == (0xFFFFFFFF81002080, 0xFFFFFFFF81003000)
    assert table.addresses("nothing") == ()
    assert table.names(0xFFFFFFFF81002000) == ("__do_sys_fork", "__ia32_sys_fork", "__x64_sys_fork")
    assert table.names(0xFFFFFFFF81002001) == ()
    assert "dup" in table
    assert "nothing" not in table
    assert len(table) == len(list(table)) == 16
    assert table[1] == Symbol("current_task", 0x1FB80, "A")


def test_one_name_with_several_addresses_or_none(table: SymbolTable) -> None:
    with pytest.raises(SymbolAmbiguous, match="2 addresses") as ambiguous:
        table.one("dup")
    assert ambiguous.value.addrs == (0xFFFFFFFF81002080, 0xFFFFFFFF81003000)
    with pytest.raises(SymbolNotFound, match="did you mean vfs_read") as unknown:
        table.one("vfs_raed")
    assert unknown.value.near[0] == "vfs_read"


@pytest.mark.parametrize(
    ("addr", "text"),
    [
        (0xFFFFFFFF81001075, "vfs_read+0x75"),
        (0xFFFFFFFF81001000, "vfs_read+0x0"),
        (0xFFFFFFFF8100130F, "vfs_read+0x30f"),
        (0xFFFFFFFF81002004, "__do_sys_fork+0x4"),  # the first alias
        (0xFFFFFFFF81000001, "startup_64+0x1"),
        (0xFFFFFFFF82000000, "0xffffffff82000000"),  # _end is outside
        (0x1FB80, "0x1fb80"),  # a per-CPU offset is no address
        (0xFFFFFFFF80FFFFFF, "0xffffffff80ffffff"),
        (0, "0x0"),
        (0xFFFFFFFFC0000010, "nf_hook+0x10 [netfilter]"),
        (0xFFFFFFFFC0000108, "nf_unhook+0x8 [netfilter]"),
        (0xFFFFFFFFC0900000, "0xffffffffc0900000"),
        (0xFFFFFFFFFFFFFFFF, "0xffffffffffffffff"),
    ],
)
def test_symbolize(table: SymbolTable, addr: int, text: str) -> None:
    assert table.symbolize(addr) == text


def test_size_reaches_to_the_next_higher_symbol(table: SymbolTable) -> None:
    assert table.size(0xFFFFFFFF81001000) == table.size(0xFFFFFFFF81001100) == 0x310
    assert table.size(0xFFFFFFFF81002000) == 0x80
    assert table.size(0xFFFFFFFFC0000100) == 0


@pytest.mark.parametrize("name", ["vfs_raed", "vfs_rea", "vfs_read*", "*vfs_read"])
def test_near_names(table: SymbolTable, name: str) -> None:
    assert "vfs_read" in table.near(name)


def test_nothing_is_near_to_nothing(table: SymbolTable) -> None:
    assert table.near("*") == table.near("") == table.near("qqqqqqqq") == ()


def test_aliases_are_sorted_as_the_kernel_sorts_them() -> None:
    names = [("__weak", "W"), ("weak", "w"), ("__start_x", "T"), ("__b", "T"), ("_a", "t"), ("a", "t"), ("b", "T")]
    symbols = [Symbol(name, TEXT, kind) for name, kind in names] + [Symbol("before", TEXT - 1, "W")]
    order = [symbol.name for symbol in kallsyms_order(symbols)]
    assert order == ["before", "a", "b", "_a", "__b", "__start_x", "weak", "__weak"]


def test_system_map_text() -> None:
    text = "ffffffff81000000 W __late\nffffffff81000000 T early\n\nffffffff81000010 t next\n"
    assert from_system_map(text).names(TEXT) == ("early", "__late")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (DEBIAN_STUB, "only a stub"),
        ("", "holds no symbols"),
        ("ffffffff81000000 T\n", "line 1 is not"),
        ("ffffffff81000000 T a\nnonsense T b\n", "line 2 is not"),
        ("ffffffff81000000 TT a\n", "line 1 is not"),
        ("ffffffff81000000 T a [m] more\n", "line 1 is not"),
        ("1ffffffff81000000 T a\n", "line 1 is not"),
    ],
)
def test_damaged_texts_are_an_image_error(text: str, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        from_system_map(text, "System.map")


def test_kallsyms_read_without_privilege_is_an_image_error() -> None:
    with pytest.raises(ImageError, match="read it as root"):
        from_proc_kallsyms("0000000000000000 T _text\n0000000000000000 t vfs_read\n")


def _vmlinux(with_symtab: bool = True) -> KernelImage:
    symbols = some_symbols(300)
    parts = [
        Part(".text", TEXT, b"\xc3" * 4096, ALLOC | EXEC),
        Part(".rodata", RODATA, rodata(symbols, GENERATIONS["6.15"])),
        Part(".data", 0xFFFFFFFF83000000, bytes(64), ALLOC | WRITE),
        Part(".data..percpu", 0, bytes(64), ALLOC | WRITE),
        Part(".bss", 0xFFFFFFFF84000000, bytes(64), ALLOC | WRITE, SHT_NOBITS),
    ]
    if with_symtab:
        entries = [
            ("alias", TEXT + 16, 1, 0x12),
            ("local_text", TEXT, 1, 0x02),
            ("__weak_text", TEXT + 16, 1, 0x22),
            ("constant", RODATA, 2, 0x01),
            ("variable", 0xFFFFFFFF83000000, 3, 0x11),
            ("current_task", 0x20, 4, 0x11),
            ("zeroes", 0xFFFFFFFF84000000, 5, 0x01),
            ("weak_variable", 0xFFFFFFFF83000008, 3, 0x21),
            ("undefined", 0, 0, 0x10),
            ("file.c", 0, 0xFFF1, 0x04),
            ("__crc_x", RODATA, 2, 0x10),
        ]
        table, strings = symtab(entries)
        parts += [Part(".symtab", 0, table, 0, SHT_SYMTAB, 7), Part(".strtab", 0, strings, 0, SHT_STRTAB)]
    return KernelImage.from_bytes(elf(parts))


def test_elf_symbols() -> None:
    table = from_elf(_vmlinux())
    assert table is not None
    assert [(symbol.name, symbol.type) for symbol in table] == [
        ("current_task", "A"),
        ("local_text", "t"),
        ("alias", "T"),
        ("__weak_text", "W"),
        ("constant", "r"),
        ("variable", "D"),
        ("weak_variable", "V"),
        ("zeroes", "b"),
    ]


def test_the_best_source_is_taken(tmp_path: Path) -> None:
    stub, system_map, kallsyms = tmp_path / "stub", tmp_path / "System.map", tmp_path / "kallsyms"
    stub.write_text(DEBIAN_STUB)
    system_map.write_text("ffffffff81000000 T _text\n")
    kallsyms.write_text(KALLSYMS)
    stripped = _vmlinux(with_symtab=False)
    assert load_symbols(_vmlinux(), system_map=system_map).source == "ELF symtab"
    assert load_symbols(stripped, system_map=system_map, kallsyms=kallsyms).source == "System.map"
    assert load_symbols(stripped, system_map=stub, kallsyms=kallsyms).source == "/proc/kallsyms"
    assert load_symbols(stripped, system_map=stub).source == "kallsyms tables"
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        load_symbols(stripped, system_map=tmp_path / "missing")
