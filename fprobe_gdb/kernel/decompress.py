"""The compressors that a kernel's build may use, each told by its magic and bounded in what it may produce.

What writes them: ``scripts/Makefile.lib`` (``cmd_gzip``, ``cmd_xzkern``, ``cmd_zstd22``, ``cmd_lz4``, ``cmd_lzo``,
``cmd_bzip2``, ``cmd_lzma``). Each but gzip is followed by the unpacked size as 4 little-endian bytes (``size_append``);
gzip has the same in its own trailer. So the last 4 bytes of a payload are always the size.
"""

from __future__ import annotations

import bz2
import io
import lzma
import struct
import zlib
from collections.abc import Callable
from typing import Protocol

import lz4.block
import lzallright
import zstandard

__all__ = ["DecompressError", "compressor_of", "decompress"]

_LZ4_LEGACY_BLOCK_BYTES = 8 << 20
_LZOP_MAX_BLOCK_BYTES = 64 << 20
_LZOP_MAGIC = b"\x89LZO\x00\x0d\x0a\x1a\x0a"
_MAGICS = {
    b"\x1f\x8b\x08": "gzip",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x02\x21\x4c\x18": "lz4",
    _LZOP_MAGIC: "lzo",
    b"BZh": "bzip2",
    b"\x5d\x00\x00": "lzma",
}


class DecompressError(Exception):
    """The compressed data is damaged, ends too early, or unpacks to more than it may."""


def compressor_of(data: bytes) -> str | None:
    """The compressor whose magic the bytes begin with, or None."""
    return next((name for magic, name in _MAGICS.items() if data.startswith(magic)), None)


def decompress(compressor: str, payload: bytes, limit_bytes: int) -> bytes:
    """Unpack a payload, size trailer included.

    :param compressor: as :func:`compressor_of` names it.
    :param limit_bytes: stop soon after this much has come out; the caller compares the length.
    :raise DecompressError: damaged or truncated data.
    """
    try:
        return _UNPACKERS[compressor](payload, limit_bytes)
    except (zlib.error, lzma.LZMAError, zstandard.ZstdError, lz4.block.LZ4BlockError, lzallright.LZOError) as error:
        raise DecompressError(str(error) or type(error).__name__) from error
    except (struct.error, EOFError, IndexError) as error:
        raise DecompressError("the data ends too early") from error
    except (OSError, ValueError) as error:  # bz2 and the LZMA filters report damage so
        raise DecompressError(str(error)) from error


class _Stream(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


# Up to one byte more than the limit. The end of the stream must be there, since the checksum stands at the end.
def _bounded(stream: _Stream, payload: bytes, limit_bytes: int) -> bytes:
    data = stream.decompress(payload, limit_bytes + 1)
    if len(data) <= limit_bytes and not stream.eof:
        raise DecompressError("the data ends too early")
    return data


def _gzip(payload: bytes, limit_bytes: int) -> bytes:
    return _bounded(zlib.decompressobj(wbits=31), payload, limit_bytes)


def _bzip2(payload: bytes, limit_bytes: int) -> bytes:
    return _bounded(bz2.BZ2Decompressor(), payload, limit_bytes)


# The kernel's xz has the x86 BCJ filter and a CRC32; liblzma reads the filter chain from the stream itself.
def _xz(payload: bytes, limit_bytes: int) -> bytes:
    return _bounded(lzma.LZMADecompressor(format=lzma.FORMAT_XZ), payload, limit_bytes)


def _lzma(payload: bytes, limit_bytes: int) -> bytes:
    return _bounded(lzma.LZMADecompressor(format=lzma.FORMAT_ALONE), payload, limit_bytes)


# The build pipes into `zstd -22 --ultra`, so the frame has no content size and a window of 128 MiB.
def _zstd(payload: bytes, limit_bytes: int) -> bytes:
    reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(io.BytesIO(payload))
    return reader.read(limit_bytes + 1)


# `lz4 -l`: a magic, then blocks of up to 8 MiB, each after its packed length; nothing marks the end.
def _lz4(payload: bytes, limit_bytes: int) -> bytes:
    end = len(payload) - 4
    offset = 4
    blocks: list[bytes] = []
    total = 0
    while offset < end and total <= limit_bytes:
        (packed_bytes,) = struct.unpack_from("<I", payload, offset)
        offset += 4
        if packed_bytes == 0 or offset + packed_bytes > end:
            raise DecompressError(f"a block of {packed_bytes} bytes at {offset} does not fit in {end}")
        block = memoryview(payload)[offset : offset + packed_bytes]
        blocks.append(lz4.block.decompress(block, uncompressed_size=_LZ4_LEGACY_BLOCK_BYTES))
        total += len(blocks[-1])
        offset += packed_bytes
    return b"".join(blocks)


# A container of `lzop -9`: header, then blocks of 256 KiB until one of length zero. All numbers are big-endian.
def _lzo(payload: bytes, limit_bytes: int) -> bytes:
    offset, flags = _lzop_header(payload)
    per_unpacked = 4 * (bool(flags & 0x001) + bool(flags & 0x100))  # F_ADLER32_D, F_CRC32_D
    per_packed = 4 * (bool(flags & 0x002) + bool(flags & 0x200))  # F_ADLER32_C, F_CRC32_C
    lzo = lzallright.LZOCompressor()
    blocks: list[bytes] = []
    total = 0
    while total <= limit_bytes:
        (unpacked_bytes,) = struct.unpack_from(">I", payload, offset)
        offset += 4
        if unpacked_bytes == 0:
            break
        (packed_bytes,) = struct.unpack_from(">I", payload, offset)
        offset += 4 + per_unpacked + (per_packed if packed_bytes < unpacked_bytes else 0)
        if unpacked_bytes > _LZOP_MAX_BLOCK_BYTES or packed_bytes > unpacked_bytes:
            raise DecompressError(f"a block claims {packed_bytes} packed and {unpacked_bytes} unpacked bytes")
        block = payload[offset : offset + packed_bytes]
        if len(block) < packed_bytes:
            raise DecompressError("the data ends within a block")
        blocks.append(block if packed_bytes == unpacked_bytes else lzo.decompress(block, unpacked_bytes))
        if len(blocks[-1]) != unpacked_bytes:
            raise DecompressError(f"a block unpacks to {len(blocks[-1])} bytes instead of {unpacked_bytes}")
        total += unpacked_bytes
        offset += packed_bytes
    return b"".join(blocks)


# Where the blocks begin, and the flags. The layout: lib/decompress_unlzo.c, parse_header().
def _lzop_header(payload: bytes) -> tuple[int, int]:
    offset = len(_LZOP_MAGIC)
    (version,) = struct.unpack_from(">H", payload, offset)
    # version, library version, (version needed), method, (level); then the flags
    offset += 2 + 2 + (2 if version >= 0x0940 else 0) + 1 + (1 if version >= 0x0940 else 0)
    (flags,) = struct.unpack_from(">I", payload, offset)
    offset += 4 + (4 if flags & 0x800 else 0)  # F_H_FILTER
    offset += 4 + 4 + (4 if version >= 0x0940 else 0)  # mode, time, high part of time
    return offset + 1 + payload[offset] + 4, flags  # the name and the header's checksum


_UNPACKERS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _gzip,
    "xz": _xz,
    "zstd": _zstd,
    "lz4": _lz4,
    "lzo": _lzo,
    "bzip2": _bzip2,
    "lzma": _lzma,
}
