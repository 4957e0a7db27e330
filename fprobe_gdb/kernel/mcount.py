"""All fentry sites of a kernel image: from its ``__mcount_loc`` table, or failing that by decoding functions.

``__start_mcount_loc .. __stop_mcount_loc`` is an array of link addresses, sorted by address. Entries of overridden weak
functions are zero in newer kernels (scripts/sorttable.c); in older ones they stay and point into a gap between symbols.
The array lies in memory that is freed after boot, so it is read from the image, never from the guest.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from fprobe_gdb.errors import ImageError
from fprobe_gdb.kernel.image import KernelImage
from fprobe_gdb.kernel.sites import ENDBR_BYTES, MCOUNT_INSN_SIZE, Site, SiteKind, classify, kind_of_site
from fprobe_gdb.kernel.symbols import Symbol, SymbolTable

__all__ = ["decode_sites", "fentry_addr", "kinds_at", "mcount_ips", "site_ips"]

_FUNCTION_HEAD_BYTES = 24


def fentry_addr(symbols: SymbolTable) -> int | None:
    """The address of ``__fentry__``, or None for a kernel without ftrace."""
    return next(iter(symbols.addresses("__fentry__")), None)


def site_ips(image: KernelImage, symbols: SymbolTable) -> list[int]:
    """Addresses of all fentry sites, ascending; ``__init`` code and overridden weak functions included.

    Decoding, which the table makes unnecessary, takes 0.8 s for 37,000 functions.
    """
    ips = mcount_ips(image, symbols)
    if ips is None:
        ips = [symbol.addr + site.offset for symbol, site in decode_sites(image, symbols)]
    return sorted(set(ips))


def mcount_ips(image: KernelImage, symbols: SymbolTable) -> list[int] | None:
    """The entries of ``__mcount_loc`` that lie in code, or None when the image does not tell where it is.

    :raise ImageError: the table is damaged.
    """
    data = _table_bytes(image, symbols)
    if data is None:
        return None
    if len(data) % 8:
        raise ImageError(image.path, f"its __mcount_loc table of {len(data)} bytes is damaged")
    code = [(section.addr, section.end) for section in image.sections if section.is_exec]
    code = code or [image.text_range]
    return [ip for (ip,) in struct.iter_unpack("<Q", data) if ip and any(low <= ip < high for low, high in code)]


def decode_sites(image: KernelImage, symbols: SymbolTable) -> Iterator[tuple[Symbol, Site]]:
    """Every function that Capstone sees begin with a fentry site, one name for each address.

    A 5-byte NOP on disk is taken for a site only in a kernel without a single ``call __fentry__``.
    """
    fentry = fentry_addr(symbols)
    if fentry is None:
        return
    found: list[tuple[Symbol, Site]] = []
    for symbol, code in _function_heads(image, symbols):
        site = classify(code, symbol.addr, fentry)
        if site.kind is not SiteKind.FIRST_INSN:
            found.append((symbol, site))
    has_calls = any(site.kind is SiteKind.FENTRY_CALL for _, site in found)
    wanted = SiteKind.FENTRY_CALL if has_calls else SiteKind.FENTRY_NOP
    yield from (pair for pair in found if pair[1].kind is wanted)


def kinds_at(image: KernelImage, ips: list[int], fentry: int | None) -> Iterator[tuple[SiteKind, bool]]:
    """For each site its kind, and whether ENDBR stands in front of it.

    A site that is neither call nor NOP, which ftrace would refuse as well, counts as :attr:`SiteKind.FIRST_INSN`.
    """
    sections = [(s.addr, s.end, image.section_bytes(s)) for s in image.sections if s.is_exec and s.has_bytes]
    low = high = 0
    data = b""
    for ip in ips:
        if not low <= ip < high:
            low, high, data = next((s for s in sections if s[0] <= ip < s[1]), (0, 0, b""))
        at = ip - low
        kind = kind_of_site(data[at : at + MCOUNT_INSN_SIZE], ip, fentry) or SiteKind.FIRST_INSN
        yield kind, at >= ENDBR_BYTES and data[at - ENDBR_BYTES : at] == b"\xf3\x0f\x1e\xfa"


def _table_bytes(image: KernelImage, symbols: SymbolTable) -> bytes | None:
    start, stop = symbols.addresses("__start_mcount_loc"), symbols.addresses("__stop_mcount_loc")
    if len(start) == 1 and len(stop) == 1:
        if stop[0] < start[0]:
            raise ImageError(image.path, "its __mcount_loc table ends before it begins; symbols of another kernel?")
        return image.read(start[0], stop[0] - start[0]) if stop[0] > start[0] else b""
    section = image.section("__mcount_loc")
    return image.section_bytes(section) if section is not None else None


# Each function's first name and first bytes.
def _function_heads(image: KernelImage, symbols: SymbolTable) -> Iterator[tuple[Symbol, bytes]]:
    sections = [(s.addr, s.end, image.section_bytes(s)) for s in image.sections if s.is_exec and s.has_bytes]
    seen: set[int] = set()
    for symbol in symbols:
        if symbol.type not in "tTwW" or symbol.addr in seen:
            continue
        for low, high, data in sections:
            if low <= symbol.addr < high:
                seen.add(symbol.addr)
                yield symbol, data[symbol.addr - low : symbol.addr - low + _FUNCTION_HEAD_BYTES]
                break
