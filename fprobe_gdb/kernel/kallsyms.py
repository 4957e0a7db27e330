"""The kallsyms tables, found and decoded in a kernel's read-only data without any symbol to start from.

``scripts/kallsyms.c`` lays these tables out one behind the other, and their order has changed:

======================= =======================================================================================
5.10 .. 6.1             offsets (or addresses), relative_base, num_syms, names, markers, token_table, token_index
6.2, 6.3                the same with seqs_of_names between markers and token_table
6.4 ..                  num_syms, names, markers, token_table, token_index, offsets, relative_base, seqs_of_names
7.x                     the same without relative_base; an offset is relative to its own place
======================= =======================================================================================

Addresses come in four codes: absolute 64-bit ones (no KALLSYMS_BASE_RELATIVE), 32-bit unsigned offsets from
relative_base, signed ones (KALLSYMS_ABSOLUTE_PERCPU: not negative means an absolute per-CPU address, negative means
``relative_base - 1 - offset``), and place-relative ones. Nothing tells which; but symbols are sorted by address, so
only the right reading gives an ascending list within the image.

What is found must agree with itself in every part: token_index with each of the 256 tokens, the names walked from end
to end with each marker, all addresses in ascending order. Random data cannot pass that.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from fprobe_gdb.errors import ImageError
from fprobe_gdb.kernel.image import KernelImage
from fprobe_gdb.kernel.kallsyms_addresses import decode_addresses
from fprobe_gdb.kernel.symbols import Symbol

__all__ = ["KallsymsTables", "decode_kallsyms", "find_tables", "kallsyms_of_image"]

_DIGITS = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00"
_MAX_TOKEN_TABLE_BYTES = 256 * 512
_MAX_SYMS = 4 << 20
_TYPES = frozenset("aAbBcCdDgGiInNpPrRsStTuUvVwWxXyYzZ-?")
_SCAN_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class KallsymsTables:
    """Where the tables are: byte offsets into the data that was searched."""

    num_syms_at: int
    names_at: int
    names_end: int
    num_syms: int
    token_table_at: int
    token_index_end: int
    #: To which multiple of bytes each table is aligned: 8, or 4.
    align: int


def kallsyms_of_image(image: KernelImage) -> list[Symbol]:
    """The kernel's own symbols in kallsyms order, out of an image.

    :raise ImageError: there are no such tables (CONFIG_KALLSYMS is off) or they are damaged.
    """
    kernel = [segment for segment in image.segments if segment.addr >> 63]
    if not kernel:
        raise ImageError(image.path, "has no segment at kernel addresses; not an x86_64 kernel")
    span = (min(segment.addr for segment in kernel), max(segment.addr + segment.mem_bytes for segment in kernel))
    for section in image.sections:
        if section.name == ".rodata" and section.has_bytes:
            return decode_kallsyms(image.section_bytes(section), section.addr, span, image.path)
    for segment in image.segments:
        data = image.elf[segment.offset : segment.offset + segment.file_bytes]
        if find_token_table(data) is not None:
            return decode_kallsyms(data, segment.addr, span, image.path)
    raise _none(image.path)


def decode_kallsyms(data: bytes, base_addr: int, span: tuple[int, int], name: str = "kernel image") -> list[Symbol]:
    """Find and decode the tables in a kernel's read-only data.

    :param data: the section that holds the tables, usually ``.rodata``.
    :param base_addr: link address of its first byte.
    :param span: link addresses of the kernel's first byte and behind its last. The first symbol that is not an
        absolute per-CPU one must stand at the beginning (it is ``_text``), and none behind the end.
    :param name: what to call the image in errors.
    :return: symbols in the order of the tables, which is that of ``/proc/kallsyms``.
    :raise ImageError: no tables, or damaged ones.
    """
    tables, tokens = find_tables(data, name)
    after = -(-tables.token_index_end // tables.align) * tables.align
    addrs = decode_addresses(data, base_addr, tables.num_syms_at, after, tables.num_syms, span)
    if addrs is None:
        raise ImageError(
            name,
            f"has names of {tables.num_syms} symbols, but no table of ascending addresses that fits the image; "
            "it is damaged",
        )
    names = list(_names(data, tables, tokens))
    if not all(names):
        raise ImageError(name, "its kallsyms tables hold a symbol without a type; they are damaged")
    return [Symbol(text[1:], addr, text[0]) for text, addr in zip(names, addrs, strict=True)]


def find_tables(data: bytes, name: str = "kernel image") -> tuple[KallsymsTables, list[str]]:
    """Where the tables of names are, and the 256 tokens.

    :raise ImageError: there are none, or they contradict each other.
    """
    found = find_token_table(data)
    if found is None:
        raise _none(name)
    token_table_at, token_index_end, raw_tokens = found
    try:
        tokens = [token.decode("ascii") for token in raw_tokens]
    except UnicodeDecodeError as error:
        raise ImageError(name, "its kallsyms token table is not text; it is damaged") from error
    for num_syms_at, names_at, num_syms in _num_syms_candidates(data, token_table_at):
        if not _starts_like_names(data, names_at, num_syms, tokens):
            continue
        markers: list[int] = []
        names_end = _walk(data, names_at, token_table_at, num_syms, markers)
        if names_end and _markers_fill_the_gap(data, names_end, token_table_at, markers, num_syms):
            align = names_at - num_syms_at
            tables = KallsymsTables(num_syms_at, names_at, names_end, num_syms, token_table_at, token_index_end, align)
            return tables, tokens
    raise ImageError(name, "has a kallsyms token table, but no table of names that agrees with it; it is damaged")


def _none(name: str) -> ImageError:
    return ImageError(
        name, "holds no kallsyms tables (CONFIG_KALLSYMS off?); give its System.map, or a vmlinux with symbols"
    )


def find_token_table(data: bytes) -> tuple[int, int, list[bytes]] | None:
    """The token table's offset, the end of token_index, and the tokens; None when there is no such table.

    Every character that occurs in a name is a token of its own under its own code, so the ten digits stand in a row.
    """
    at = data.find(_DIGITS)
    while at >= 0:
        found = _token_table_around(data, at)
        if found is not None:
            return found
        at = data.find(_DIGITS, at + 1)
    return None


# The token table that has its token number 0x30 at this offset, where token_index agrees with it in all 256 places.
def _token_table_around(data: bytes, zero_at: int) -> tuple[int, int, list[bytes]] | None:
    end = zero_at
    for _ in range(0x30, 0x100):
        end = data.find(b"\0", end, zero_at + _MAX_TOKEN_TABLE_BYTES) + 1
        if not end:
            return None
    for align in (8, 4, 2):
        index_at = -(-end // align) * align
        index_bytes = data[index_at : index_at + 512]
        if len(index_bytes) < 512:
            return None
        index = struct.unpack("<256H", index_bytes)
        start = zero_at - index[0x30]
        if index[0] or start < 0:
            continue
        tokens = data[start : end - 1].split(b"\0")
        if len(tokens) == 256 and _offsets_of(tokens) == index:
            return start, index_at + 512, tokens
    return None


def _offsets_of(tokens: list[bytes]) -> tuple[int, ...]:
    offsets, at = [], 0
    for token in tokens:
        offsets.append(at & 0xFFFF)
        at += len(token) + 1
    return tuple(offsets)


# Places before the token table that could be kallsyms_num_syms with kallsyms_names behind it, as
# (num_syms_at, names_at, num_syms), nearest first.
# Labels are 8-byte aligned, so a 32-bit number is followed by 32 zero bits; 4-byte alignment is tried after that.
def _num_syms_candidates(data: bytes, token_table_at: int) -> Iterator[tuple[int, int, int]]:
    for code, step in (("Q", 8), ("I", 4)):
        high = token_table_at & ~7
        while high > 0:
            low = max(0, high - _SCAN_CHUNK_BYTES)
            words = array(code, data[low:high])
            if sys.byteorder == "big":
                words.byteswap()
            # A name takes at least 2 bytes, and so much must lie between here and the token table.
            most = min(_MAX_SYMS, (token_table_at - low) // 2)
            hits = [i for i, word in enumerate(words) if 0 < word <= most]
            for i in reversed(hits):
                at = low + i * step
                yield at, at + step, words[i]
            high = low


# A cheap look at the first names, before the walk over all of them.
def _starts_like_names(data: bytes, at: int, num_syms: int, tokens: list[str]) -> bool:
    if at + 2 * num_syms > len(data):
        return False
    for _ in range(min(num_syms, 16)):
        length, at = _length_at(data, at)
        if not length or at + length > len(data):
            return False
        first = tokens[data[at]]
        if not first or first[0] not in _TYPES:
            return False
        at += length
    return True


# A name's length in tokens and where these begin. Long ones have two bytes of ULEB128 since 6.1 (the commit
# "kallsyms: support "big" kernel symbols"); before, a length was one byte and never above 127.
def _length_at(data: bytes, at: int) -> tuple[int, int]:
    length = data[at] if at < len(data) else 0
    if length & 0x80:
        return (length & 0x7F) | ((data[at + 1] if at + 1 < len(data) else 0) << 7), at + 2
    return length, at + 1


# Offset behind the last name, or 0 if the names run past the limit; fills in the offset of each 256th.
def _walk(data: bytes, names_at: int, limit: int, num_syms: int, markers: list[int]) -> int:
    at = names_at
    for i in range(num_syms):
        if not i & 0xFF:
            markers.append(at - names_at)
        if at >= limit:
            return 0
        length = data[at]
        if length & 0x80:
            length, at = _length_at(data, at)
            at += length
        elif length:
            at += length + 1
        else:
            return 0
    return at if at <= limit else 0


# Whether the markers follow the names, hold what the walk found, and reach to the token table (6.2 and 6.3 have
# seqs_of_names there, of 3 or 4 bytes a symbol). This is what makes a wrong num_syms impossible.
def _markers_fill_the_gap(data: bytes, names_end: int, token_table_at: int, markers: list[int], num_syms: int) -> bool:
    expected = struct.pack(f"<{len(markers)}I", *markers)
    for align in (8, 4):
        at = -(-names_end // align) * align
        end = at + len(expected)
        if end > token_table_at or data[at:end] != expected:
            continue
        aligned_end = -(-end // align) * align
        for seq_bytes in (0, 3, 4):
            if 0 <= token_table_at - (aligned_end + seq_bytes * num_syms) < 8:
                return True
    return False


# All names with their type letter in front, in order. The walk was checked before, so it cannot leave the data.
def _names(data: bytes, tables: KallsymsTables, tokens: list[str]) -> Iterator[str]:
    token_of = tokens.__getitem__
    join = "".join
    at = tables.names_at
    for _ in range(tables.num_syms):
        length = data[at]
        at += 1
        if length & 0x80:
            length = (length & 0x7F) | (data[at] << 7)
            at += 1
        end = at + length
        yield join(map(token_of, data[at:end]))
        at = end
