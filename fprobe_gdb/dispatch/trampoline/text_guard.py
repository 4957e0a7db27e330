"""The guest reads and writes its own text: it is shown its own bytes, and what it writes is written around ours.

The kernel's ftrace compares the bytes of a location before it changes them, and gives up for good when they are not
what it put there (arch/x86/kernel/ftrace.c, ``ftrace_verify_code()``); its kprobes copy them. Both read with
``copy_from_kernel_nofault()`` and write with the functions of arch/x86/kernel/alternative.c. These few are planted
along with whatever else is planted. Where one is about to touch a planted location, we do what it would have done, and
it returns at once. A filter in front of their pads lets all other calls pass without a question, since there are many:
the guest's function tracer makes 36,000 of each when it is switched on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set

from fprobe_gdb.dispatch.trampoline.early_pokes import EarlyPokes
from fprobe_gdb.dispatch.trampoline.planter import Planter
from fprobe_gdb.dispatch.trampoline.slots import SlotWords
from fprobe_gdb.dispatch.trampoline.text_filter import TextFilters, cells, mark
from fprobe_gdb.dispatch.trampoline.zone import Zone
from fprobe_gdb.errors import MemoryFault
from fprobe_gdb.registers import Registers
from fprobe_gdb.target.guest_ram import GuestRam

__all__ = ["GUARDED", "TextGuard", "filtered", "phase_of"]

#: The functions, by how they are called: 5.10 to 6.18. (``smp_...``: 6.16 and newer.)
_READS = ("copy_from_kernel_nofault",)
_EARLY = ("text_poke_early",)
_WRITES = ("text_poke", *_EARLY, "text_poke_bp", "smp_text_poke_single")
_QUEUES = ("text_poke_queue", "smp_text_poke_batch_add")
_FINISHES = ("text_poke_finish", "smp_text_poke_batch_finish")
GUARDED = (*_READS, *_WRITES, *_QUEUES, *_FINISHES)
# An instruction has at most 15 bytes; alternatives write up to 255 at once.
_LONGEST_POKE = 256
# Longer reads are no look at an instruction, but a copy of memory for people (/proc/kcore: a page).
_LONGEST_READ = 1 << 16


def phase_of(locations: Mapping[str, int]) -> int:
    """The lowest four bits of locations, going by those of guarded functions: compilers align all in one way."""
    return next(iter(locations.values()), 0) & 15


def filtered(filters: TextFilters, locations: Mapping[str, int]) -> dict[int, int]:
    """What locations of guarded functions call, where it is not the pad itself."""
    pads = dict.fromkeys(_READS, filters.reads) | dict.fromkeys((*_WRITES, *_QUEUES), filters.first)
    pads |= dict.fromkeys(_EARLY, filters.pokes)
    return {locations[name]: pad for name, pad in pads.items() if name in locations}


class TextGuard:
    """Stands between a guest and its planted text.

    :param early: what the filters take by themselves.
    :param locations: of :data:`GUARDED`, as far as this kernel has them.
    :param halt: stops the running guest.
    """

    def __init__(
        self,
        planter: Planter,
        ram: GuestRam,
        zone: Zone,
        early: EarlyPokes,
        locations: Mapping[str, int],
        halt: Callable[[], None],
    ) -> None:
        self._planter = planter
        self._ram = ram
        self._early = early
        self._phase = phase_of(locations)
        self._filter = ram.offset(zone.physical_of(zone.filter))
        self._filter_off = ram.offset(zone.physical_of(zone.word(Zone.FILTER_OFF)))
        self._halt = halt
        self._handlers: dict[int, Callable[[SlotWords, Registers], int | None]] = {}
        for names, handler in (
            (_READS, self._read), (_WRITES, self._write), (_QUEUES, self._queue), (_FINISHES, self._finish),
        ):  # fmt: skip
            self._handlers |= {locations[name]: handler for name in names if name in locations}
        self._filtered = frozenset(locations[name] for name in (*_READS, *_WRITES, *_QUEUES) if name in locations)
        #: Locations that have to be planted as long as any other one is.
        self.ips = frozenset(self._handlers)
        self._queued: list[tuple[int, bytes]] = []

    def entered(self, ip: int, posted: SlotWords, registers: Registers) -> int | None:
        """One of these was entered.

        :param registers: as handlers have left them.
        :return: what it has to return at once, None when it shall run.
        :raise PlantRefused: what the guest has written cannot be planted.
        """
        return self._handlers[ip](posted, registers)

    def planted(self, wanted: Set[int]) -> None:
        """Other locations are planted than before: let the filters know.

        :param wanted: those that somebody has asked for. A filter must not keep calls of a probed function from us.
        """
        self._ram.view[self._filter : self._filter + Zone.FILTER_BYTES] = cells(self._planter.spans(), self._phase)
        self._ram.view[self._filter_off] = not wanted.isdisjoint(self._filtered)
        if self._early.allowed:
            self._early.open(*self._planter.unchanged())

    def flush(self) -> None:
        """Write what the guest has queued. It is stopped."""
        queued, self._queued = self._queued, []
        if queued:
            self._rewrite(queued)

    # copy_from_kernel_nofault(dst, src, size)
    def _read(self, posted: SlotWords, registers: Registers) -> int | None:
        to, addr, size_bytes = registers["di"], registers["si"], registers["dx"]
        if size_bytes > _LONGEST_READ or not self._planter.overlaps(addr, size_bytes):
            return None
        try:
            data = self._planter.as_guest_sees(addr, self._ram.read(posted.cr3, addr, size_bytes))
            self._ram.write(posted.cr3, to, data)
        except MemoryFault:
            return None
        return 0

    # text_poke(addr, opcode, len), text_poke_early(...), text_poke_bp(..., emulate)
    def _write(self, posted: SlotWords, registers: Registers) -> int | None:
        poke = self._poke(posted, registers)
        if poke is None:
            return None
        addr, data = poke
        if self._planter.changes(addr, data):
            self._halt()
            self._rewrite([poke])
        else:
            self._planter.note(addr, data)
            self._early.raise_to(addr + len(data))
        return addr

    # text_poke_queue(addr, opcode, len, emulate)
    def _queue(self, posted: SlotWords, registers: Registers) -> int | None:
        poke = self._poke(posted, registers)
        if poke is None:
            return None
        self._queued.append(poke)
        return 0

    def _finish(self, posted: SlotWords, registers: Registers) -> None:
        if self._queued:
            self._halt()
            self.flush()

    # What is planted there afterwards may take more of the guest's bytes than before.
    def _rewrite(self, pokes: Sequence[tuple[int, bytes]]) -> None:
        self._planter.rewrite(pokes)
        touched = {ip for addr, data in pokes for ip in self._planter.overlaps(addr, len(data))}
        mark(self._ram.view[self._filter : self._filter + Zone.FILTER_BYTES], self._planter.spans(touched), self._phase)
        for addr, data in pokes:
            self._early.raise_to(addr + len(data))

    def _poke(self, posted: SlotWords, registers: Registers) -> tuple[int, bytes] | None:
        addr, size_bytes = registers["di"], registers["dx"]
        if size_bytes > _LONGEST_POKE or not self._planter.overlaps(addr, size_bytes):
            return None
        try:
            return addr, self._ram.read(posted.cr3, registers["si"], size_bytes)
        except MemoryFault:
            return None
