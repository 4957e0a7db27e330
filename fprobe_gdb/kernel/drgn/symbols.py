"""Our symbols for drgn: the kernel's, and those of the modules that are loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import drgn

from fprobe_gdb.kernel.modules import GuestModule
from fprobe_gdb.kernel.symbols import Symbol, SymbolTable

__all__ = ["DrgnSymbols"]

_WEAK = "vVwW"


class DrgnSymbols:
    """A symbol finder.

    :param symbols: the kernel's.
    :param modules: what is loaded at this stop.
    """

    def __init__(self, symbols: SymbolTable, modules: Callable[[], Iterable[GuestModule]] = tuple) -> None:
        self._symbols = symbols
        self._modules = modules

    def find(self, prog: drgn.Program, name: str | None, addr: int | None, one: bool) -> list[drgn.Symbol]:
        """A symbol finder for ``drgn.Program.register_symbol_finder()``. Of names at one address the first is best."""
        found = [_drgn_symbol(self._symbols, symbol) for symbol in _matching(self._symbols, name, addr)]
        # Modules are read only for what is not the kernel's.
        if not found or not (one or addr is not None):
            for module in self._modules():
                inside = addr is None or module.holds(addr)
                matching = _matching(module.symbols, name, addr, inside=inside)
                found += (_drgn_symbol(module.symbols, symbol) for symbol in matching)
        return found[:1] if one else found


# inside: whether the table's last symbol may reach up to the address.
def _matching(table: SymbolTable, name: str | None, addr: int | None, *, inside: bool = True) -> Iterator[Symbol]:
    if addr is not None:
        found = table.lookup(addr) if inside else None
        # Per-CPU symbols are not of the kernel's range, a module's data not of its code; they have their own addresses.
        aliases = table.at(found[0].addr if found else addr)
        return (symbol for symbol in aliases if name in (None, symbol.name))
    if name is not None:
        return (symbol for at in table.addresses(name) for symbol in table.at(at) if symbol.name == name)
    return iter(table)


def _drgn_symbol(table: SymbolTable, symbol: Symbol) -> drgn.Symbol:
    if symbol.type in _WEAK:
        binding = drgn.SymbolBinding.WEAK
    else:
        binding = drgn.SymbolBinding.GLOBAL if symbol.type.isupper() else drgn.SymbolBinding.LOCAL
    kind = drgn.SymbolKind.FUNC if symbol.is_text else drgn.SymbolKind.OBJECT
    return drgn.Symbol(symbol.name, symbol.addr, table.size(symbol.addr), binding, kind)
