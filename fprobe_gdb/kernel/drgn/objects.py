"""Variables, functions and constants for drgn: BTF's own, and the well-known variables that it leaves out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

import drgn

from fprobe_gdb.errors import TypeAmbiguous, TypeNotFound
from fprobe_gdb.kernel.btf import Btf, EnumType, Type
from fprobe_gdb.kernel.drgn.types import DrgnTypes
from fprobe_gdb.kernel.drgn.variables import VARIABLE_TYPES
from fprobe_gdb.kernel.symbols import SymbolTable

__all__ = ["DrgnObjects"]

_Flags = drgn.FindObjectFlags
_PER_CPU_SECTION = ".data..percpu"


class DrgnObjects:
    """The objects of one ``drgn.Program``.

    :param of_modules: symbols and types of each module that is loaded at this stop; their functions are found too.
    """

    def __init__(
        self,
        prog: drgn.Program,
        types: DrgnTypes,
        btf: Btf,
        symbols: SymbolTable,
        of_modules: Callable[[], Iterable[tuple[SymbolTable, Btf]]] = tuple,
    ) -> None:
        self._of_modules = of_modules
        self._prog = prog
        self._types = types
        self._btf = btf
        self._symbols = symbols

    def find(
        self, prog: drgn.Program, name: str, flags: drgn.FindObjectFlags, filename: str | None
    ) -> drgn.Object | None:
        """An object finder for ``drgn.Program.register_object_finder()``.

        :raise SymbolAmbiguous, TypeAmbiguous: several have this name.
        """
        # BTF does not say which file anything is from.
        if filename is not None:
            return None
        found = None
        if _Flags.VARIABLE in flags:
            found = self._variable(name)
        if found is None and _Flags.FUNCTION in flags:
            known = chain([(self._symbols, self._btf)], self._of_modules())
            found = next(filter(None, (self._function(name, *one) for one in known)), None)
        if found is None and _Flags.CONSTANT in flags:
            found = self._constant(name)
        return found

    def _variable(self, name: str) -> drgn.Object | None:
        var = self._btf.vars.get(name)
        if var is not None and var.section == _PER_CPU_SECTION:
            # From the section's start on: static variables of one name have as many symbols.
            return self._object(var.type, self._symbols.one("__per_cpu_start") + var.offset)
        if var is not None:
            return self._object(var.type, self._symbols.one(name))
        if name == "current_task" and "pcpu_hot" in self._btf.vars:
            # Linux 6.2 to 6.14; before and after them a per-CPU variable of its own.
            hot = self._variable("pcpu_hot")
            return hot.member_(name) if hot is not None else None
        return self._well_known(name)

    def _well_known(self, name: str) -> drgn.Object | None:
        text = VARIABLE_TYPES.get(name)
        if text is None or not self._symbols.addresses(name):
            return None
        try:
            type_ = self._btf.type(text)
        except TypeNotFound:
            return None
        addr = self._symbols.one(name)
        # A type that does not fit is not that of this kernel's variable. 0 where the next symbol is not known.
        room_bytes = self._symbols.size(addr)
        return self._object(type_, addr) if not 0 < room_bytes < type_.size_bytes else None

    def _function(self, name: str, symbols: SymbolTable, btf: Btf) -> drgn.Object | None:
        if not symbols.addresses(name) or not btf.functions(name):
            return None
        return self._object(btf.function(name), symbols.one(name))

    def _constant(self, name: str) -> drgn.Object | None:
        enums = self._btf.enumerators.get(name, ())
        values = {enum.values[name]: enum for enum in enums}
        if len(values) > 1:
            raise TypeAmbiguous(f"enumerator {name}", [f"{value} in {enum}" for value, enum in values.items()])
        enum: EnumType
        for value, enum in values.items():
            return drgn.Object(self._prog, self._types.drgn_type(enum), value)
        return None

    def _object(self, type_: Type, addr: int) -> drgn.Object:
        return drgn.Object(self._prog, self._types.drgn_type(type_), address=addr)
