"""Per-CPU variables of every generation of x86_64 kernels."""

from __future__ import annotations

import pytest

from fprobe_gdb.errors import ImageError
from fprobe_gdb.kernel.image import KernelImage
from fprobe_gdb.kernel.percpu import PerCpuLayout
from fprobe_gdb.kernel.symbols import Symbol, SymbolTable
from tests.unit.kernel.made_up_image import ALLOC, EXEC, WRITE, Part, elf

TEXT = 0xFFFFFFFF81000000
IN_IMAGE = 0xFFFFFFFF83200000


def image(percpu_at: int | None) -> KernelImage:
    parts = [Part(".text", TEXT, b"\xc3" * 64, ALLOC | EXEC)]
    if percpu_at is not None:
        parts.append(Part(".data..percpu", percpu_at, bytes(64), ALLOC | WRITE))
    return KernelImage.from_bytes(elf(parts))


def table(**addrs: int) -> SymbolTable:
    return SymbolTable([Symbol(name, addr, "A") for name, addr in addrs.items()], "kallsyms tables")


def test_up_to_6_1_and_split_variables() -> None:
    symbols = table(current_task=0x1FB80, __preempt_count=0x1FB40, cpu_number=0x19160, current_kprobe=0x1FD98)
    layout = PerCpuLayout.from_symbols(symbols, image(0))
    assert layout == PerCpuLayout(0x1FB80, 0x1FB40, 0x19160, 0x1FD98)
    assert layout.address(layout.current_task, 0xFFFF88803EC00000) == 0xFFFF88803EC1FB80


def test_pcpu_hot() -> None:
    layout = PerCpuLayout.from_symbols(table(pcpu_hot=0x35000, current_kprobe=0x211F8), image(0))
    assert layout == PerCpuLayout(0x35000, 0x35008, 0x3500C, 0x211F8)


def test_linked_at_kernel_addresses_since_6_15() -> None:
    layout = PerCpuLayout.from_symbols(table(current_task=IN_IMAGE + 8, __preempt_count=IN_IMAGE), image(IN_IMAGE))
    area = 0xFFFF88803EC00000
    gs_base = (area - IN_IMAGE) % (1 << 64)
    assert layout.address(layout.current_task, gs_base) == area + 8
    assert (layout.cpu_number, layout.current_kprobe) == (None, None)


def test_kaslr_moves_variables_that_have_kernel_addresses() -> None:
    slide = 0x21200000
    symbols = table(current_task=IN_IMAGE + 8, __preempt_count=IN_IMAGE).slid(slide)
    layout = PerCpuLayout.from_symbols(symbols, image(IN_IMAGE))
    area = 0xFFFF88803EC00000
    # per_cpu_offset is the distance from __per_cpu_start, which KASLR moves as well
    assert layout.address(layout.current_task, (area - IN_IMAGE - slide) % (1 << 64)) == area + 8
    old = table(current_task=0x1FB80, __preempt_count=0x1FB40)
    assert PerCpuLayout.from_symbols(old.slid(slide), image(0)) == PerCpuLayout.from_symbols(old, image(0))


def test_uniprocessor() -> None:
    symbols = table(fixed_percpu_data=IN_IMAGE, current_task=IN_IMAGE + 0x40, __preempt_count=IN_IMAGE - 8)
    layout = PerCpuLayout.from_symbols(symbols, image(None))
    assert layout.preempt_count is not None
    # gs_base is the address of fixed_percpu_data there
    assert layout.address(layout.current_task, IN_IMAGE) == IN_IMAGE + 0x40
    assert layout.address(layout.preempt_count, IN_IMAGE) == IN_IMAGE - 8


def test_symbols_without_data_are_an_image_error() -> None:
    with pytest.raises(ImageError, match="neither current_task nor pcpu_hot"):
        PerCpuLayout.from_symbols(table(vfs_read=TEXT), image(0))
