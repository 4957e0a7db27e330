"""ftrace locations: which functions can be probed, and at which address.

``records`` equals the guest's ``available_filter_functions``, in order, name and address, less the lines
``__ftrace_invalid_address___*`` which no filter matches either.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from fprobe_gdb.errors import ImageError, SymbolNotCode, SymbolNotFound
from fprobe_gdb.kernel.image import KernelImage
from fprobe_gdb.kernel.mcount import fentry_addr, kinds_at, site_ips
from fprobe_gdb.kernel.sites import ENDBR_BYTES, MCOUNT_INSN_SIZE, SiteKind, endbr_size
from fprobe_gdb.kernel.symbols import Symbol, SymbolTable
from fprobe_gdb.kernel.text_ranges import TextRanges

__all__ = ["Location", "LocationTable"]


class Location(NamedTuple):
    """One place where a function can be probed."""

    #: Where the probe goes: the fentry instruction (``rec->ip``), or the first instruction of a function without one.
    ip: int
    #: The first kallsyms name at ``sym_addr``: the only one that ftrace filters know.
    name: str
    sym_addr: int
    #: What the image has there; a booted kernel has a NOP for either fentry kind.
    kind: SiteKind
    #: The module's name, "" for the kernel proper.
    module: str = ""

    @property
    def has_fentry(self) -> bool:
        """Whether a hit is passed by setting rip behind 5 bytes; else the instruction must be executed."""
        return self.kind is not SiteKind.FIRST_INSN


class LocationTable:
    """The ftrace records of one kernel. Made by :meth:`build`.

    :param ips: every site in address order, also those of overridden weak functions.
    :param locations: those that belong to a function.
    """

    def __init__(
        self, image: KernelImage, symbols: SymbolTable, ips: list[int], locations: list[Location], *, boot: bool
    ) -> None:
        self._image = image
        self._symbols = symbols
        self._all_ips = ips
        self._ranges = TextRanges(image, symbols)
        self._boot = boot
        #: Whether the kernel was built with fentry calls at all.
        self.has_ftrace = fentry_addr(symbols) is not None
        #: In the kernel's order, which is that of addresses.
        self.records: tuple[Location, ...] = tuple(locations)
        self._ips = [location.ip for location in locations]
        self._by_symbol = {location.sym_addr: location for location in locations}

    @classmethod
    def build(cls, image: KernelImage, symbols: SymbolTable, *, boot: bool = False) -> LocationTable:
        """Find all locations; 0.2 s for 40,000 from ``__mcount_loc``.

        :param boot: for a kernel that is still booting: keep ``__init`` functions, which are gone afterwards.
        :raise ImageError: the image's tables are damaged.
        """
        ranges = TextRanges(image, symbols)
        ips = site_ips(image, symbols)
        if not boot:
            ips = [ip for ip in ips if not ranges.is_init(ip)]
        kinds = kinds_at(image, ips, fentry_addr(symbols))
        locations = []
        for ip, (kind, has_endbr) in zip(ips, kinds, strict=True):
            found = symbols.lookup(ip)
            # The kernel's rule (FTRACE_MCOUNT_MAX_OFFSET): farther inside, it is an overridden weak function's.
            if found and found[1] in ((0, ENDBR_BYTES) if has_endbr else (0,)):
                locations.append(Location(ip, found[0].name, found[0].addr, kind))
        return cls(image, symbols, ips, locations, boot=boot)

    def __len__(self) -> int:
        return len(self.records)

    def at(self, ip: int) -> Location | None:
        """The location whose 5-byte instruction holds this address."""
        index = bisect_right(self._ips, ip) - 1
        if index < 0 or ip - self._ips[index] >= MCOUNT_INSN_SIZE:
            return None
        return self.records[index]

    def location_of(self, sym_addr: int) -> Location | None:
        """The location of the function that begins at this address."""
        return self._by_symbol.get(sym_addr)

    def ftrace_location(self, ip: int) -> int:
        """As the kernel's ``ftrace_location()``: the site's address for any byte in it or the function's start, else 0.

        The kernel also finds the leftover of an overridden weak function that lies in a symbol's padding, at which no
        probe ever fires; here that is no location.
        """
        found = self.at(ip) or self.location_of(ip)
        return found.ip if found else 0

    @property
    def line_count(self) -> int:
        """How many lines the kernel itself has in ``available_filter_functions``; those of modules follow."""
        return len(self._all_ips)

    @property
    def has_endbr(self) -> bool:
        """Whether functions begin with ENDBR (CONFIG_X86_KERNEL_IBT)."""
        return any(location.ip != location.sym_addr for location in self.records)

    def by_index(self, number: int) -> Location | None:
        """Line ``number``, counted from 1, of ``available_filter_functions``; None for an invalid one or none.

        This counts lines of overridden weak functions as the kernel does, unlike an index into :attr:`records`.
        """
        return self.at(self._all_ips[number - 1]) if 0 < number <= len(self._all_ips) else None

    def named(self, name: str) -> tuple[Location, ...]:
        """All locations of exactly this name, by address."""
        found = (self.location_of(addr) for addr in self._symbols.addresses(name))
        return tuple(location for location in found if location and location.name == name)

    def first_insn(self, name: str) -> Location:
        """A location for a function without fentry: its first instruction, behind ENDBR where there is one.

        Behind, because indirect calls and direct ones both pass there, and because whatever is planted there leaves
        the landing pad whole. Of several functions of the name, the lowest that can be probed. A function that has a
        fentry site gives that one.

        :raise SymbolNotFound: no such symbol.
        :raise SymbolNotCode: data, code that is freed after boot, or what is never called (padding, ``.cold``).
        """
        addrs = self._symbols.addresses(name)
        if not addrs:
            raise SymbolNotFound(name, self._symbols.near(name))
        for addr in addrs:
            location = self.location_of(addr)
            if location:
                return location
            if self._is_function(self._symbol(name, addr)):
                break
        else:
            raise SymbolNotCode(name, self.why_not(name))
        try:
            code = self._image.read(addr, ENDBR_BYTES)
        except ImageError as error:
            raise SymbolNotCode(name, "the image has no code at its address") from error
        return Location(addr + endbr_size(code), self._symbols.names(addr)[0], addr, SiteKind.FIRST_INSN)

    def why_not(self, name: str) -> str:
        """Why a name has no ftrace location, as a clause; "" when it has one."""
        addrs = self._symbols.addresses(name)
        if not addrs:
            near = self._symbols.near(name)
            return "no such kernel symbol" + (f"; did you mean {', '.join(near)}?" if near else "")
        known = [location for addr in addrs if (location := self.location_of(addr))]
        if any(location.name == name for location in known):
            return ""
        if known:
            return f"ftrace knows it as {known[0].name!r}, the first name of its address"
        return self._why_not_symbol(self._symbol(name, addrs[0]))

    # Code that is called, so that [rsp] is the return address at its first instruction.
    def _is_function(self, symbol: Symbol) -> bool:
        if not symbol.is_text or symbol.module or symbol.name.startswith(("__pfx_", "__cfi_")) or _is_cold(symbol.name):
            return False
        return self._boot or not self._ranges.is_init(symbol.addr)

    def _symbol(self, name: str, addr: int) -> Symbol:
        return next(symbol for symbol in self._symbols.at(addr) if symbol.name == name)

    def _why_not_symbol(self, symbol: Symbol) -> str:
        if symbol.module:
            return f"it is in the module {symbol.module}, not in the kernel image"
        if not symbol.is_text:
            return f"it is data, not a function (type {symbol.type})"
        if symbol.name.startswith("__pfx_"):
            return f"it is the padding before {symbol.name.removeprefix('__pfx_')!r}"
        if symbol.name.startswith("__cfi_"):
            return f"it is the type hash before {symbol.name.removeprefix('__cfi_')!r}"
        if _is_cold(symbol.name):
            return f"it is the unlikely part of {symbol.name.partition('.cold')[0]!r}, which is entered by a jump"
        if not self._boot and self._ranges.is_init(symbol.addr):
            return "it is __init or __exit code, which is gone after boot"
        if not self.has_ftrace:
            return "this kernel is built without ftrace, so no function has a fentry call"
        return self._ranges.why_untraced(symbol.addr) or (
            "it has no fentry call (notrace, assembly, or in a file that is built without ftrace)"
        )


def _is_cold(name: str) -> bool:
    return name.endswith(".cold") or ".cold." in name
