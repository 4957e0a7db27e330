"""A landing zone in a guest that was not booted for it: in memory that its kernel allocates for us, and gets back.

What is there in the guest is what counts, not what we remember of it: a zone is given back in the same way by the tool
that has borrowed it and by the next one, which finds it in the page tables and reads its journal. Memory that is lent
and not mapped is marked (:mod:`~fprobe_gdb.dispatch.trampoline.loan_mark`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from emu.deadline import Deadline
from fprobe_gdb.dispatch.cpu_state import CpuState
from fprobe_gdb.dispatch.trampoline.joined_writes import joined_writes
from fprobe_gdb.dispatch.trampoline.journal import HEAD_BYTES, OwnBytes, ZoneHead, entries_in, entries_place
from fprobe_gdb.dispatch.trampoline.loan_mark import LoanMark, find_marks
from fprobe_gdb.dispatch.trampoline.mapping import IMAGE_BASE, place_zone, read_directory, read_table, zone_entries
from fprobe_gdb.dispatch.trampoline.orphans import hand_back, held_by_tracers, owns_text
from fprobe_gdb.dispatch.trampoline.window import TOP_BASE, window_entries
from fprobe_gdb.dispatch.trampoline.zone import HUGE_BYTES, MAX_RINGS, PIECE_BYTES, SLOTS, Zone, with_rings_bytes
from fprobe_gdb.errors import (
    LoanInPieces,
    LoanNoAllocator,
    LoanNobody,
    LoanNoMemory,
    LoanNoSymbols,
    LoanNotRam,
    LoanOtherTables,
    LoanStays,
    LoanStaysFor32Bit,
    LoanStaysForCall,
    LoanStaysForTask,
    LoanStaysForTracer,
    LoanStaysUnasked,
    LoanUnderKvm,
    MemoryFault,
)
from fprobe_gdb.kernel.symbols import SymbolTable
from fprobe_gdb.kernel.unwind_code import HOOKS
from fprobe_gdb.session.live_stacks import LiveStacks
from fprobe_gdb.session.passing_cpus import SLEEPERS, TICK, PassingCpus
from fprobe_gdb.target.base import Target
from fprobe_gdb.target.guest_ram import GuestRam
from fprobe_gdb.target.page_table import FRAME, PAGE_BYTES, PRESENT

__all__ = ["LoanedZone", "ZoneLoans"]

# A block of the guest's page allocator, which aligns it to its size: the largest that every kernel has.
_ORDER = 10
assert PIECE_BYTES == PAGE_BYTES << _ORDER
# Room for 65,536 entries of the journal at least, which a zone with rings has beside what it has in a guest of ours.
_JOURNAL_BYTES = HUGE_BYTES
# include/linux/gfp_types.h: __GFP_KSWAPD_RECLAIM | __GFP_NOWARN, and with GFP_KERNEL's other bits; 5.10 to 7.3.
_GFP_NOWAIT = 0x800 | 0x2000
_GFP_KERNEL = _GFP_NOWAIT | 0x400 | 0x80 | 0x40
# By which names the kernel has __get_free_pages(gfp_mask, order).
_ALLOCATORS = ("__get_free_pages", "get_free_pages_noprof")
_ABOVE_32_BITS = 1 << 32
_DIRECTORY = "level2_kernel_pgt"
_ROOT = "init_top_pgt"
# The table above the directory, in which windows are.
_UPPER = "level3_kernel_pgt"
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
    :param boot: see :class:`.LoanMark`.
    """

    def __init__(
        self, target: Target, symbols: SymbolTable, cpus: PassingCpus, stacks: LiveStacks, read: Read, boot: int
    ) -> None:
        self._target = target
        self._symbols = symbols
        self._cpus = cpus
        self._stacks = stacks
        self._read = read
        self._boot = boot

    # Section: borrowing

    def borrow(self, ram: GuestRam, rings: int) -> LoanedZone:
        """Have memory allocated by the guest's kernel, and map it as a zone.

        :param rings: how many rings of records it has; 0 for a small zone.
        :raise LoanRefused, ZoneNotMapped: why that cannot be. The guest is as it was.
        """
        self._check_guest()
        rings = rings if rings <= MAX_RINGS else 0
        size_bytes = _zone_bytes(rings)
        handles: list[int] = []
        try:
            cr3 = self._allocate(ram, handles, size_bytes // PIECE_BYTES)
            zone = self._prepare(ram, handles, cr3, rings)
        except BaseException:
            self._free(handles)
            raise
        # From here on it can be found, and given back.
        self._write_entries(zone, zone_entries(zone)[1])
        for physical in zone.pieces or (zone.physical,):
            ram.write_physical(physical, bytes(LoanMark.SIZE_BYTES))
        return LoanedZone(zone, OwnBytes(ram, zone), cr3)

    def _check_guest(self) -> None:
        if "enabled" in self._target.monitor("info kvm"):
            raise LoanUnderKvm
        if missing := [name for name in (_ROOT, _UPPER, _DIRECTORY) if not self._symbols.addresses(name)]:
            raise LoanNoSymbols(missing)

    # Have so many pieces allocated, and marked at once. Returns a page table root that maps them.
    def _allocate(self, ram: GuestRam, handles: list[int], count: int) -> int:
        allocator = next((found[0] for name in _ALLOCATORS if (found := self._symbols.addresses(name))), None)
        if allocator is None:
            raise LoanNoAllocator(_ALLOCATORS)
        cr3 = 0

        def allocate(state: CpuState, gfp: int) -> bool:
            nonlocal cr3
            cr3 = state.registers["cr3"]
            while len(handles) < count and (handle := self._cpus.call(allocator, (gfp, _ORDER), Deadline(_CALL_SEC))):
                handles.append(handle)
                self._mark(handle, ram.translate(cr3, handle))
            return True

        # No interrupt may sleep; on a realtime kernel it may not even ask.
        if not self._is_realtime:
            self._cpus.run((TICK,), lambda state: allocate(state, _GFP_NOWAIT), Deadline(_TICK_SEC))
        if len(handles) < count:
            self._cpus.run(SLEEPERS, lambda state: allocate(state, _GFP_KERNEL), Deadline(_SLEEPER_SEC))
        if not cr3:
            raise LoanNobody(TICK)
        if len(handles) < count:
            raise LoanNoMemory(count, PIECE_BYTES, len(handles))
        return cr3

    @property
    def _is_realtime(self) -> bool:
        return bool(self._symbols.addresses("rt_spin_lock"))

    # Where the allocator may be called, if it need not sleep.
    @property
    def _anywhere(self) -> Sequence[str]:
        return SLEEPERS if self._is_realtime else (TICK,)

    # Write what a zone begins with, where it is and where it will be mapped.
    def _prepare(self, ram: GuestRam, handles: Sequence[int], cr3: int, rings: int) -> Zone:
        table, entries = read_directory(cr3, ram.read_physical)
        upper, _ = read_table(cr3, TOP_BASE, 1, ram.read_physical)
        if [_found(ram, cr3, self._symbols.one(name)) for name in (_UPPER, _DIRECTORY)] != [upper, table]:
            raise LoanOtherTables
        pieces = tuple(self._piece(ram, cr3, handle) for handle in handles)
        image = self._symbols.one("_text"), self._symbols.one("_end")
        size_bytes = len(pieces) * PIECE_BYTES
        in_pieces = {"pieces": pieces} if len(pieces) > 1 else {}
        # What is more than whole pieces need is the journal's.
        journal_bytes = size_bytes - with_rings_bytes(rings) if rings else 0
        zone = place_zone(entries, image, pieces[0], size_bytes, rings, journal_bytes=journal_bytes, **in_pieces)
        for physical in pieces:
            ram.write_physical(physical + LoanMark.SIZE_BYTES, bytes(PIECE_BYTES - LoanMark.SIZE_BYTES))
        head = ZoneHead.of(zone, handles)
        ram.write_physical(zone.physical_of(zone.word(Zone.JOURNAL)), head.pack())
        return zone

    # Where in physical memory a piece is.
    def _piece(self, ram: GuestRam, cr3: int, handle: int) -> int:
        try:
            physical = ram.translate(cr3, handle)
            end = ram.translate(cr3, handle + PIECE_BYTES - 1) + 1
        except MemoryFault as fault:
            raise LoanNotRam(handle, fault) from fault
        if physical % PIECE_BYTES or end != physical + PIECE_BYTES:
            raise LoanInPieces(handle)
        return physical

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
            head = ZoneHead.unpack(self._read(code + HUGE_BYTES + Zone.JOURNAL, HEAD_BYTES))
        except MemoryFault:
            return None
        return head if head and (head.code, head.physical) == (code, physical & -HUGE_BYTES) else None

    def give_back(self, head: ZoneHead) -> None:
        """Take a zone and all that leads to it out of the guest, and let the guest have its memory again.

        :param head: of this version of ours.
        :raise LoanStays: why it cannot. Nothing leads to the zone any more.
        """
        zone = head.zone
        self._restore_text(zone)
        hand_back(zone, self._read, self._write)
        refusal: LoanStays = LoanStaysUnasked(self._anywhere[0])

        def free(_state: CpuState) -> bool:
            nonlocal refusal
            hand_back(zone, self._read, self._write)
            try:
                self._check_unused(zone)
            except LoanStays as error:
                refusal = error
                return False
            for physical, handle in head.pieces:
                self._mark(handle, physical)
            self._unmap(zone)
            self._free_here([handle for _, handle in head.pieces])
            return True

        if not self._cpus.run(self._anywhere, free, Deadline(_TICK_SEC)):
            raise refusal

    def give_marked_back(self, ram: GuestRam) -> int:
        """Let the guest have memory again that is lent and marked, and to which no zone leads.

        :return: how many bytes that were.
        """
        if not self._boot:
            return 0
        mapped = {physical for head in self.orphans() for physical, _ in head.pieces}
        marks = [mark for mark in find_marks(ram, self._boot) if mark.physical not in mapped]
        handles = [mark.handle for mark in marks]
        return len(handles) * PIECE_BYTES if self._free(handles) else 0

    def _restore_text(self, zone: Zone) -> None:
        own = entries_in(self._read(*entries_place(zone)))
        writes = [(ip, own[ip]) for ip, code in self._code_at(own) if owns_text(zone, ip, code)]
        self._target.write_many(joined_writes(writes, self._read))

    # What is there in place of own bytes; nothing of a module that is gone.
    def _code_at(self, own: Mapping[int, bytes]) -> Iterator[tuple[int, bytes]]:
        at, page = -1, b""
        for ip in sorted(own):
            if ip & -PAGE_BYTES != at:
                at = ip & -PAGE_BYTES
                page = self._read_or_nothing(at, PAGE_BYTES)
            code = page[ip - at : ip - at + len(own[ip])]
            yield ip, code if len(code) == len(own[ip]) else self._read_or_nothing(ip, len(own[ip]))

    def _read_or_nothing(self, addr: int, size_bytes: int) -> bytes:
        try:
            return self._read(addr, size_bytes)
        except MemoryFault:
            return b""

    # That the memory can be given away.
    def _check_unused(self, zone: Zone) -> None:
        if any(self._read(zone.word(Zone.STATES), SLOTS)):
            raise LoanStaysForCall
        hooks = {addr for name in HOOKS for addr in self._symbols.addresses(name)}
        if held_by_tracers(zone, self._read, hooks):
            raise LoanStaysForTracer
        if who := self._stacks.somebody_in(zone.code, zone.code + HUGE_BYTES):
            raise LoanStaysForTask(who)
        if any(self._target.registers(vcpu)["ip"] < _ABOVE_32_BITS for vcpu in self._target.vcpus):
            raise LoanStaysFor32Bit

    def _unmap(self, zone: Zone) -> None:
        self._close_window(zone)
        # Through the debugger, so that QEMU forgets what it has translated of a zone that may be here again.
        code = self._read(zone.code, HUGE_BYTES)
        pages = range(0, HUGE_BYTES, PAGE_BYTES)
        used = [at for at in pages if any(code[at : at + PAGE_BYTES])]
        for at in used:
            # A mark stays.
            kept = LoanMark.SIZE_BYTES if at == 0 and self._boot else 0
            self._target.write_memory(zone.code + at + kept, bytes(PAGE_BYTES - kept))
        self._write_entries(zone, bytes(8 * (zone.size_bytes // HUGE_BYTES)))

    # Take out what maps a window onto all memory, if pads had one.
    def _close_window(self, zone: Zone) -> None:
        for upper in self._symbols.addresses(_UPPER):
            entries = memoryview(self._read(upper, PAGE_BYTES)).cast("Q")
            for index in window_entries(entries, zone):
                self._write(upper + 8 * index, bytes(8))

    # And let all CPUs forget what was there.
    def _write_entries(self, zone: Zone, entries: bytes) -> None:
        index, _ = zone_entries(zone)
        self._write(self._symbols.one(_DIRECTORY) + 8 * index, entries)
        for vcpu in self._target.vcpus:
            self._target.flush_tlb(vcpu)

    def _write(self, addr: int, data: bytes) -> None:
        self._target.write_memory(addr, data)

    # Section: pieces that are not mapped

    def _mark(self, handle: int, physical: int) -> None:
        if self._boot:
            self._write(handle, LoanMark(self._boot, physical, handle).pack())

    # Whether that could be done.
    def _free(self, handles: Sequence[int]) -> bool:
        def free(_state: CpuState) -> bool:
            self._free_here(handles)
            return True

        return bool(handles) and self._cpus.run(self._anywhere, free, Deadline(_TICK_SEC))

    # At a place where that may be called. A mark goes first: what is freed must not be freed again.
    def _free_here(self, handles: Sequence[int]) -> None:
        for handle in handles:
            self._write(handle, bytes(LoanMark.SIZE_BYTES))
            self._cpus.call(self._symbols.one("free_pages"), (handle, _ORDER), Deadline(_CALL_SEC))


# Where an address is; -1 where it is nowhere in RAM.
def _found(ram: GuestRam, cr3: int, addr: int) -> int:
    try:
        return ram.translate(cr3, addr)
    except MemoryFault:
        return -1


# Of a zone with so many rings.
def _zone_bytes(rings: int) -> int:
    if not rings:
        return PIECE_BYTES
    return -(-(with_rings_bytes(rings) + _JOURNAL_BYTES) // PIECE_BYTES) * PIECE_BYTES
