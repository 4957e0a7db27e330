"""Our symbols for drgn."""

from __future__ import annotations

from collections.abc import Iterator

import drgn

from fprobe_gdb.kernel.symbols import Symbol, SymbolTable

__all__ = ["DrgnSymbols"]

_WEAK = "vVwW"


class DrgnSymbols:
    """A symbol finder over one :class:`~fprobe_gdb.kernel.symbols.SymbolTable`."""

    def __init__(self, symbols: SymbolTable) -> None:
        self._symbols = symbols

    def find(self, prog: drgn.Program, name: str | None, addr: int | None, one: bool) -> list[drgn.Symbol]:
        """A symbol finder for ``drgn.Program.register_symbol_finder()``. Of names at one address the first is best."""
        found = [self._drgn_symbol(symbol) for symbol in self._matching(name, addr)]
        return found[:1] if one else found

    def _matching(self, name: str | None, addr: int | None) -> Iterator[Symbol]:
        table = self._symbols
        if addr is not None:
            found = table.lookup(addr)
            # Per-CPU symbols are not of the kernel's range; they have their own addresses only.
            aliases = table.at(found[0].addr if found else addr)
            return (symbol for symbol in aliases if name in (None, symbol.name))
        if name is not None:
            return (symbol for at in table.addresses(name) for symbol in table.at(at) if symbol.name == name)
        return iter(table)

    def _drgn_symbol(self, symbol: Symbol) -> drgn.Symbol:
        if symbol.type in _WEAK:
            binding = drgn.SymbolBinding.WEAK
        else:
            binding = drgn.SymbolBinding.GLOBAL if symbol.type.isupper() else drgn.SymbolBinding.LOCAL
        kind = drgn.SymbolKind.FUNC if symbol.is_text else drgn.SymbolKind.OBJECT
        return drgn.Symbol(symbol.name, symbol.addr, self._symbols.size(symbol.addr), binding, kind)
