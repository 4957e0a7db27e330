"""The addresses of kallsyms: which of the four codes a kernel uses, and their decoding. See :mod:`.kallsyms`."""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from operator import le

__all__ = ["decode_addresses"]

# Absolute per-CPU symbols lie below this, all others in the image.
_PERCPU_MAX_BYTES = 1 << 30
_FIRST_SYMBOL_WITHIN_BYTES = 4096


def decode_addresses(
    data: bytes, base_addr: int, num_syms_at: int, after_at: int, num_syms: int, span: tuple[int, int]
) -> list[int] | None:
    """The addresses in table order, or None when no table fits.

    :param num_syms_at: offset of kallsyms_num_syms, before which the table stands up to 6.3.
    :param after_at: offset of what follows kallsyms_token_index, where it stands since 6.4.
    :param span: link addresses of the kernel's first byte and behind its last.
    """
    for addrs in _readings(data, base_addr, num_syms_at, after_at, num_syms):
        if _fits(addrs, span):
            return addrs
    return None


# Every reading of the bytes at the two places; the caller keeps the one that makes sense.
def _readings(data: bytes, base_addr: int, num_syms_at: int, after_at: int, num_syms: int) -> Iterator[list[int]]:
    padded_bytes = -(-4 * num_syms // 8) * 8
    # 6.4 and later: offsets, then their base
    offsets = _unpack(data, after_at, num_syms, "i")
    yield from _relative(offsets, _unpack(data, after_at + padded_bytes, 1, "Q"))
    # up to 6.3: offsets, base, num_syms
    base_at = num_syms_at - 8
    yield from _relative(_unpack(data, base_at - padded_bytes, num_syms, "i"), _unpack(data, base_at, 1, "Q"))
    # absolute, at both places
    for at in (after_at, num_syms_at - 8 * num_syms):
        addrs = _unpack(data, at, num_syms, "Q")
        if addrs:
            yield list(addrs)
    # 7.x: relative to their own place
    if offsets:
        places = range(base_addr + after_at, base_addr + after_at + 4 * num_syms, 4)
        yield [place + offset for place, offset in zip(places, offsets, strict=True)]


def _relative(offsets: Sequence[int], bases: Sequence[int]) -> Iterator[list[int]]:
    if not offsets or not bases or not bases[0] >> 63:
        return
    base = bases[0]
    # KALLSYMS_ABSOLUTE_PERCPU (x86_64 with SMP up to 6.14)
    yield [offset if offset >= 0 else base - 1 - offset for offset in offsets]
    yield [base + (offset & 0xFFFFFFFF) for offset in offsets]


# Ascending, none outside the image but per-CPU offsets, and the first of the others at the image's beginning. The last
# rule tells apart what ascends in several readings.
def _fits(addrs: list[int], span: tuple[int, int]) -> bool:
    low, high = span
    if not all(map(le, addrs, addrs[1:])) or addrs[0] < 0 or not low <= addrs[-1] <= high:
        return False
    first = addrs[bisect_left(addrs, _PERCPU_MAX_BYTES)]
    return low <= first < low + _FIRST_SYMBOL_WITHIN_BYTES


# Nothing when the table would not lie in the data.
def _unpack(data: bytes, at: int, count: int, code: str) -> Sequence[int]:
    size_bytes = struct.calcsize(f"<{code}") * count
    if at < 0 or at + size_bytes > len(data):
        return ()
    return struct.unpack_from(f"<{count}{code}", data, at)
