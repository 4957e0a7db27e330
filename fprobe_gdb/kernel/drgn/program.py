"""A ``drgn.Program`` for the present stop of a guest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import drgn

from fprobe_gdb.errors import BtfError, ExtraMissing, MemoryFault, StaleValue
from fprobe_gdb.kernel.btf import Btf
from fprobe_gdb.kernel.drgn.objects import DrgnObjects
from fprobe_gdb.kernel.drgn.symbols import DrgnSymbols
from fprobe_gdb.kernel.drgn.types import DrgnTypes
from fprobe_gdb.kernel.drgn.vmcoreinfo import made_up_vmcoreinfo, read_vmcoreinfo
from fprobe_gdb.kernel.image import KernelImage
from fprobe_gdb.kernel.modules import GuestModule
from fprobe_gdb.kernel.symbols import SymbolTable
from fprobe_gdb.kernel.values import GuestMemory

__all__ = ["DrgnPrograms", "Guest", "Program"]

Program = drgn.Program

_NAME = "fprobe_gdb"
_LAST = -1
_WORD_BYTES = 8
# All but the last byte: the size of a segment has 64 bits.
_ADDRESSES = (1 << 64) - 1
# Linux's direct mapping of physical memory where it is not moved (Documentation/arch/x86/x86_64/mm.rst, Linux 6.12).
_PAGE_OFFSET = 0xFFFF888000000000
# The unwinder's tables, 5 MB that the kernel does not change: sorted when it is built, with relative addresses.
_ORC_SECTIONS = (".orc_unwind", ".orc_unwind_ip")
_DWARF_SECTION = ".debug_info"


@dataclass(frozen=True, slots=True)
class Guest:
    """What programs are made of; ``symbols`` at the guest's addresses."""

    memory: GuestMemory
    symbols: SymbolTable
    image: KernelImage
    #: None where the kernel has none.
    btf: Btf | None
    slide: int = 0
    #: (Address of a return slot, what is there) to what was there before we hooked it; None for all else.
    recover: Callable[[int, int], int | None] = lambda _slot_addr, _value: None
    #: The modules that are loaded at this stop, and the types of one of them; None where it has none.
    modules: Callable[[], Sequence[GuestModule]] = tuple
    module_btf: Callable[[GuestModule], Btf | None] = lambda _module: None

    def typed_modules(self) -> Iterator[tuple[SymbolTable, Btf]]:
        """Symbols and types of the modules that have both."""
        for module in self.modules():
            btf = self.module_btf(module)
            if btf is not None:
                yield module.symbols, btf


