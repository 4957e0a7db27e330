"""What the parser must know of a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fprobe_gdb.errors import InvalidProbe
from fprobe_gdb.kernel.btf import Btf
from fprobe_gdb.kernel.symbols import SymbolTable
from fprobe_gdb.probe.filters import match_filter
from fprobe_gdb.probe.records import FtraceRecords

__all__ = ["KernelCatalog", "ProbeCatalog"]


class ProbeCatalog(Protocol):
    """Names and types of a kernel."""

    @property
    def btf(self) -> Btf | None:
        """Its types; None where it has none, as in a kernel without ``CONFIG_PROBE_EVENTS_BTF_ARGS``."""
        ...

    def addresses(self, name: str) -> Sequence[int]:
        """All addresses of a symbol, ascending."""
        ...

    def refusal(self, pattern: str) -> InvalidProbe | None:
        """Why ``register_fprobe()`` would refuse this filter; None when it accepts it."""
        ...


@dataclass(frozen=True)
class KernelCatalog:
    """:class:`ProbeCatalog` of what a kernel image tells.

    :param any_function: exact names of functions that ftrace cannot trace are accepted too, which the kernel refuses.
    """

    symbols: SymbolTable
    records: FtraceRecords
    btf: Btf | None
    any_function: bool = False

    def addresses(self, name: str) -> Sequence[int]:
        """All addresses of a symbol, ascending."""
        return self.symbols.addresses(name)

    def refusal(self, pattern: str) -> InvalidProbe | None:
        """Why the pattern selects nothing, with names close to it; None when it does."""
        try:
            match_filter(self.records, pattern, any_function=self.any_function)
        except InvalidProbe as error:
            return error
        return None
