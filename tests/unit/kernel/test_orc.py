"""ORC tables in all forms that kernels have had, found and decoded; damaged ones refused."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fprobe_gdb.errors import ImageError
from fprobe_gdb.kernel.image import KernelImage
from fprobe_gdb.kernel.orc import OrcEntry, OrcTable
from fprobe_gdb.kernel.symbols import Symbol, SymbolTable
from tests.unit.kernel.made_up_image import Part, elf
from tests.unit.kernel.made_up_orc import (
    END_OF_STACK,
    ENTRIES,
    FORMS,
    IPS,
    TEXT,
    UNDEFINED,
    Row,
    call,
    kernel,
    regs,
    tables,
)  # fmt: skip


# Every kind of entry, among the many calls counted from SP that every kernel has.
def rows() -> list[Row]:
    strange = [
        call(16, "BP", "PREV_SP", -16),
        call(0, "R10", "BP", 0),
        call(0, "SP_INDIRECT", "UNDEFINED"),
        call(-8, "BP_INDIRECT", "PREV_SP", -24),
        call(8, "DX"),
        regs(8),
        regs(0, "R13"),
        regs(0, "DI", partial=True),
        END_OF_STACK,
        UNDEFINED,
    ]
    common = [call(8 * (index % 8 + 1), "SP", "PREV_SP" if index % 2 else "UNDEFINED", -16) for index in range(60)]
    return [(TEXT + 16 * index, entry) for index, entry in enumerate(common + strange)]


def table(listed: list[Row], form: str = "6.4") -> OrcTable:
    ips, entries = tables(listed, form)
    return OrcTable(IPS, ips, entries)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_told_and_decoded(form: str) -> None:
    decoded = table(rows(), form)
    assert decoded.since == form
    assert len(decoded) == len(rows())
    for addr, entry in rows():
        assert decoded.find(addr) == entry
        assert decoded.find(addr + 15) == entry


def test_signal_is_a_bit_of_its_own_where_there_is_one() -> None:
    listed = [*rows(), (TEXT + 0x1000, call(8, signal=True))]
    for form in ("6.3", "6.4", "6.19"):
        assert table(listed, form).find(TEXT + 0x1000) == call(8, signal=True)


def test_ax_in_the_old_numbers() -> None:
    listed = [*rows(), (TEXT + 0x1000, call(0, "AX"))]
    assert table(listed, "6.4").find(TEXT + 0x1000) == call(0, "AX")


def test_outside_the_table() -> None:
    decoded = table(rows())
    assert decoded.find(TEXT - 1) is None
    assert decoded.find(TEXT + 0x10000) == UNDEFINED


def test_of_equal_addresses_the_last_counts() -> None:
    listed = [*rows(), (TEXT + 0x2000, UNDEFINED), (TEXT + 0x2000, call(24)), (TEXT + 0x2010, UNDEFINED)]
    assert table(listed).find(TEXT + 0x2008) == call(24)


def test_an_unsorted_table_is_sorted_with_terminators_first() -> None:
    listed = [(TEXT + 0x2000, call(24)), (TEXT + 0x2000, UNDEFINED), (TEXT + 0x2010, END_OF_STACK), *rows()]
    random.Random(1).shuffle(listed)
    decoded = table(listed)
    for addr, entry in [*rows(), (TEXT + 0x2000, call(24)), (TEXT + 0x2010, END_OF_STACK)]:
        assert decoded.find(addr + 3) == entry
    assert decoded.find(TEXT - 1) is None


def test_a_kernel_without_orc() -> None:
    image, symbols = kernel([("f", 0)], None)
    assert OrcTable.from_image(image, symbols) is None
    assert OrcTable.from_image(image) is None


def test_sections_without_names_are_found_by_symbols() -> None:
    ips, entries = tables(rows())
    image = KernelImage.from_bytes(elf([Part("a", IPS, ips), Part("b", ENTRIES, entries)]))
    bounds = {
        "__start_orc_unwind_ip": IPS,
        "__stop_orc_unwind_ip": IPS + len(ips),
        "__start_orc_unwind": ENTRIES,
        "__stop_orc_unwind": ENTRIES + len(entries),
    }
    found = OrcTable.from_image(image, SymbolTable([Symbol(name, addr, "R") for name, addr in bounds.items()]))
    assert found is not None
    assert [found.find(addr) for addr, _ in rows()] == [entry for _, entry in rows()]
    bounds["__stop_orc_unwind"] = ENTRIES - 6
    with pytest.raises(ImageError, match="ends before it begins"):
        OrcTable.from_image(image, SymbolTable([Symbol(name, addr, "R") for name, addr in bounds.items()]))


@pytest.mark.parametrize("form", FORMS)
def test_damaged_tables_are_refused(form: str) -> None:
    ips, entries = tables(rows(), form)
    for bad_ips, bad_entries in ((ips[:-1], entries), (ips, entries[:-6]), (ips[:-4], entries), (b"", b"")):
        with pytest.raises(ImageError, match="ORC table is damaged"):
            OrcTable(IPS, bad_ips, bad_entries, "vmlinux")
    for at in (4, 5):
        nonsense = bytearray(entries)
        nonsense[6 * 7 + at] = 0xFF
        with pytest.raises(ImageError, match="1 of 70 entries of its ORC table make no sense"):
            OrcTable(IPS, ips, bytes(nonsense), "vmlinux")


@given(st.binary(min_size=6, max_size=600), st.integers(0, (1 << 64) - 1))
def test_any_bytes_are_a_table_or_an_error(data: bytes, ip: int) -> None:
    count = len(data) // 10
    try:
        decoded = OrcTable(IPS, data[: 4 * count], data[4 * count : 10 * count])
    except ImageError:
        return
    found = decoded.find(ip)
    assert found is None or isinstance(found, OrcEntry)
