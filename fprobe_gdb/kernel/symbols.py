"""Kernel symbols by name and by address, with the kernel's own rules for names that share an address.

Several symbols of one name and several names of one address are both common in a kernel, and both are kept. Of the
names at one address the first in kallsyms order is *the* name (kernel/kallsyms.c, ``get_symbol_pos``): it is what
traces print and what ftrace filters match.
"""

from __future__ import annotations

import difflib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple, overload

from fprobe_gdb.errors import SymbolAmbiguous, SymbolNotFound

__all__ = ["Symbol", "SymbolTable"]

# A module's last symbol says nothing of where the module ends; code farther behind it than this is not it.
_LAST_SYMBOL_REACH_BYTES = 64 << 10
_NEAR_LENGTH_DIFFERENCE = 4
_NEAR_CUTOFF = 0.6


class Symbol(NamedTuple):
    """One line of ``/proc/kallsyms``."""

    name: str
    addr: int
    #: As nm: ``T`` text, ``D`` data, ``R`` read-only, ``B`` bss, ``A`` absolute (per-CPU), ``W``/``V`` weak; lower case
    #: for local ones.
    type: str
    #: The module's name without brackets, "" for the kernel proper.
    module: str = ""

    @property
    def is_text(self) -> bool:
        """Whether it names code: ``t``, ``T``, or the weak ``w``, ``W``."""
        return self.type in "tTwW"


