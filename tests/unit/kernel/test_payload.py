"""bzImage and ELF files of every kind come out as vmlinux; anything else is an ImageError that says what is wrong."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fprobe_gdb.errors import ImageError
from fprobe_gdb.kernel.decompress import decompress
from fprobe_gdb.kernel.payload import unpack
from tests.unit.kernel.made_up_image import ALLOC, EXEC, PACKERS, Part, bzimage, elf, lzop, with_size

# Code-like bytes with calls (the BCJ filter rewrites those), which packs well, and noise that does not.
_CODE = b"".join(b"\xe8" + struct.pack("<i", i * 977) + b"\xc3\x90\x90" for i in range(2000))
_NOISE = random.Random(4).randbytes(260 << 10)
VMLINUX = elf([Part(".text", 0xFFFFFFFF81000000, _CODE, ALLOC | EXEC), Part(".rodata", 0xFFFFFFFF82000000, _NOISE)])
SMALL = elf([Part(".text", 0xFFFFFFFF81000000, _CODE[:600], ALLOC | EXEC)])


@pytest.mark.parametrize("compressor", PACKERS)
def test_every_compressor_gives_the_vmlinux_back(compressor: str) -> None:
    unpacked = unpack(bzimage(PACKERS[compressor](VMLINUX)))
    assert unpacked.elf == VMLINUX
    assert unpacked.compressor == compressor
    assert unpacked.is_relocatable is True


def test_an_elf_vmlinux_passes_through() -> None:
    unpacked = unpack(VMLINUX)
    assert (unpacked.elf, unpacked.compressor, unpacked.is_relocatable) == (VMLINUX, "none", None)


@pytest.mark.parametrize(
    "shape", [{"setup_sects": 0}, {"setup_sects": 39}, {"payload_offset": 0x4B1}, {"pe_stub": True}]
)
def test_the_payload_is_found_by_the_boot_header(shape: dict[str, int]) -> None:
    assert unpack(bzimage(PACKERS["gzip"](SMALL), **shape)).elf == SMALL  # type: ignore[arg-type]


@pytest.mark.parametrize("flags", [0, 0x1, 0x2, 0x3, 0x100, 0x303, 0x801])
def test_lzop_files_with_any_checksums(flags: int) -> None:
    assert unpack(bzimage(with_size(lzop(VMLINUX, flags), VMLINUX))).elf == VMLINUX


@pytest.mark.parametrize("compressor", PACKERS)
def test_every_truncation_is_an_image_error(compressor: str) -> None:
    image = bzimage(PACKERS[compressor](SMALL))[:-64]
    for size in sorted({*range(0, len(image), 41), *range(len(image) - 24, len(image))}):
        with pytest.raises(ImageError) as caught:
            unpack(image[:size], "vmlinuz")
        assert str(caught.value).startswith("vmlinuz: ")


@pytest.mark.parametrize("compressor", PACKERS)
def test_a_payload_that_ends_early_is_an_image_error(compressor: str) -> None:
    payload = PACKERS[compressor](SMALL)
    for cut in (5, 9, len(payload) // 2, len(payload) - 30):
        with pytest.raises(ImageError):
            unpack(bzimage(payload[: len(payload) - cut] + payload[-4:]))


@pytest.mark.parametrize("compressor", PACKERS)
def test_a_size_field_that_is_not_the_size_is_an_image_error(compressor: str) -> None:
    for size_bytes in (len(SMALL) - 1, len(SMALL) + 1, 0, 0xFFFFFFFF, 600 << 20):
        payload = PACKERS[compressor](SMALL)[:-4] + struct.pack("<I", size_bytes)
        with pytest.raises(ImageError):
            unpack(bzimage(payload))


@pytest.mark.parametrize("compressor", PACKERS)
def test_a_bomb_is_not_unpacked(compressor: str) -> None:
    payload = PACKERS[compressor](SMALL + bytes(1 << 20))
    # Streams stop at once, containers after the block (lz4 8 MiB, lzop 256 KiB) that goes beyond.
    most = {"lz4": 8 << 20, "lzo": 256 << 10}.get(compressor, 1)
    assert len(decompress(compressor, payload, len(SMALL))) <= len(SMALL) + most
    with pytest.raises(ImageError, match=f"{len(SMALL)} were announced"):
        unpack(bzimage(payload[:-4] + struct.pack("<I", len(SMALL))))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"#!/bin/sh\n" * 100, "no HdrS header"),
        (b"MZ\0\0zimg" + bytes(2000), "zboot"),
        (b"MZ".ljust(0x38, b"\0") + b"ARM\x64" + bytes(2000), "another architecture"),
        (b"\x7fELF\x01\x01" + bytes(2000), "not a 64-bit"),
        (b"\x27\x05\x19\x56" + bytes(2000), "uImage"),
        (b"!<arch>\ndebian-binary" + bytes(2000), "ar archive"),
        (PACKERS["xz"](SMALL), "bare xz file"),
        (bzimage(b"\x11" * 400), "11 11 11 11"),
        (bzimage(PACKERS["gzip"](b"not an ELF file")), "not a 64-bit ELF"),
        (bzimage(b""), "names no payload"),
        (bzimage(PACKERS["gzip"](SMALL)).replace(b"HdrS\x0f\x02", b"HdrS\x07\x02"), "2.07 is too old"),
    ],
)
def test_other_files_are_refused_with_the_reason(data: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        unpack(data)


@settings(max_examples=100)
@given(
    compressor=st.sampled_from(sorted(PACKERS)),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), min_size=1, max_size=8),
)
def test_damage_gives_an_image_error_or_bytes(compressor: str, flips: list[tuple[float, int]]) -> None:
    image = bytearray(bzimage(PACKERS[compressor](SMALL)))
    for where, bits in flips:
        image[int(where * len(image))] ^= bits
    try:
        unpacked = unpack(bytes(image))
    except ImageError:
        return
    assert unpacked.elf[:4] == b"\x7fELF"
