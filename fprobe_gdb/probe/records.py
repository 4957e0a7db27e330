"""What the core must know of a kernel to register fprobes: its ftrace records. :mod:`fprobe_gdb.kernel` supplies it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["FtraceRecord", "FtraceRecords"]


class FtraceRecord(Protocol):
    """One line of ``available_filter_functions``."""

    @property
    def ip(self) -> int:
        """ftrace location: the address of the fentry instruction (or of the first instruction, without fentry)."""
        ...

    @property
    def name(self) -> str:
        """The first kallsyms name at the function's address."""
        ...

    @property
    def module(self) -> str:
        """The module's name, "" for the kernel proper."""
        ...


class FtraceRecords(Protocol):
    """The functions that can be probed."""

    @property
    def records(self) -> Sequence[FtraceRecord]:
        """All ftrace records in the kernel's order."""
        ...

    def by_index(self, number: int) -> FtraceRecord | None:
        """Line ``number``, from 1, of ``available_filter_functions``; None when there is no such line.

        Linux 6.1 counts, and never probes, lines of overridden weak functions, which are not in :attr:`records`.
        """
        ...

    def ftrace_location(self, ip: int) -> int:
        """``ftrace_location()``: the record that ``ip`` is the function start of or lies inside of, 0 for none."""
        ...

    def addresses(self, name: str) -> Sequence[int]:
        """All addresses of a symbol name, ascending; empty for an unknown name."""
        ...

    def first_insn(self, name: str) -> FtraceRecord | None:
        """A function without an ftrace record, probed at its first instruction; None where that cannot be."""
        ...

    def is_first_insn(self, ip: int) -> bool:
        """Whether :meth:`first_insn` has given out this address."""
        ...

    def name_at(self, ip: int) -> str:
        """The function name that belongs to a location."""
        ...

    def near(self, name: str) -> Sequence[str]:
        """Names close to an unknown one."""
        ...

    def why_not(self, name: str) -> str:
        """Why a name cannot be probed, as a clause."""
        ...
