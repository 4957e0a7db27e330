"""The guest's ftrace records as the probe core wants them, out of what the kernel image and loaded modules tell."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from functools import cached_property
from itertools import chain

from fprobe_gdb.errors import SymbolNotFound
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from fprobe_gdb.kernel.locations import Location
from fprobe_gdb.kernel.modules import GuestModule
from fprobe_gdb.kernel.sites import MCOUNT_INSN_SIZE
from fprobe_gdb.session.modules import GuestModules

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
        #: To be set once the guest is up.
        self.modules: GuestModules | None = None
        # Functions without an ftrace record that somebody has asked for, by the address that is planted.
        self._first_insns: dict[int, Location] = {}

    def booted(self) -> None:
        """The kernel has freed its ``__init`` functions."""
        self._locations = self._knowledge.locations
        self.__dict__.pop("_image_records", None)

    def moved(self, slide: int) -> None:
        """KASLR has moved the kernel so far from its link addresses."""
        self._slide = slide
        self._symbols = self._knowledge.symbols.slid(slide)
        for name in ("_image_records", "_fentry_ips"):
            self.__dict__.pop(name, None)

    @property
    def records(self) -> Sequence[Location]:
        """All ftrace records in the kernel's order: its own, then those of modules as they were loaded."""
        modules = self._modules
        if not modules:
            return self._image_records
        return [*self._image_records, *chain.from_iterable(module.locations for module in modules)]

    @cached_property
    def _image_records(self) -> Sequence[Location]:
        if not self._slide:
            return self._locations.records
        return [self._moved(location) for location in self._locations.records]

    @cached_property
    def _fentry_ips(self) -> frozenset[int]:
        return frozenset(location.ip for location in self._image_records if location.has_fentry)

    def without_fentry(self, ips: Collection[int]) -> int | None:
        """The first of these addresses that is not the fentry instruction of a function; None when all are."""
        for ip in sorted(set(ips) - self._fentry_ips):
            location = self.location_at(ip)
            if location is None or not location.has_fentry:
                return ip
        return None

    def by_index(self, number: int) -> Location | None:
        """Line ``number``, from 1, of ``available_filter_functions``."""
        if number <= self._locations.line_count:
            found = self._locations.by_index(number)
            return found and self._moved(found)
        ips = list(chain.from_iterable(module.ips for module in self._modules))
        index = number - self._locations.line_count - 1
        return self.location_at(ips[index]) if index < len(ips) else None

    def ftrace_location(self, ip: int) -> int:
        """The location that ``ip`` is the function start of or lies inside of, 0 for none."""
        if module := self._module_at(ip):
            located = _located(module, ip)
            return located.ip if located else 0
        found = self._locations.ftrace_location(ip - self._slide)
        return found + self._slide if found else 0

    def addresses(self, name: str) -> Sequence[int]:
        """All addresses of a symbol name, ascending; those of modules behind the kernel's."""
        found = self._symbols.addresses(name)
        return (*found, *chain.from_iterable(module.symbols.addresses(name) for module in self._modules))

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
        if module := self._module_at(ip):
            return _located(module, ip)
        found = self._locations.at(ip - self._slide)
        return found and self._moved(found)

    def name_at(self, ip: int) -> str:
        """The function name that belongs to a location, as ftrace prints it: ``dummy_xmit [dummy]`` in a module."""
        location = self.location_at(ip)
        if location is None:
            return self._symbols.symbolize(ip)
        return f"{location.name} [{location.module}]" if location.module else location.name

    def near(self, name: str) -> Sequence[str]:
        """Names close to an unknown one."""
        near = chain.from_iterable(module.symbols.near(name) for module in self._modules)
        return (*self._symbols.near(name), *near)

    def why_not(self, name: str) -> str:
        """Why a name cannot be probed, as a clause."""
        return self._locations.why_not(name)

    def _moved(self, location: Location) -> Location:
        return location._replace(ip=location.ip + self._slide, sym_addr=location.sym_addr + self._slide)

    @property
    def _modules(self) -> Sequence[GuestModule]:
        return self.modules.known() if self.modules else ()

    def _module_at(self, ip: int) -> GuestModule | None:
        return self.modules.at(ip) if self.modules and not self._symbols.covers(ip) else None


# ftrace_location() in one module: any byte of the site, or the start of its function.
def _located(module: GuestModule, ip: int) -> Location | None:
    locations = module.locations
    index = bisect_right(locations, ip, key=lambda location: location.ip) - 1
    if index >= 0 and ip - locations[index].ip < MCOUNT_INSN_SIZE:
        return locations[index]
    behind = locations[index + 1] if index + 1 < len(locations) else None
    return behind if behind is not None and behind.sym_addr == ip else None
