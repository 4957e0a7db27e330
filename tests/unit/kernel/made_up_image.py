"""Writes small ELF files and bzImages of every compressor, as a kernel's build lays them out."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable
from dataclasses import dataclass

import lz4.block
import lzallright
import zstandard

SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_NOBITS = 1, 2, 3, 8
WRITE, ALLOC, EXEC = 1, 2, 4


@dataclass
class Part:
    """One section of a made-up vmlinux; loaded ones get a segment of their own."""

    name: str
    addr: int
    data: bytes
    flags: int = ALLOC
    type: int = SHT_PROGBITS
    link: int = 0
    entry_bytes: int = 0


def elf(parts: list[Part], machine: int = 62) -> bytes:
    """A 64-bit little-endian ELF executable."""
    strings = b"\0"
    body = b""
    sections = [bytes(64)]
    segments = []
    loaded = [part for part in parts if part.flags & ALLOC]
    start = 64 + 56 * len(loaded)
    for part in [*parts, Part(".shstrtab", 0, b"", 0, SHT_STRTAB)]:
        name_at = len(strings)
        strings += part.name.encode() + b"\0"
        data = strings if part.name == ".shstrtab" else part.data
        offset = start + len(body)
        sections.append(
            struct.pack(
                "<IIQQQQIIQQ",
                *(name_at, part.type, part.flags, part.addr, offset, len(data), part.link, 0, 1, part.entry_bytes),
            )
        )
        if part.flags & ALLOC:
            file_bytes = 0 if part.type == SHT_NOBITS else len(data)
            access = 5 if part.flags & EXEC else 6
            segments.append(struct.pack("<IIQQQQQQ", 1, access, offset, part.addr, part.addr, file_bytes, len(data), 1))
        body += b"" if part.type == SHT_NOBITS else data
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = ident + struct.pack(
        "<HHIQQQIHHHHHH",
        *(2, machine, 1, 0, 64, start + len(body), 0, 64, 56, len(segments), 64, len(sections), len(sections) - 1),
    )
    return header + b"".join(segments) + body + b"".join(sections)


def symtab(symbols: list[tuple[str, int, int, int]]) -> tuple[bytes, bytes]:
    """``.symtab`` and ``.strtab`` of (name, address, section index, st_info)."""
    names, table = b"\0", bytes(24)
    for name, addr, index, info in symbols:
        table += struct.pack("<IBBHQQ", len(names), info, 0, index, addr, 0)
        names += name.encode() + b"\0"
    return table, names


def with_size(packed: bytes, data: bytes) -> bytes:
    """What ``size_append`` of scripts/Makefile.lib does."""
    return packed + struct.pack("<I", len(data))


def _zstd(data: bytes) -> bytes:
    stream = zstandard.ZstdCompressor(level=3).compressobj()  # from a pipe: no content size in the frame
    return with_size(stream.compress(data) + stream.flush(), data)


def _xz(data: bytes) -> bytes:
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 1}]
    return with_size(lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=filters), data)


def _lz4(data: bytes) -> bytes:
    packed = b"\x02\x21\x4c\x18"
    for at in range(0, len(data), 8 << 20):
        block = lz4.block.compress(data[at : at + (8 << 20)], store_size=False)
        packed += struct.pack("<I", len(block)) + block
    return with_size(packed, data)


def lzop(data: bytes, flags: int = 0x03000001) -> bytes:
    """An lzop file: by default with Adler-32 of the unpacked data only, as lzop writes it."""
    packed = b"\x89LZO\x00\x0d\x0a\x1a\x0a" + struct.pack(">HHHBBI", 0x1040, 0x20A0, 0x0940, 3, 9, flags)
    packed += b"\0\0\0\x01" if flags & 0x800 else b""
    packed += struct.pack(">III", 0, 0, 0) + b"\x03abc" + b"\0\0\0\0"
    per_unpacked = 4 * (bool(flags & 1) + bool(flags & 0x100))
    per_packed = 4 * (bool(flags & 2) + bool(flags & 0x200))
    for at in range(0, len(data), 256 << 10):
        plain = data[at : at + (256 << 10)]
        block = lzallright.LZOCompressor().compress(plain)
        stored = len(block) >= len(plain)
        block = plain if stored else block
        packed += (
            struct.pack(">II", len(plain), len(block)) + bytes(per_unpacked + (0 if stored else per_packed)) + block
        )
    return packed + b"\0\0\0\0"


#: Compressor -> the payload that a kernel's build makes of a vmlinux.
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "xz": _xz,
    "zstd": _zstd,
    "lz4": _lz4,
    "lzo": lambda data: with_size(lzop(data), data),
    "bzip2": lambda data: with_size(bz2.compress(data), data),
    "lzma": lambda data: with_size(lzma.compress(data, lzma.FORMAT_ALONE, preset=1), data),
}


def bzimage(payload: bytes, *, setup_sects: int = 2, payload_offset: int = 0x80, pe_stub: bool = False) -> bytes:
    """A bzImage around a payload; bytes follow the payload, as the decompressor does in a real one."""
    setup = bytearray((setup_sects or 4) * 512 + 512)
    if pe_stub:
        setup[0:2] = b"MZ"
    setup[0x1F1] = setup_sects
    setup[0x1FE:0x200] = b"\x55\xaa"
    setup[0x202:0x206] = b"HdrS"
    setup[0x206:0x208] = struct.pack("<H", 0x020F)
    setup[0x234] = 1
    setup[0x248:0x250] = struct.pack("<II", payload_offset, len(payload))
    return bytes(setup) + b"\x90" * payload_offset + payload + b"\xcc" * 64
