"""Kernel images as sections and segments; damaged headers are an ImageError."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fprobe_gdb.errors import ImageError
from fprobe_gdb.kernel.image import KernelImage
from tests.unit.kernel.made_up_image import ALLOC, EXEC, PACKERS, SHT_NOBITS, WRITE, Part, bzimage, elf

TEXT = 0xFFFFFFFF81000000
_WEAK_BANNER = b"Linux version 6.1.0-x (gcc) # SMP\n\0"
_BANNER = b"Linux version 6.1.0-x (gcc) #1 SMP Debian\n\0"
_NOTE = b"\x04\0\0\0\x08\0\0\0\x01\0\0\0Xen\0" + bytes(8) + b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0" + bytes(range(20))
PARTS = [
    Part(".text", TEXT, b"\xc3" * 64, ALLOC | EXEC),
    Part(".rodata", TEXT + 0x1000, _WEAK_BANNER + _BANNER),
    Part(".notes", TEXT + 0x2000, _NOTE),
    Part(".data..percpu", 0, b"percpu", ALLOC | WRITE),
    Part(".bss", TEXT + 0x3000, bytes(32), ALLOC | WRITE, SHT_NOBITS),
    Part(".comment", 0, b"not loaded", 0),
]
VMLINUX = elf(PARTS)


@pytest.fixture
def image() -> KernelImage:
    return KernelImage.from_bytes(VMLINUX)


def test_facts(image: KernelImage) -> None:
    assert image.banner == "Linux version 6.1.0-x (gcc) #1 SMP Debian"
    assert image.build_id == bytes(range(20)).hex()
    assert image.text_range == (TEXT, TEXT + 64)
    assert [section.name for section in image.sections][1:3] == [".text", ".rodata"]
    assert len(image.segments) == 5


def test_read_at_link_addresses(image: KernelImage) -> None:
    assert image.read(TEXT + 62, 2) == b"\xc3\xc3"
    assert image.read(2, 3) == b"rcp"
    assert image.read(TEXT + 0x3000, 32) == bytes(32)
    assert image.read(TEXT, 0) == b""


@pytest.mark.parametrize(
    ("addr", "size"), [(TEXT + 63, 2), (TEXT - 1, 1), (TEXT + 0x301F, 2), (1 << 70, 1), (-1, 1), (TEXT, -1)]
)
def test_reading_elsewhere_is_an_image_error(image: KernelImage, addr: int, size: int) -> None:
    with pytest.raises(ImageError, match="has no"):
        image.read(addr, size)


def test_open(tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    with pytest.raises(ImageError, match="No such file"):
        KernelImage.open(path)
    path.write_bytes(bzimage(PACKERS["lz4"](VMLINUX)))
    image = KernelImage.open(path)
    assert (image.path, image.compressor, image.is_relocatable) == (str(path), "lz4", True)
    assert image.elf == VMLINUX
    with pytest.raises(ImageError, match="Is a directory"):
        KernelImage.open(tmp_path)


def test_missing_facts_are_empty() -> None:
    image = KernelImage.from_bytes(elf(PARTS[:1]))
    assert (image.banner, image.build_id, image.section(".bss")) == ("", None, None)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (elf(PARTS, machine=183), "EM_AARCH64"),
        (elf(PARTS[-1:]), "without loadable segments"),
        (VMLINUX[:40], "cannot be read"),
        (VMLINUX[: len(VMLINUX) // 2], "cannot be read"),
    ],
)
def test_other_elf_files_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        KernelImage.from_bytes(data)


def test_every_truncation_is_an_image_error() -> None:
    for size in range(0, len(VMLINUX), 17):
        with pytest.raises(ImageError):
            KernelImage.from_bytes(VMLINUX[:size])


@settings(max_examples=100)
@given(flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), min_size=1, max_size=4))
def test_damage_gives_an_image_error_or_a_readable_image(flips: list[tuple[float, int]]) -> None:
    data = bytearray(VMLINUX)
    # The headers are at both ends; what lies between is contents.
    headers = [*range(64 + 5 * 56), *range(len(data) - 8 * 64, len(data))]
    for where, bits in flips:
        data[headers[int(where * len(headers))]] ^= bits
    try:
        image = KernelImage.from_bytes(bytes(data))
    except ImageError:
        return
    for section in image.sections:
        assert len(image.section_bytes(section)) == section.size_bytes
    for segment in image.segments:
        assert len(image.read(segment.addr, min(segment.mem_bytes, 64))) == min(segment.mem_bytes, 64)
