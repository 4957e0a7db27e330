"""The addresses of kallsyms: which of the four codes a kernel uses, and their decoding. See :mod:`.kallsyms`."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from operator import le

__all__ = ["decode_addresses"]

_Decoder = Callable[[Sequence[int], int], list[int]]
# Modules and the fixmap lie above the kernel image; no symbol of the image does.
_IMAGE_MAX_BYTES = 1 << 30


def decode_addresses(
    data: bytes, base_addr: int, num_syms_at: int, token_index_end: int, num_syms: int, lowest_addr: int
) -> list[int] | None:
    """The addresses in table order, or None when no table fits.

    :param num_syms_at: offset of kallsyms_num_syms, before which the table stands up to 6.3.
    :param token_index_end: offset behind kallsyms_token_index, where it stands since 6.4.
    :param lowest_addr: link address where the kernel begins.
    """
    for addrs in _readings(data, base_addr, num_syms_at, token_index_end, num_syms):
        if _plausible(addrs, lowest_addr):
            return addrs
    return None


# Every reading of the bytes at the two places; the caller keeps the first that makes sense.
def _readings(
    data: bytes, base_addr: int, num_syms_at: int, token_index_end: int, num_syms: int
) -> Iterator[list[int]]:
    after = _aligned(token_index_end)
    offsets_bytes, padded_bytes = 4 * num_syms, _aligned(4 * num_syms)
    # 6.4 and later: offsets, then their base
    offsets = _unpack(data, after, num_syms, "i")
    base = _unpack(data, after + padded_bytes, 1, "Q")
    yield from _relative(offsets, base)
    # up to 6.3: offsets, base, num_syms
    base_at = num_syms_at - 8
    yield from _relative(_unpack(data, base_at - padded_bytes, num_syms, "i"), _unpack(data, base_at, 1, "Q"))
    # absolute, at both places
    for at in (after, num_syms_at - 8 * num_syms):
        addrs = _unpack(data, at, num_syms, "Q")
        if addrs:
            yield list(addrs)
    # 7.x: relative to their own place
    for at in {after, token_index_end}:
        offsets = _unpack(data, at, num_syms, "i")
        if offsets:
            places = range(base_addr + at, base_addr + at + offsets_bytes, 4)
            yield [place + offset for place, offset in zip(places, offsets, strict=True)]


def _relative(offsets: Sequence[int], bases: Sequence[int]) -> Iterator[list[int]]:
    if not offsets or not bases or not bases[0] >> 63:
        return
    base = bases[0]
    # KALLSYMS_ABSOLUTE_PERCPU (x86_64 with SMP up to 6.14)
    yield [offset if offset >= 0 else base - 1 - offset for offset in offsets]
    yield [base + (offset & 0xFFFFFFFF) for offset in offsets]


# Ascending, in the kernel's half of the address space or among the per-CPU offsets, and in an image's span.
def _plausible(addrs: list[int], lowest_addr: int) -> bool:
    if not all(map(le, addrs, addrs[1:])):
        return False
    if addrs[0] < 0 or addrs[-1] >> 64 or not addrs[-1] >> 63:
        return False
    first_kernel = next(addr for addr in addrs if addr >= _IMAGE_MAX_BYTES)
    return first_kernel >= lowest_addr and addrs[-1] - first_kernel <= _IMAGE_MAX_BYTES and bool(first_kernel >> 63)


def _aligned(offset: int) -> int:
    return -(-offset // 8) * 8


# Nothing when the table would not lie in the data.
def _unpack(data: bytes, at: int, count: int, code: str) -> Sequence[int]:
    size_bytes = struct.calcsize(f"<{code}") * count
    if at < 0 or at + size_bytes > len(data):
        return ()
    return struct.unpack_from(f"<{count}{code}", data, at)
