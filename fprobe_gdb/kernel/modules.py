"""Loaded modules, read from a guest's memory: their symbols, ftrace locations and types. No ``.ko`` file is needed.

``modules`` is the kernel's list of ``struct module`` (kernel/module/main.c; kernel/module.c up to 5.18). Its layout
comes from the kernel's BTF, so one reader serves ``core_layout`` (up to 6.3) and ``mem[MOD_TEXT]`` (from 6.4 on). A
module's symbols are those of ``/proc/kallsyms``: the core ones once its init function has returned, all before.

The reader needs a kernel with BTF and CONFIG_KALLSYMS_ALL (for the address of ``modules``), which distributions have.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from fprobe_gdb.errors import MemoryFault, ModuleError, SymbolError, TypeLookupError
from fprobe_gdb.kernel.btf import Btf
from fprobe_gdb.kernel.locations import Location
from fprobe_gdb.kernel.orc import OrcTable
from fprobe_gdb.kernel.sites import ENDBR_BYTES, SiteKind
from fprobe_gdb.kernel.symbols import Symbol, SymbolTable
from fprobe_gdb.kernel.values import GuestMemory, Value

__all__ = ["GuestModule", "ModuleHead", "ModuleReader", "in_module_area"]

# Elf64_Sym: name, info, other, section index, value, size.
_ELF_SYM = struct.Struct("<IBBHQQ")
_SHN_UNDEF = 0
# Bounds of what is believed; an amdgpu of a distribution, the largest module, has a tenth of each.
_MAX_MODULES = 4096
_MAX_SYMBOLS = 1 << 19
_MAX_CALLSITES = 1 << 18
_MAX_BYTES = 16 << 20
_NAME_BYTES = 512  # KSYM_NAME_LEN, the longest ever
# KBUILD_MODNAME
_NAME = re.compile(r"[\w.+-]+", re.ASCII)
# struct orc_entry, and its int orc_unwind_ip (arch/x86/include/asm/module.h)
_ORC_IP_BYTES, _ORC_ENTRY_BYTES = 4, 6
_MOD_TEXT, _MOD_INIT_TEXT = 0, 4  # enum mod_mem_type, include/linux/module.h of 6.4


def in_module_area(addr: int) -> bool:
    """Whether modules may lie there: in the uppermost 2 GiB, as their relative calls demand."""
    return addr >> 31 == (1 << 33) - 1


class ModuleHead(NamedTuple):
    """What one read tells of a module: enough to see whether it is still the same."""

    #: Address of its ``struct module``.
    addr: int
    name: str
    #: ``MODULE_STATE_LIVE``, ``_COMING`` (its init function has not returned), ``_GOING`` or ``_UNFORMED``.
    state: str
    #: The code that stays; without ``.init.text``, which is freed when the init function has returned.
    text: range
    #: ``.init.text``, empty once the init function has returned.
    init_text: range
    #: Address of its ``struct mod_kallsyms``, which changes at the end of the load.
    kallsyms: int


@dataclass(frozen=True, eq=False)
class GuestModule:
    """A module as it was when it was read."""

    head: ModuleHead
    #: In the module's own order, which decides which of several names of an address ftrace knows.
    symbols: SymbolTable
    #: All fentry sites in :attr:`ModuleHead.text` and ``init_text``, ascending, those of overridden weak functions too.
    ips: tuple[int, ...]
    #: Those that belong to a function, in the kernel's order.
    locations: tuple[Location, ...]

    @property
    def name(self) -> str:
        """The name as ``lsmod`` has it: with underscores, never dashes."""
        return self.head.name

    @property
    def text(self) -> range:
        """Its code."""
        return self.head.text

    def initialised(self) -> GuestModule:
        """The same without what is freed when the init function has returned."""
        init = self.head.init_text
        symbols = SymbolTable([symbol for symbol in self.symbols if symbol.addr not in init], self.symbols.source)
        ips = tuple(ip for ip in self.ips if ip not in init)
        locations = tuple(location for location in self.locations if location.ip not in init)
        return GuestModule(self.head._replace(init_text=range(0)), symbols, ips, locations)

    def holds(self, addr: int) -> bool:
        """Whether an address is in its code."""
        return addr in self.text or addr in self.head.init_text

    def __repr__(self) -> str:
        return f"GuestModule({self.name} at {self.text.start:#x}, {len(self.locations)} locations)"


class ModuleReader:
    """Reads the modules of a stopped guest.

    :param btf: the kernel's types.
    :param memory: its memory, at a stop with the kernel mapped.
    :param symbols: the kernel's, at the guest's addresses.
    :param has_endbr: whether functions of this kernel begin with ENDBR (CONFIG_X86_KERNEL_IBT), as the image shows.
    """

    def __init__(self, btf: Btf, memory: GuestMemory, symbols: SymbolTable, *, has_endbr: bool) -> None:
        self._btf = btf
        self._memory = memory
        self._symbols = symbols
        # FTRACE_MCOUNT_MAX_OFFSET: a site farther inside is an overridden weak function's.
        self._site_offsets = (0, ENDBR_BYTES) if has_endbr else (0,)

    def heads(self) -> list[ModuleHead]:
        """All modules, newest first: one exchange, and one for each.

        :raise ModuleError: the list is damaged, or the kernel does not tell where it is.
        :raise MemoryFault: the kernel is not mapped.
        """
        try:
            head = self._symbols.one("modules")
            node = self._btf.struct("module").find_member("list").byte_offset
        except SymbolError as error:
            raise ModuleError(0, f"the kernel's symbols do not tell where its list of modules is ({error})") from error
        found = []
        for addr in self._list(head, "modules"):
            module = self._struct(addr - node)
            found.append(self._head(addr - node, module))
        return found

    def head(self, addr: int) -> ModuleHead:
        """One module, by the address of its ``struct module``.

        :raise ModuleError: there is none (any more).
        """
        return self._head(addr, self._struct(addr))

    def read(self, addr: int) -> GuestModule:
        """Everything of one module but its types: some seven exchanges.

        :raise ModuleError: what is there is damaged.
        """
        module = self._struct(addr)
        head = self._head(addr, module)
        symbols = SymbolTable(tuple(self._kallsyms(head)), f"kallsyms of the module {head.name}")
        ips = tuple(sorted({ip for ip in self._callsites(head, module) if ip in head.text or ip in head.init_text}))
        locations = []
        for ip in ips:
            found = symbols.lookup(ip)
            if found and found[1] in self._site_offsets:
                locations.append(Location(ip, found[0].name, found[0].addr, SiteKind.FENTRY_NOP, head.name))
        return GuestModule(head, symbols, ips, tuple(locations))

    def btf_bytes(self, head: ModuleHead) -> bytes | None:
        """The module's split BTF; None where it has none.

        ``struct module`` forgets its own at the end of the load (6.1, ``do_init_module``); the BPF subsystem keeps a
        copy in ``btf_modules`` (kernel/bpf/btf.c).

        :raise ModuleError: it is damaged.
        """
        try:
            at = self._symbols.one("btf_modules")
            node = self._btf.struct("btf_module").find_member("list").byte_offset
        except (SymbolError, TypeLookupError):
            return None
        for addr in self._list(at, "btf_modules"):
            entry = self._value("btf_module", addr - node)
            if int(entry["module"]) == head.addr:
                btf = entry["btf"].deref().copy()
                return self._bytes(int(btf["data"]), int(btf["data_size"]), _MAX_BYTES, f"BTF of {head.name}")
        return None

    def orc(self, head: ModuleHead, like: OrcTable) -> OrcTable | None:
        """The module's stack unwinding table, for the running kernel's addresses; None where it has none.

        :param like: the kernel's own, whose form it has.
        :raise ModuleError: it cannot be read.
        :raise ImageError: it is damaged.
        """
        module = self._struct(head.addr)
        try:
            arch = module["arch"]
            count, ips_at, entries_at = (int(arch[name]) for name in ("num_orcs", "orc_unwind_ip", "orc_unwind"))
        except TypeLookupError:
            return None
        if not count:
            return None
        what = f"unwind tables of {head.name}"
        ips = self._bytes(ips_at, count * _ORC_IP_BYTES, _MAX_BYTES, what)
        entries = self._bytes(entries_at, count * _ORC_ENTRY_BYTES, _MAX_BYTES, what)
        return OrcTable(ips_at, ips, entries, f"module {head.name}", like)

    # The nodes of a struct list_head, the head left out.
    def _list(self, head: int, name: str) -> Iterator[int]:
        node, seen = self._pointer(head, name), set[int]()
        while node != head:
            if node in seen or len(seen) > _MAX_MODULES:
                raise ModuleError(node, f"the guest's list {name} runs in a circle or is endless; memory is damaged")
            seen.add(node)
            yield node
            node = self._pointer(node, name)

    def _pointer(self, addr: int, what: str) -> int:
        try:
            return int.from_bytes(self._memory.read(addr, 8, self._memory.epoch), "little")
        except MemoryFault as fault:
            raise ModuleError(addr, f"the guest's {what} leads to {addr:#x}, which cannot be read") from fault

    def _value(self, tag: str, addr: int) -> Value:
        value = Value(self._btf, self._memory, self._btf.struct(tag), addr=addr).copy()
        if value.fault_ is not None:
            raise ModuleError(addr, f"there is no struct {tag} at {addr:#x}: it cannot be read")
        return value

    def _struct(self, addr: int) -> Value:
        return self._value("module", addr)

    def _head(self, addr: int, module: Value) -> ModuleHead:
        name = module["name"].string()
        if not _NAME.fullmatch(name):
            raise ModuleError(addr, f"what should be a struct module at {addr:#x} has no name; memory is damaged")
        state = module["state"].enum_name() or ""
        text = self._text(addr, module, "core_layout", _MOD_TEXT)
        init_text = self._text(addr, module, "init_layout", _MOD_INIT_TEXT)
        return ModuleHead(addr, name, state, text, init_text, int(module["kallsyms"]))

    def _text(self, addr: int, module: Value, layout: str, kind: int) -> range:
        try:
            text = module[layout]
            base, size = int(text["base"]), int(text["text_size"])
        except TypeLookupError:
            text = module["mem"][kind]
            base, size = int(text["base"]), int(text["size"])
        if size > _MAX_BYTES * 4 or (size and not in_module_area(base)):
            raise ModuleError(addr, f"the module at {addr:#x} has {size} bytes of code at {base:#x}; memory is damaged")
        return range(base, base + size)

    def _kallsyms(self, head: ModuleHead) -> Iterator[Symbol]:
        if not head.kallsyms:
            return
        kallsyms = self._value("mod_kallsyms", head.kallsyms)
        count = int(kallsyms["num_symtab"])
        what = f"symbols of {head.name}"
        table = self._bytes(int(kallsyms["symtab"]), count * _ELF_SYM.size, _MAX_SYMBOLS * _ELF_SYM.size, what)
        entries = list(_ELF_SYM.iter_unpack(table))
        types = self._bytes(int(kallsyms["typetab"]), count, _MAX_SYMBOLS, what)
        names = self._names(int(kallsyms["strtab"]), max((entry[0] for entry in entries), default=0), what)
        # The first entry of an ELF symbol table is none.
        for (name_at, _, _, section, value, _), kind in zip(entries[1:], types[1:], strict=True):
            name = names[name_at : names.find(b"\0", name_at)].decode("ascii", "replace")
            # is_mapping_symbol() of include/linux/module_symbol.h
            if section != _SHN_UNDEF and name and not name.startswith((".L", "L0")):
                yield Symbol(name, value, chr(kind), head.name)

    # A string table up to the end of the string at an offset, since nothing tells its size.
    def _names(self, addr: int, last: int, what: str) -> bytes:
        names = self._bytes(addr, last, _MAX_BYTES, what)
        try:
            return names + self._memory.read_string(addr + last, _NAME_BYTES, self._memory.epoch) + b"\0"
        except MemoryFault as fault:
            raise ModuleError(addr, f"the {what} cannot be read: their names run into {fault.addr:#x}") from fault

    def _callsites(self, head: ModuleHead, module: Value) -> tuple[int, ...]:
        try:
            count, addr = int(module["num_ftrace_callsites"]), int(module["ftrace_callsites"])
        except TypeLookupError:
            return ()  # built without dynamic ftrace
        table = self._bytes(addr, count * 8, _MAX_CALLSITES * 8, f"ftrace locations of {head.name}")
        return struct.unpack(f"<{count}Q", table)

    def _bytes(self, addr: int, size_bytes: int, limit: int, what: str) -> bytes:
        if size_bytes > limit:
            raise ModuleError(addr, f"the {what} are said to take {size_bytes} bytes; memory is damaged")
        try:
            return self._memory.read(addr, size_bytes, self._memory.epoch) if size_bytes else b""
        except MemoryFault as fault:
            raise ModuleError(addr, f"the {what} at {addr:#x} cannot be read") from fault
