"""Where KASLR has put a kernel: looked for in made-up guest memory."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fprobe_gdb.errors import ImageError, MemoryFault
from fprobe_gdb.kernel.kaslr import find_slide
from fprobe_gdb.kernel.symbols import Symbol, SymbolTable

TEXT = 0xFFFFFFFF81000000
BANNER_ADDR = TEXT + 0x1234
BANNER = "Linux version 6.1.0-made-up #1"


class MadeUpImage:
    path = "made-up"
    banner = BANNER

    def read(self, addr: int, size_bytes: int) -> bytes:
        return BANNER.encode()[:size_bytes] if addr == BANNER_ADDR else b"?" * size_bytes


SYMBOLS = SymbolTable([Symbol("current_task", 0x1FB80, "A"), Symbol("linux_banner", BANNER_ADDR, "D")])


class Memory:
    """Guest memory with a banner at one place, nothing anywhere else."""

    def __init__(self, slide: int | None, banner: str = BANNER) -> None:
        self.banner_at = None if slide is None else BANNER_ADDR + slide
        self.banner = banner.encode()

    def __call__(self, places: Sequence[tuple[int, int]]) -> list[bytes | MemoryFault]:
        return [
            self.banner[:size] if addr == self.banner_at else MemoryFault(addr, size) for addr, size in places
        ]  # fmt: skip


@pytest.mark.parametrize("slide", [0, 2 << 20, 0x3E000000 - 0x1000000, -(6 << 20)])
def test_found_wherever_it_can_be(slide: int) -> None:
    assert find_slide(MadeUpImage(), SYMBOLS, Memory(slide)) == slide  # type: ignore[arg-type]


@pytest.mark.parametrize("memory", [Memory(None), Memory(2 << 20, "Linux version 6.1.0-another #1 .."), Memory(4096)])
def test_not_found(memory: Memory) -> None:
    """Not mapped, another kernel, or at an address that KASLR does not choose."""
    assert find_slide(MadeUpImage(), SYMBOLS, memory) is None  # type: ignore[arg-type]


def test_an_image_without_banner_cannot_be_checked() -> None:
    with pytest.raises(ImageError, match="linux_banner"):
        find_slide(MadeUpImage(), SymbolTable([]), Memory(0))  # type: ignore[arg-type]


def test_per_cpu_offsets_do_not_slide() -> None:
    slid = SYMBOLS.slid(0x200000)
    assert slid.one("current_task") == 0x1FB80
    assert slid.one("linux_banner") == BANNER_ADDR + 0x200000
