"""A kernel that is a list of functions: the ftrace records and symbols that the probe core asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

TEXT = 0xFFFFFFFF81000000
FENTRY_BYTES = 5


@dataclass(frozen=True)
class Function:
    """One function. ``site`` is the offset of its fentry instruction (4 behind ENDBR); None: notrace."""

    name: str
    addr: int
    site: int | None = 4
    aliases: tuple[str, ...] = ()
    size_bytes: int = 0x80


@dataclass(frozen=True)
class Record:
    """One line of available_filter_functions."""

    ip: int
    name: str
    module: str = ""


class MadeUpKernel:
    """Implements FtraceRecords over a handful of functions."""

    def __init__(self, functions: Sequence[Function]) -> None:
        self.functions = sorted(functions, key=lambda function: function.addr)
        self.records = [Record(f.addr + f.site, f.name) for f in self.functions if f.site is not None]

    def ip(self, name: str) -> int:
        """The location of the first function of this name."""
        return next(record.ip for record in self.records if record.name == name)

    def by_index(self, number: int) -> Record | None:
        return self.records[number - 1] if 0 < number <= len(self.records) else None

    def ftrace_location(self, ip: int) -> int:
        for record in self.records:
            if record.ip <= ip < record.ip + FENTRY_BYTES:
                return record.ip
        # Only the very start of a function is mapped to its site.
        return next((f.addr + f.site for f in self.functions if f.addr == ip and f.site is not None), 0)

    def addresses(self, name: str) -> Sequence[int]:
        return [f.addr for f in self.functions if name == f.name or name in f.aliases]

    def first_insn(self, name: str) -> Record | None:
        return next((Record(f.addr, f.name) for f in self.functions if f.name == name and f.site is None), None)

    def is_first_insn(self, ip: int) -> bool:
        return any(f.addr == ip and f.site is None for f in self.functions)

    def name_at(self, ip: int) -> str:
        return next(record.name for record in self.records if record.ip == ip)

    def near(self, name: str) -> Sequence[str]:
        return [f.name for f in self.functions if f.name[:4] == name[:4]]

    def why_not(self, name: str) -> str:
        if not self.addresses(name):
            return "no such symbol"
        return "" if any(map(self.ftrace_location, self.addresses(name))) else "it is notrace"


def kernel_of(*names: str) -> MadeUpKernel:
    """A kernel of these functions, in this order of addresses, each with ENDBR and so with its site at +4."""
    return MadeUpKernel([Function(name, TEXT + 0x100 * i) for i, name in enumerate(names)])