class SymbolTable(Sequence[Symbol]):
    """All symbols of one kernel, in kallsyms order.

    :param symbols: in kallsyms order; where addresses are equal, the first is the one that the kernel shows.
    :param source: where they came from, for people: ``"kallsyms tables"``, ``"System.map"``, ...
    """

    def __init__(self, symbols: Sequence[Symbol], source: str = "symbols") -> None:
        self._symbols = tuple(symbols)
        self.source = source
        # The last that slid() has made: one guest's.
        self._slid = (0, self)

    def __len__(self) -> int:
        return len(self._symbols)

    def __iter__(self) -> Iterator[Symbol]:
        return iter(self._symbols)

    @overload
    def __getitem__(self, index: int) -> Symbol: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Symbol, ...]: ...

    def __getitem__(self, index: int | slice) -> Symbol | tuple[Symbol, ...]:
        return self._symbols[index]

    def __contains__(self, name: object) -> bool:
        """Whether there is a symbol of this name."""
        return name in self._by_name

    def __repr__(self) -> str:
        return f"SymbolTable({len(self)} symbols from {self.source})"

    def addresses(self, name: str) -> tuple[int, ...]:
        """Every address of a name, ascending; empty when there is none."""
        found = self._by_name.get(name)
        if found is None:
            return ()
        return (found,) if isinstance(found, int) else found

    def one(self, name: str) -> int:
        """The address of a name that has just one.

        :raise SymbolNotFound: no such name; the error holds near ones.
        :raise SymbolAmbiguous: several addresses.
        """
        found = self.addresses(name)
        if not found:
            raise SymbolNotFound(name, self.near(name))
        if len(found) > 1:
            raise SymbolAmbiguous(name, found)
        return found[0]

    def names(self, addr: int) -> tuple[str, ...]:
        """All names of exactly this address, in kallsyms order."""
        return tuple(symbol.name for symbol in self.at(addr))

    def slid(self, slide: int) -> SymbolTable:
        """The symbols where KASLR has put them: kernel addresses moved by ``slide``, per-CPU offsets as they are."""
        if not slide:
            return self
        if self._slid[0] != slide:
            # Not _replace(), which takes six times as long: this is for all of them, at each boot.
            moved = [
                Symbol(s.name, s.addr + slide, s.type, s.module) if s.addr >> 63 and not s.module else s
                for s in self._symbols
            ]
            self._slid = slide, SymbolTable(moved, self.source)
        return self._slid[1]

    def at(self, addr: int) -> tuple[Symbol, ...]:
        """All symbols of exactly this address, in kallsyms order."""
        first, stop = bisect_left(self._addrs, addr), bisect_right(self._addrs, addr)
        return self._by_addr[first:stop]

    def lookup(self, addr: int) -> tuple[Symbol, int] | None:
        """The symbol that an address belongs to and the offset into it, as the kernel's ``kallsyms_lookup``.

        :return: None outside ``_stext .. _end`` and the modules.
        """
        index = bisect_right(self._addrs, addr) - 1
        if index < 0:
            return None
        found = self._by_addr[index]
        start, stop = self._kernel_range
        if not found.module and not start <= addr < stop:
            return None
        if index + 1 == len(self._addrs) and addr - found.addr > _LAST_SYMBOL_REACH_BYTES:
            return None
        if found.module and not self._by_addr[min(index + 1, len(self) - 1)].module:
            return None if addr - found.addr > _LAST_SYMBOL_REACH_BYTES else (found, addr - found.addr)
        first = self._by_addr[bisect_left(self._addrs, found.addr)]
        return first, addr - first.addr

    def covers(self, addr: int) -> bool:
        """Whether an address is in the kernel proper: not in a module."""
        start, stop = self._kernel_range
        return start <= addr < stop

    def size(self, addr: int) -> int:
        """Bytes from the start of the symbol that holds an address to the next higher symbol; 0 when unknown.

        This is the kernel's own notion of a function's size, padding included.
        """
        index = bisect_right(self._addrs, addr)
        if index == 0 or index >= len(self._addrs):
            return 0
        return self._addrs[index] - self._addrs[index - 1]

    def symbolize(self, addr: int) -> str:
        """``vfs_read+0x75``, ``nf_hook+0x0 [netfilter]``, or ``0xffff...`` where no symbol covers the address."""
        found = self.lookup(addr)
        if found is None:
            return f"{addr:#x}"
        symbol, offset = found
        return f"{symbol.name}+{offset:#x}" + (f" [{symbol.module}]" if symbol.module else "")

    def near(self, name: str, n: int = 3) -> tuple[str, ...]:
        """Up to ``n`` existing names that look like this one, best first. Some 50 ms."""
        wanted = name.strip("*?!")
        if not wanted:
            return ()
        head, tail, length = wanted[:2], wanted[-3:], len(wanted)
        # difflib over all names takes seconds: keep those of like length that begin, end or contain alike.
        alike = [
            known
            for known in self._by_name
            if abs(len(known) - length) <= _NEAR_LENGTH_DIFFERENCE
            and (known.startswith(head) or known.endswith(tail) or wanted in known)
        ]
        return tuple(difflib.get_close_matches(wanted, alike, n, _NEAR_CUTOFF))

    @cached_property
    def _by_name(self) -> dict[str, int | tuple[int, ...]]:
        # Most names have one address; only for the others is a tuple kept.
        found: dict[str, int | tuple[int, ...]] = {}
        several: dict[str, set[int]] = {}
        for symbol in self._symbols:
            known = found.setdefault(symbol.name, symbol.addr)
            if known != symbol.addr:
                several.setdefault(symbol.name, {known}).add(symbol.addr)  # type: ignore[arg-type]
        for name, addrs in several.items():
            found[name] = tuple(sorted(addrs))
        return found

    # Sorted by address; the sort is stable, so aliases stay in kallsyms order.
    @cached_property
    def _by_addr(self) -> tuple[Symbol, ...]:
        return tuple(sorted(self._symbols, key=lambda symbol: symbol.addr))

    @cached_property
    def _addrs(self) -> list[int]:
        return [symbol.addr for symbol in self._by_addr]

    # As is_kernel() in include/asm-generic/sections.h.
    @cached_property
    def _kernel_range(self) -> tuple[int, int]:
        start = next((addrs[0] for name in ("_stext", "_text") if (addrs := self.addresses(name))), 1 << 63)
        return start, next(iter(self.addresses("_end")), 1 << 64)
