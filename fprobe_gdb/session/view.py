"""Looking into the stopped guest: raw memory and symbols, and typed arguments, values and tasks where it has BTF."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from fprobe_gdb.dispatch.base import Dispatch
from fprobe_gdb.errors import BtfError, ExtraMissing, MemoryFault, ModuleError, TypeLookupError
from fprobe_gdb.kernel.btf import Btf, FuncProto
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from fprobe_gdb.kernel.modules import GuestModule
from fprobe_gdb.kernel.symbols import SymbolTable
from fprobe_gdb.kernel.unwind import StackTrace, Unwinder
from fprobe_gdb.kernel.values import Arguments, GuestMemory, Value, arguments, return_value
from fprobe_gdb.probe.regs import PtRegs
from fprobe_gdb.registers import MASK64
from fprobe_gdb.session.modules import GuestModules
from fprobe_gdb.session.records import ImageRecords
from fprobe_gdb.target.base import Target

if TYPE_CHECKING:
    from fprobe_gdb.kernel.drgn import DrgnPrograms, Program

__all__ = ["GuestView", "Task"]


@dataclass(frozen=True, slots=True)
class Task:
    """What people know a task by."""

    #: Address of its ``struct task_struct``.
    addr: int
    comm: str
    #: The kernel's pid: of the thread.
    pid: int
    #: The process.
    tgid: int


class GuestView:
    """The part of :class:`~fprobe_gdb.Kernel` that reads. The guest is stopped before and after each of its methods.

    Typed values are valid until the guest resumes; using one later raises :class:`~fprobe_gdb.errors.StaleValue`.
    """

    def __init__(self, target: Target, knowledge: KernelKnowledge, records: ImageRecords) -> None:
        self.target = target
        self.knowledge = knowledge
        #: At the guest's addresses, once it is up.
        self.symbols = knowledge.symbols
        self.records = records
        #: How far KASLR has moved the kernel from its link addresses.
        self.slide = 0
        self._dispatch: Dispatch
        self._protos: dict[str, FuncProto | None] = {}
        self._modules: GuestModules
        self._task: tuple[tuple[int, int], Task] | None = None
        self._drgn: DrgnPrograms | None = None

    # Section: the hit

    @property
    def cpu(self) -> int:
        """The CPU of the hit that is being handled (0 outside handlers)."""
        return self._dispatch.current.vcpu if self._dispatch.in_handler else 0

    @property
    def task(self) -> int:
        """``current``: address of the running task's ``struct task_struct``. In handlers only."""
        return self._dispatch.current.task

    @property
    def current(self) -> Task:
        """The running task, by name and pid. In handlers only; one or two exchanges, once a hit.

        :raise BtfError: the kernel has no BTF.
        """
        addr = self.task
        key = (self._dispatch.epoch, addr)
        if self._task is None or self._task[0] != key:
            self._task = (key, self._read_task(addr))
        return self._task[1]

    @property
    def time_ns(self) -> int:
        """Guest time: it stands still while the guest is stopped, so handlers cost none of it."""
        return self._dispatch.now_ns()

    @property
    def last_time_ns(self) -> int:
        """Guest time when it was last read, without asking the guest."""
        return self._dispatch.clock.last_ns

    # Section: symbols and memory

    def address(self, name: str) -> int:
        """The address of a symbol.

        :raise SymbolNotFound, SymbolAmbiguous: when there is not just one.
        """
        return self.symbols.one(name)

    def symbolize(self, addr: int) -> str:
        """``"vfs_read+0x75"``, ``"dummy_xmit+0x10 [dummy]"``, or the bare address in hex."""
        return self.symbols_at(addr).symbolize(addr)

    def function_name(self, addr: int) -> str:
        """The name of the function that an address is in; "" where there is none."""
        found = self.symbols_at(addr).lookup(addr)
        return found[0].name if found else ""

    def symbols_at(self, addr: int) -> SymbolTable:
        """The symbols among which an address is: the kernel's, or those of the module that holds it."""
        module = None if self.symbols.covers(addr) else self._modules.at(addr)
        return module.symbols if module else self.symbols

    @property
    def modules(self) -> tuple[GuestModule, ...]:
        """The modules that are loaded, in the order of their loads, read from guest memory.

        :raise BtfError: the kernel has no types, without which its modules cannot be read.
        :raise ModuleError: the guest's memory is damaged, or the kernel is mapped on no CPU just now.
        """
        if len(self.btf):  # raises where there are none
            return self._modules.all()
        return ()

    def read_memory(self, addr: int, size_bytes: int) -> bytes:
        """Read guest virtual memory as the current vCPU sees it.

        :raise MemoryFault: when any of it is not mapped.
        """
        return self._dispatch.read_memory(addr & MASK64, size_bytes)

    def read_u64(self, addr: int) -> int:
        """Read an ``u64`` (or a pointer)."""
        return int(struct.unpack("<Q", self.read_memory(addr, 8))[0])

    def read_u32(self, addr: int) -> int:
        """Read an ``u32``."""
        return int(struct.unpack("<I", self.read_memory(addr, 4))[0])

    def read_string(self, addr: int, max_bytes: int = 4096) -> str:
        """Read a NUL-terminated string; bytes that are not UTF-8 become U+FFFD.

        :raise MemoryFault: when its first page is not mapped.
        """
        data = bytearray()
        while len(data) < max_bytes:
            # Not across a page that may be missing while the string ends before it.
            size = min(256 - (addr + len(data)) % 256, max_bytes - len(data))
            try:
                piece = self.read_memory(addr + len(data), size)
            except MemoryFault:
                if not data:
                    raise
                break
            data += piece.partition(b"\0")[0]
            if b"\0" in piece:
                break
        return data.decode(errors="replace")

    def write_memory(self, addr: int, data: bytes) -> None:
        """Write guest virtual memory.

        :raise MemoryFault: when any of it is not mapped.
        """
        self._dispatch.write_memory(addr & MASK64, data)

    # Section: stacks

    @cached_property
    def unwinder(self) -> Unwinder:
        """Walks kernel stacks by the image's ORC tables, or by frame pointers.

        :raise ImageError: the tables are damaged.
        """
        unwinder = Unwinder.of(self.knowledge.image, self.knowledge.symbols, slide=self.slide)
        unwinder.ask_for_modules(lambda ip, like: self._modules.orc(ip, like))
        return unwinder

    def stack(self, limit: int = 64) -> StackTrace:
        """In handlers: the kernel stack of the hit, innermost function first. One to three reads.

        ``[k.symbolize(frame.ip) for frame in k.stack()]`` gives what the guest's own ``stacktrace`` prints.

        :param limit: at most so many frames.
        """
        registers = dict(self._dispatch.current.registers)
        return self.unwinder.walk(registers, self.read_memory, limit=limit, recover=self._dispatch.recover_return)

    # Section: types

    @cached_property
    def btf(self) -> Btf:
        """The kernel's types.

        :raise BtfError: the kernel has none (CONFIG_DEBUG_INFO_BTF), or they are damaged.
        """
        return self.knowledge.btf

    @cached_property
    def has_types(self) -> bool:
        """Whether the kernel has BTF."""
        try:
            return len(self.btf) > 0
        except BtfError:
            return False

    @cached_property
    def memory(self) -> GuestMemory:
        """Guest memory for typed values."""
        return GuestMemory(self.read_memory, lambda: self._dispatch.epoch)

    def prototype(self, function: str) -> FuncProto | None:
        """A function's prototype; None where BTF has none or several, or there is no BTF.

        ``.isra.0`` and other clones have none: their arguments are not those of the source.
        """
        if function not in self._protos:
            try:
                # An error would name what is alike, which takes a second to find.
                known = self.btf.functions(function)
                self._protos[function] = self.btf.function(function) if known else None
            except (BtfError, TypeLookupError):
                self._protos[function] = None
        return self._protos[function]

    def prototype_at(self, entry_ip: int) -> FuncProto | None:
        """The prototype of a probed function; a module's by its own types. None as for :meth:`prototype`."""
        # Looked up once for each function: a look-up takes half a millisecond, which every hit would pay.
        name = self.records.name_at(entry_ip)
        location = self.records.location_at(entry_ip)
        if location is None or not location.module:
            return self.prototype(name)
        if name not in self._protos:
            try:
                self._protos[name] = self.btf_at(entry_ip).function(location.name)
            except (BtfError, TypeLookupError):
                self._protos[name] = None
        return self._protos[name]

    def args(self, regs: PtRegs, entry_ip: int) -> Arguments:
        """In an entry handler: the function's arguments by name and type. Nothing is read before it is used.

        ``k.args(regs, entry_ip).file.f_path.dentry.d_name.name.string()``

        :raise TypeLookupError: BTF has no, or more than one, prototype of the function.
        """
        return arguments(self.btf_at(entry_ip), self._prototype_at(entry_ip), regs.as_dict(), self.memory)

    def retval(self, regs: PtRegs, entry_ip: int) -> Value | None:
        """In an exit handler: the return value by the function's type; None for ``void``.

        :raise TypeLookupError: as :meth:`args`.
        """
        return return_value(self.btf_at(entry_ip), self._prototype_at(entry_ip), regs.as_dict(), self.memory)

    def value(self, type_: str, addr: int) -> Value:
        """What lies at an address, e.g. ``k.value("struct task_struct", k.task).comm.string()``.

        :raise TypeNotFound: no such type.
        """
        return Value(self.btf, self.memory, self.btf.type(type_), addr=addr & MASK64)

    # Section: drgn

    def drgn(self) -> Program:
        """A ``drgn.Program`` for the present stop, with drgn's helpers for Linux; needs the extra ``drgn``.

        ``for_each_task(k.drgn())``, ``d_path(drgn.Object(k.drgn(), "struct file *", regs.di).f_path)``. Symbols are
        ours, types come from the image's DWARF or its BTF; modules have both too (types by their own BTF). Take it anew
        in each handler: what is read through it once the guest has run on raises
        :class:`~fprobe_gdb.errors.StaleValue`. With trampolines, vCPUs other than that of the hit run while its handler
        does, so helpers see a live kernel.

        :raise ExtraMissing: drgn is not installed.
        :raise BtfError: the image has neither DWARF nor BTF.
        """
        if self._drgn is None or self._drgn.guest.symbols is not self.symbols:
            try:
                from fprobe_gdb.kernel.drgn import DrgnPrograms, Guest
            except ModuleNotFoundError as error:
                if error.name != "drgn":
                    raise
                raise ExtraMissing("k.drgn()", "drgn", "drgn") from None
            guest = Guest(
                self.memory,
                self.symbols,
                self.knowledge.image,
                self.btf if self.has_types else None,
                self.slide,
                self._recover_return,
                lambda: self._modules.known(),
                self._module_btf,
            )
            self._drgn = DrgnPrograms(guest)
        return self._drgn.program()

    # The dispatch may be another one by then.
    def _recover_return(self, slot_addr: int, value: int) -> int | None:
        return self._dispatch.recover_return(slot_addr, value)

    def _module_btf(self, module: GuestModule) -> Btf | None:
        try:
            return self._modules.btf(module)
        except (BtfError, ModuleError):
            return None

    def btf_at(self, entry_ip: int) -> Btf:
        """The types that a function's prototype is written in: the kernel's, or those of the function's module.

        :raise BtfError: there are none, or they are damaged.
        """
        location = self.records.location_at(entry_ip)
        module = self._modules.at(entry_ip) if location and location.module else None
        return self._modules.btf(module) if module else self.btf

    def _prototype_at(self, entry_ip: int) -> FuncProto:
        if proto := self.prototype_at(entry_ip):
            return proto
        location = self.records.location_at(entry_ip)
        return self.btf_at(entry_ip).function(location.name if location else self.records.name_at(entry_ip))

    def _read_task(self, addr: int) -> Task:
        task = self.value("struct task_struct", addr)
        try:
            return Task(addr, task.comm.string(), int(task.pid), int(task.tgid))
        except MemoryFault:
            return Task(addr, "<...>", 0, 0)
