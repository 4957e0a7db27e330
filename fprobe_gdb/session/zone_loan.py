"""A landing zone in a guest that was not booted for it: in memory that its kernel allocates for us, and gets back.

What is there in the guest is what counts, not what we remember of it: a zone is given back in the same way by the tool
that has borrowed it and by the next one, which finds it in the page tables and reads its journal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from emu.deadline import Deadline
from fprobe_gdb.dispatch.cpu_state import CpuState
from fprobe_gdb.dispatch.trampoline.journal import OwnBytes, ZoneHead, entries_in
from fprobe_gdb.dispatch.trampoline.mapping import IMAGE_BASE, place_zone, read_directory, zone_entries
from fprobe_gdb.dispatch.trampoline.orphans import hand_back, held_by_tracers, owns_text
from fprobe_gdb.dispatch.trampoline.zone import HUGE_BYTES, SLOTS, Zone
from fprobe_gdb.errors import MemoryFault, ZoneError
from fprobe_gdb.kernel.symbols import SymbolTable
from fprobe_gdb.kernel.unwind_code import HOOKS
from fprobe_gdb.session.live_stacks import LiveStacks
from fprobe_gdb.session.passing_cpus import SLEEPERS, TICK, PassingCpus
from fprobe_gdb.target.base import Target
from fprobe_gdb.target.guest_ram import GuestRam
from fprobe_gdb.target.page_table import FRAME, PAGE_BYTES, PRESENT

__all__ = ["LoanedZone", "ZoneLoans"]

# Code and data, in one block of the guest's page allocator, which aligns it to its size.
_ORDER = 10
_SIZE_BYTES = 4096 << _ORDER
assert _SIZE_BYTES == 2 * HUGE_BYTES
# include/linux/gfp_types.h: __GFP_KSWAPD_RECLAIM | __GFP_NOWARN, and with GFP_KERNEL's other bits; 5.10 to 7.3.
_GFP_NOWAIT = 0x800 | 0x2000
_GFP_KERNEL = _GFP_NOWAIT | 0x400 | 0x80 | 0x40
# By which names the kernel has __get_free_pages(gfp_mask, order).
_ALLOCATORS = ("__get_free_pages", "get_free_pages_noprof")
_ABOVE_32_BITS = 1 << 32
_DIRECTORY = "level2_kernel_pgt"
_ROOT = "init_top_pgt"
# A tick comes some 100 times a second, in a guest that has nothing to do every few seconds.
_TICK_SEC = 10.0
_SLEEPER_SEC = 3.0
_CALL_SEC = 30.0

Read = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class LoanedZone:
    """A zone that is mapped and blank."""

    zone: Zone
    journal: OwnBytes
    #: A page table root that maps the kernel.
    cr3: int


class ZoneLoans:
    """Borrows zones from one guest, which is stopped before and after, and gives them back.

    :param symbols: at the guest's addresses.
    :param read: reads kernel memory.
    """

    def __init__(self, target: Target, symbols: SymbolTable, cpus: PassingCpus, stacks: LiveStacks, read: Read) -> None:
        self._target = target
        self._symbols = symbols
        self._cpus = cpus
        self._stacks = stacks
        self._read = read

    # Section: borrowing

    def borrow(self, ram: GuestRam) -> LoanedZone:
        """Have memory allocated by the guest's kernel, and map it as a zone.

        :raise ZoneError: why that cannot be. The guest is as it was.
        """
        self._check_guest()
        given: list[tuple[int, int]] = []
        try:
            self._allocate(given)
            handle, cr3 = given[-1]
            zone = self._prepare(ram, handle, cr3)
        except BaseException:
            if given and given[-1][0]:
                self._free(given[-1][0])
            raise
        # From here on it can be found, and given back.
        self._write_entries(zone, zone_entries(zone)[1])
        return LoanedZone(zone, OwnBytes(ram, zone), cr3)

    def _check_guest(self) -> None:
        if "enabled" in self._target.monitor("info kvm"):
            raise ZoneError("under KVM nobody can make the guest's CPUs forget a mapping from outside")
        root = self._symbols.addresses(_ROOT)
        if not root or not self._symbols.addresses(_DIRECTORY):
            raise ZoneError("this kernel's symbols do not tell where its page tables are")
        # Under page table isolation the page behind the root is the one for user mode, and maps the entry code.
        if self._symbols.size(root[0]) >= 2 * PAGE_BYTES:
            entry = int.from_bytes(self._read(root[0] + 2 * PAGE_BYTES - 8, 8), "little")
            if entry & PRESENT:
                raise ZoneError("the guest isolates its page tables (boot it with nopti)")

    # Note the address that the guest's allocator gives, and a page table root that maps it.
    def _allocate(self, given: list[tuple[int, int]]) -> None:
        allocator = next((found[0] for name in _ALLOCATORS if (found := self._symbols.addresses(name))), None)
        if allocator is None:
            raise ZoneError(f"this kernel has no {_ALLOCATORS[0]}()")

        def allocate(state: CpuState, gfp: int) -> bool:
            addr = self._cpus.call(allocator, (gfp, _ORDER), Deadline(_CALL_SEC))
            given.append((addr, state.registers["cr3"]))
            return True

        # No interrupt may sleep; on a realtime kernel it may not even ask.
        if not self._is_realtime:
            self._cpus.run((TICK,), lambda state: allocate(state, _GFP_NOWAIT), Deadline(_TICK_SEC))
        if not given or not given[-1][0]:
            self._cpus.run(SLEEPERS, lambda state: allocate(state, _GFP_KERNEL), Deadline(_SLEEPER_SEC))
        if not given:
            raise ZoneError("no CPU of the guest came by where its allocator may be called")
        if not given[-1][0]:
            raise ZoneError(f"the guest has no {_SIZE_BYTES >> 20} MiB of memory in one piece to lend")

    @property
    def _is_realtime(self) -> bool:
        return bool(self._symbols.addresses("rt_spin_lock"))

    # Where the allocator may be called, if it need not sleep.
    @property
    def _anywhere(self) -> Sequence[str]:
        return SLEEPERS if self._is_realtime else (TICK,)

    # Write what a zone begins with, where it is and where it will be mapped.
    def _prepare(self, ram: GuestRam, handle: int, cr3: int) -> Zone:
        table, entries = read_directory(cr3, ram.read_physical)
        try:
            physical = ram.translate(cr3, handle)
            if physical % HUGE_BYTES or ram.translate(cr3, handle + _SIZE_BYTES - 1) != physical + _SIZE_BYTES - 1:
                raise ZoneError(f"what the guest has allocated at {handle:#x} is not in one piece")
            if ram.translate(cr3, self._symbols.one(_DIRECTORY)) != table:
                raise ZoneError("the guest's page tables are not those that its kernel was booted with")
        except MemoryFault as fault:
            raise ZoneError(f"what the guest has allocated at {handle:#x} is not in its RAM") from fault
        image = self._symbols.one("_text"), self._symbols.one("_end")
        zone = place_zone(entries, image, physical, _SIZE_BYTES, 0)
        ram.write_physical(physical, bytes(_SIZE_BYTES))
        head = ZoneHead(physical, _SIZE_BYTES, zone.code, handle)
        ram.write_physical(zone.physical_of(zone.word(Zone.JOURNAL)), head.pack())
        return zone

    # Section: giving back

    def orphans(self) -> list[ZoneHead]:
        """Zones that are mapped in the guest. Ours is one of them."""
        root = self._symbols.addresses(_ROOT)
        directory = self._symbols.addresses(_DIRECTORY)
        if not root or not directory:
            return []
        table = memoryview(self._read(directory[0], PAGE_BYTES)).cast("Q")
        begin, end = ((self._symbols.one(name) - IMAGE_BASE) // HUGE_BYTES for name in ("_text", "_end"))
        found = []
        for index, entry in enumerate(table):
            if not begin <= index <= end and entry & PRESENT:
                head = self._head_at(IMAGE_BASE + index * HUGE_BYTES, entry & FRAME)
                if head is not None:
                    found.append(head)
        return found

    # What a mapping is, if it is the code of a zone.
    def _head_at(self, code: int, physical: int) -> ZoneHead | None:
        try:
            head = ZoneHead.unpack(self._read(code + HUGE_BYTES + Zone.JOURNAL, 64))
        except MemoryFault:
            return None
        return head if head and (head.code, head.physical) == (code, physical & -HUGE_BYTES) else None

    def give_back(self, head: ZoneHead) -> str:
        """Take a zone and all that leads to it out of the guest, and let the guest have its memory again.

        :param head: of this version of ours.

        :return: why it could not be: then nothing leads to it any more, and it stays. Empty when it is gone.
        """
        zone = head.zone
        self._restore_text(zone)
        hand_back(zone, self._read, self._write)
        why = "no CPU of the guest came by where its allocator may be called"

        def free(_state: CpuState) -> bool:
            nonlocal why
            hand_back(zone, self._read, self._write)
            if why := self._in_use(zone):
                return False
            self._unmap(zone)
            self._cpus.call(self._symbols.one("free_pages"), (head.handle, _ORDER), Deadline(_CALL_SEC))
            return True

        return "" if self._cpus.run(self._anywhere, free, Deadline(_TICK_SEC)) else why

    def _restore_text(self, zone: Zone) -> None:
        own = entries_in(self._read(zone.word(Zone.JOURNAL), Zone.JOURNAL_BYTES))
        writes = []
        for ip, code in sorted(own.items()):
            try:
                there = self._read(ip, len(code))
            except MemoryFault:
                # A module that is gone.
                continue
            if owns_text(zone, ip, there):
                writes.append((ip, code))
        self._target.write_many(writes)

    def _in_use(self, zone: Zone) -> str:
        if any(self._read(zone.word(Zone.STATES), SLOTS)):
            return "a call is in a pad"
        hooks = {addr for name in HOOKS for addr in self._symbols.addresses(name)}
        if held_by_tracers(zone, self._read, hooks):
            return "a tracer of the guest has its return addresses"
        if who := self._stacks.somebody_in(zone.code, zone.code + HUGE_BYTES):
            return f"{who} in a pad"
        if any(self._target.registers(vcpu)["ip"] < _ABOVE_32_BITS for vcpu in self._target.vcpus):
            # Of a CPU in 32-bit mode gdbstubs write only half of a register.
            return "a CPU runs 32-bit code"
        return ""

    def _unmap(self, zone: Zone) -> None:
        # Through the debugger, so that QEMU forgets what it has translated of a zone that may be here again.
        code = self._read(zone.code, HUGE_BYTES)
        pages = range(0, HUGE_BYTES, PAGE_BYTES)
        used = [at for at in pages if any(code[at : at + PAGE_BYTES])]
        for at in used:
            self._target.write_memory(zone.code + at, bytes(PAGE_BYTES))
        self._write_entries(zone, bytes(8 * (zone.size_bytes // HUGE_BYTES)))

    # And let all CPUs forget what was there.
    def _write_entries(self, zone: Zone, entries: bytes) -> None:
        index, _ = zone_entries(zone)
        self._write(self._symbols.one(_DIRECTORY) + 8 * index, entries)
        for vcpu in self._target.vcpus:
            self._target.flush_tlb(vcpu)

    def _write(self, addr: int, data: bytes) -> None:
        self._target.write_memory(addr, data)

    # What was allocated, and never mapped.
    def _free(self, handle: int) -> None:
        def free(_state: CpuState) -> bool:
            self._cpus.call(self._symbols.one("free_pages"), (handle, _ORDER), Deadline(_CALL_SEC))
            return True

        self._cpus.run(self._anywhere, free, Deadline(_TICK_SEC))