class DrgnPrograms:
    """The programs of one guest.

    Types come from the image's DWARF if it has any, else from BTF. With BTF each stop has a program of its own, whose
    types are made anew: 0.1 ms, and 0.6 ms for those that d_path() needs. DWARF is read once, so there one program
    serves for all stops.

    :raise BtfError: the kernel has neither.
    :raise ExtraMissing: this drgn is too old.
    """

    def __init__(self, guest: Guest) -> None:
        if not hasattr(drgn.Program, "set_linux_kernel_custom"):
            raise ExtraMissing("k.drgn()", "drgn 0.3 or later", "drgn")
        section = guest.image.section(_DWARF_SECTION)
        # A bzImage is stripped; pyelftools' view of it is not a file that drgn could open.
        self._has_dwarf = section is not None and section.has_bytes and guest.image.compressor == "none"
        if guest.btf is None and not self._has_dwarf:
            raise BtfError(guest.image.path, "has neither BTF nor DWARF, so drgn would know no types")
        self.guest = guest
        self._vmcoreinfo: bytes | None = None
        self._reader = _Reader(guest)
        self._program: drgn.Program | None = None

    def program(self) -> drgn.Program:
        """The program for the present stop.

        :raise StateError, MemoryFault: the guest runs, or its memory cannot be read.
        """
        if self._program is None or (self._reader.is_stale and not self._has_dwarf):
            self._reader = _Reader(self.guest)
            self._program = self._make()
        self._reader.renew()
        return self._program

    def _make(self) -> drgn.Program:
        guest = self.guest
        prog = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
        # Not live: the guest stands still.
        prog.set_linux_kernel_custom(self._text_for_drgn(), is_live=False)
        # Over drgn's own, which walks page tables: ours reads as the stopped vCPU does.
        for physical in (False, True):
            prog.add_memory_segment(0, _ADDRESSES, self._reader.read, physical=physical)
        self._add_module(prog)
        if guest.btf is not None:
            types = DrgnTypes(prog, guest.btf, lambda: (btf for _, btf in guest.typed_modules()))
            objects = DrgnObjects(prog, types, guest.btf, guest.symbols, guest.typed_modules)
            prog.register_type_finder(_NAME, types.find, enable_index=_LAST)
            prog.register_object_finder(_NAME, objects.find, enable_index=_LAST)
        prog.register_symbol_finder(_NAME, DrgnSymbols(guest.symbols, guest.modules).find, enable_index=_LAST)
        return prog

    def _text_for_drgn(self) -> bytes:
        guest = self.guest
        if self._vmcoreinfo is None:
            self._vmcoreinfo = read_vmcoreinfo(guest.memory, guest.symbols)
        return self._vmcoreinfo or made_up_vmcoreinfo(guest.memory, guest.symbols, guest.image, guest.slide)

    # What drgn's unwinder needs to find ORC tables, and drgn's DWARF to know what it belongs to.
    def _add_module(self, prog: drgn.Program) -> None:
        guest = self.guest
        start, end = (guest.symbols.addresses(name)[:1] for name in ("_stext", "_end"))
        module = prog.main_module("kernel", create=True)
        if start and end:
            module.address_range = (start[0], end[0])
        for section in filter(None, map(guest.image.section, _ORC_SECTIONS)):
            data = memoryview(guest.image.elf)[section.offset : section.offset + section.size_bytes]
            prog.add_memory_segment(section.addr + guest.slide, section.size_bytes, _image_reader(data))
        if self._has_dwarf:
            module.try_file(guest.image.path, force=True)
            if module.wants_debug_file() and guest.btf is None:
                raise BtfError(guest.image.path, "has DWARF that drgn cannot read, and no BTF")


class _Reader:
    # Reads guest memory for one program, as long as the guest has not run on since the program was handed out.
    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._epoch = guest.memory.epoch

    @property
    def is_stale(self) -> bool:
        return self._epoch != self._guest.memory.epoch

    def renew(self) -> None:
        self._epoch = self._guest.memory.epoch

    def read(self, addr: int, size_bytes: int, offset: int, physical: bool) -> bytes:
        try:
            at = addr + self._page_offset() if physical else addr
            data = self._guest.memory.read(at, size_bytes, self._epoch)
        except MemoryFault as fault:
            raise drgn.FaultError(str(fault), addr) from None
        except StaleValue:
            raise StaleValue(
                "this drgn.Program was made at an earlier stop of the guest, which has run on since; take a new one "
                "from k.drgn() in each handler, and keep what must last as a Python value (obj.value_(), "
                "obj.string_())"
            ) from None
        # An unwinder reads word by word, and shall see through our hooks.
        ret_addr = self._guest.recover(addr, int.from_bytes(data, "little")) if size_bytes == _WORD_BYTES else None
        return data if ret_addr is None else ret_addr.to_bytes(_WORD_BYTES, "little")

    # Physical memory is read where the kernel has all of it mapped.
    def _page_offset(self) -> int:
        addrs = self._guest.symbols.addresses("page_offset_base")
        if not addrs:
            return _PAGE_OFFSET
        return int.from_bytes(self._guest.memory.read(addrs[0], 8, self._epoch), "little")


def _image_reader(data: memoryview) -> Callable[[int, int, int, bool], bytes]:
    def read(addr: int, size_bytes: int, offset: int, physical: bool) -> bytes:
        return bytes(data[offset : offset + size_bytes])

    return read
