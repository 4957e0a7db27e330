"""What arguments are parsed against: the probed function, its prototype, and the errors of the definition."""

from __future__ import annotations

from functools import cached_property

from fprobe_gdb.kernel.btf import FuncProto, Param
from fprobe_gdb.probe_events.catalog import ProbeCatalog
from fprobe_gdb.probe_events.errors import ErrorLog

__all__ = ["ProbePoint"]


class ProbePoint:
    """One definition's probe (``struct traceprobe_parse_context``).

    :param function: whose prototype names the arguments; a pattern has none.
    :param hidden_params: parameters before the first one that can be named (1 for tracepoints: their data pointer).
    """

    def __init__(
        self, catalog: ProbeCatalog, log: ErrorLog, function: str, *, is_return: bool, hidden_params: int = 0
    ) -> None:
        self.catalog = catalog
        self.log = log
        self.function = function
        self.is_return = is_return
        self.hidden_params = hidden_params
        #: Arguments, from 0, that a return probe keeps at entry, in the order in which they are kept.
        self.entry_args: list[int] = []

    @cached_property
    def proto(self) -> FuncProto | None:
        """The function's prototype; None when the types have none. Of several, the kernel takes the first."""
        btf = self.catalog.btf
        found = btf.functions(self.function) if btf else ()
        return found[0] if found else None

    @cached_property
    def params(self) -> tuple[Param, ...]:
        """The parameters that can be named."""
        return self.proto.params[self.hidden_params :] if self.proto else ()

    def keep_at_entry(self, argument: int) -> int:
        """Have an argument kept at entry for the return; gives its place."""
        if argument not in self.entry_args:
            self.entry_args.append(argument)
        return self.entry_args.index(argument)
