"""The guest's ftrace records as the probe core wants them, out of what the kernel image tells."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from fprobe_gdb.errors import SymbolNotFound
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from fprobe_gdb.kernel.locations import Location

__all__ = ["ImageRecords"]


class ImageRecords:
    """:class:`~fprobe_gdb.probe.records.FtraceRecords` of a kernel, at the addresses of the guest.

    :param boot: it has not booted yet: ``__init`` functions can be probed too, until :meth:`booted`.
    """

    def __init__(self, knowledge: KernelKnowledge, *, boot: bool = False) -> None:
        self._knowledge = knowledge
        self._symbols = knowledge.symbols
        self._locations = knowledge.boot_locations if boot else knowledge.locations
        self._slide = 0
        # Functions without an ftrace record that somebody has asked for, by the address that is planted.
        self._first_insns: dict[int, Location] = {}

    def booted(self, slide: int = 0) -> None:
        """The kernel has freed its ``__init`` functions.

        :param slide: how far KASLR has moved it.
        """
        self._locations = self._knowledge.locations
        self._slide = slide
        self._symbols = self._knowledge.symbols.slid(slide)
        self.__dict__.pop("records", None)

    @cached_property
    def records(self) -> Sequence[Location]:
        """All ftrace records in the kernel's order."""
        if not self._slide:
            return self._locations.records
        return [self._moved(location) for location in self._locations.records]

    def by_index(self, number: int) -> Location | None:
        """Line ``number``, from 1, of ``available_filter_functions``."""
        found = self._locations.by_index(number)
        return found and self._moved(found)

    def ftrace_location(self, ip: int) -> int:
        """The location that ``ip`` is the function start of or lies inside of, 0 for none."""
        found = self._locations.ftrace_location(ip - self._slide)
        return found + self._slide if found else 0

    def addresses(self, name: str) -> Sequence[int]:
        """All addresses of a symbol name, ascending."""
        return self._symbols.addresses(name)

    def first_insn(self, name: str) -> Location | None:
        """A function without an ftrace record, probed at its first instruction."""
        try:
            location = self._moved(self._locations.first_insn(name))
        except SymbolNotFound:
            return None
        self._first_insns[location.ip] = location
        return location

    def is_first_insn(self, ip: int) -> bool:
        """Whether :meth:`first_insn` has given out this address."""
        return ip in self._first_insns

    def location_at(self, ip: int) -> Location | None:
        """What is planted at an address."""
        if ip in self._first_insns:
            return self._first_insns[ip]
        found = self._locations.at(ip - self._slide)
        return found and self._moved(found)

    def name_at(self, ip: int) -> str:
        """The function name that belongs to a location."""
        location = self.location_at(ip)
        return location.name if location else self._symbols.symbolize(ip)

    def near(self, name: str) -> Sequence[str]:
        """Names close to an unknown one."""
        return self._symbols.near(name)

    def why_not(self, name: str) -> str:
        """Why a name cannot be probed, as a clause."""
        return self._locations.why_not(name)

    def _moved(self, location: Location) -> Location:
        return location._replace(ip=location.ip + self._slide, sym_addr=location.sym_addr + self._slide)
