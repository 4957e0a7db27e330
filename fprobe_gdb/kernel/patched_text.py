"""Instructions that the kernel knows by their address: it patches them, or looks them up when they fault.

Whoever moves one of them elsewhere breaks it: the kernel compares the old bytes before it patches a static branch
(arch/x86/kernel/jump_label.c), and finds no fix-up for a fault at an address that is not in its table.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from functools import cached_property

from fprobe_gdb.errors import ImageError
from fprobe_gdb.kernel.image import KernelImage
from fprobe_gdb.kernel.symbols import SymbolTable

__all__ = ["PatchedText"]

# Linker symbols around a table, bytes of an entry, what its first word (relative to itself) points at. The same from
# 5.10 to 6.18 (include/asm-generic/vmlinux.lds.h; arch/x86/include/asm/{extable,jump_label}.h, static_call_types.h).
_TABLES = (
    ("__start___ex_table", "__stop___ex_table", 12, "may fault and has a fix-up"),
    ("__start___jump_table", "__stop___jump_table", 16, "is a static branch"),
    ("__start_static_call_sites", "__stop_static_call_sites", 8, "is a static call"),
)


class PatchedText:
    """All such instructions of a kernel, by link address."""

    def __init__(self, image: KernelImage, symbols: SymbolTable) -> None:
        self._image = image
        self._symbols = symbols
        self._touched_by: dict[int, frozenset[int]] = {}

    def why(self, start: int, stop: int) -> str:
        """What is special about an instruction between two addresses, as a clause; "" for nothing."""
        found = bisect_left(self._addrs, (start, ""))
        if found < len(self._addrs) and self._addrs[found][0] < stop:
            addr, why = self._addrs[found]
            return f"its instruction at {addr:#x} {why}"
        return ""

    def touched_by(self, size_bytes: int) -> frozenset[int]:
        """At which addresses so many bytes have such an instruction beginning in them."""
        if size_bytes not in self._touched_by:
            addrs = (addr - before for addr, _ in self._addrs for before in range(size_bytes))
            self._touched_by[size_bytes] = frozenset(addrs)
        return self._touched_by[size_bytes]

    @cached_property
    def _addrs(self) -> list[tuple[int, str]]:
        return sorted(self._entries())

    def _entries(self) -> Iterator[tuple[int, str]]:
        for first, last, entry_bytes, why in _TABLES:
            for start, stop in zip(self._symbols.addresses(first), self._symbols.addresses(last), strict=False):
                try:
                    table = self._image.read(start, stop - start)
                except ImageError:
                    continue
                for at in range(0, len(table) - entry_bytes + 1, entry_bytes):
                    yield start + at + int.from_bytes(table[at : at + 4], "little", signed=True), why
