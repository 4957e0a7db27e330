"""The landing zone: where in the guest's memory pads, slots, nodes and records are. Pure.

The zone is physical memory that the kernel does not use, mapped within reach of a ``call`` from kernel text: nothing
here depends on how it got there (:mod:`~fprobe_gdb.dispatch.trampoline.mapping`). It may be in pieces; of its parts
only rings go from one piece to the next.

::

    code    2 MiB, executable, read-only: pads, then one stub for each node, then stubs of single sites, and a table of
            which addresses the guest may touch without asking
    data    2 MiB, not executable:
              page 0          words that host and pads share, the states of the slots
              SLOTS_OFFSET    slots: one for each hit that waits for the host
              PROBES_OFFSET   words of the recording probes
              RINGS_OFFSET    words of the rings
              NODES_OFFSET    nodes: one for each call in flight whose return address is replaced; the first
                              HOST_NODES of them the host gives out (call mode), the others pads take by themselves
              LOST            counters of calls that went on without the host, by location
              JOURNAL         in a guest of others: what whoever finds the zone has to put back (:mod:`.journal`);
                              in one that boots with us in it: locations that it has changed (:mod:`.early_pokes`)
              WINDOW_TABLES   60 KiB: page tables of the window, one for each GiB of the guest's memory
              NODE_ARGS       384 KiB: the six argument registers of each call that has a node of the pads, where
                              something is asked of them at its return
    losses  4 MiB: a counter for each 16 bytes of kernel text, of calls for which a ring had no room
    journal 2 MiB or 4: in a large zone in a guest of others, own bytes of many locations, for which JOURNAL has no room
    rings   records, a ring for each CPU. A ring is a power of two, and behind it is a page for the part of a record
            that begins in front of its end and ends behind it.
    tables  the rest: what pads add up by themselves (:mod:`.tables`), a part for each CPU

Data never shares a page with code: TCG translates a page anew when something writes next to code (QEMU 7.2
accel/tcg/translate-all.c).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "HOST_NODES",
    "HUGE_BYTES",
    "LONGEST_RECORD_BYTES",
    "LOSS_SHIFT",
    "MAX_NODES",
    "MAX_PROBES",
    "MAX_RINGS",
    "NODE_ARGS_BYTES",
    "NODE_BYTES",
    "PIECE_BYTES",
    "PROBE_BYTES",
    "RING_WORDS_BYTES",
    "SLOTS",
    "SLOT_BYTES",
    "STUB_BYTES",
    "WINDOW_TABLES",
    "Zone",
    "with_rings_bytes",
]

#: A page-middle-directory entry maps so much.
HUGE_BYTES = 1 << 21
#: Size of the pieces of a zone that is in pieces, each of which begins at a multiple of it.
PIECE_BYTES = 2 * HUGE_BYTES
#: Hits that can wait for the host at the same moment: four contexts on 64 CPUs.
SLOTS = 256
SLOT_BYTES = 512
#: Calls in flight whose return is awaited.
MAX_NODES = 16384
NODE_BYTES = 64
#: The first so many are the host's.
HOST_NODES = 8192
#: Of each of the others: six registers.
NODE_ARGS_BYTES = 48
#: Recording probes at the same time, from number 1 on, and the words of each.
MAX_PROBES = 64
PROBE_BYTES = 64
#: CPUs that can have a ring, and the words of each.
MAX_RINGS = 256
RING_WORDS_BYTES = 64
#: Tables that map the window onto all memory, each for 1 GiB of it.
WINDOW_TABLES = 15
#: No record is longer.
LONGEST_RECORD_BYTES = 1024
#: Two functions are never closer than this power of two.
LOSS_SHIFT = 4
#: ``call rel32`` and three bytes of padding.
STUB_BYTES = 8

_STUBS_OFFSET = 7 << 17
_SITE_STUBS_OFFSET = 1 << 20
_FILTER_OFFSET = 15 << 17
_SLOTS_OFFSET = 1 << 12
_PROBES_OFFSET = 3 << 16
_RINGS_OFFSET = 13 << 14
_NODES_OFFSET = 1 << 18
_LOST_OFFSET = 5 << 18
_JOURNAL_OFFSET = 11 << 17
_WINDOW_TABLES_OFFSET = 0x191 << 12
_NODE_ARGS_OFFSET = 13 << 17
_LOSSES_BYTES = 2 * HUGE_BYTES
# A zone that is smaller has no losses by function.
_LARGE_BYTES = 8 * HUGE_BYTES
_RING_END_BYTES = 4096
_TABLE_ALIGN = 64
assert _SLOTS_OFFSET + SLOTS * SLOT_BYTES <= _PROBES_OFFSET
assert _PROBES_OFFSET + MAX_PROBES * PROBE_BYTES <= _RINGS_OFFSET
assert _RINGS_OFFSET + MAX_RINGS * RING_WORDS_BYTES <= _NODES_OFFSET
assert LONGEST_RECORD_BYTES <= _RING_END_BYTES
assert _STUBS_OFFSET + MAX_NODES * STUB_BYTES <= _SITE_STUBS_OFFSET
assert _NODES_OFFSET + MAX_NODES * NODE_BYTES <= _LOST_OFFSET
assert _WINDOW_TABLES_OFFSET + WINDOW_TABLES * 4096 <= _NODE_ARGS_OFFSET
assert _NODE_ARGS_OFFSET + (MAX_NODES - HOST_NODES) * NODE_ARGS_BYTES <= HUGE_BYTES


@dataclass(frozen=True, slots=True)
class Zone:
    """Addresses of the parts.

    :param physical: physical address, 2 MiB aligned, of the first piece.
    :param size_bytes: a multiple of 2 MiB, at least 4 MiB.
    :param code: virtual address of the code.
    :param data: virtual address of the data, and behind it the rings.
    :param rings: how many, one for each possible CPU, at most :data:`MAX_RINGS`.
    :param journal_bytes: size of the part for the journal.
    :param pieces: physical addresses of all pieces; nothing where it is in one.
    """

    physical: int
    size_bytes: int
    code: int
    data: int
    rings: int
    journal_bytes: int = 0
    pieces: tuple[int, ...] = ()

    #: Offsets from :attr:`data` of what host and pads share; all are 64-bit words, but pads look at 32 bits of flags.
    STATES = 0x000
    HOST_SLEEPS = 0x200
    HOST_AWAY = 0x240
    BOUND_TSC = 0x248
    LOST_ENTRIES = 0x280
    LOST_EXITS = 0x2C0
    #: Address behind the last node that a recording probe has.
    NODES_END = 0x300
    #: Cells of :attr:`LOST_ENTRIES` by location: its lower half, and a 32-bit counter; 0 where a cell is free.
    LOST = _LOST_OFFSET
    LOST_CELLS = 1 << 14
    LOST_CELL_BYTES = 8
    #: A byte: not 0 when the host wants to be asked whatever the filter says.
    FILTER_OFF = 0x308
    #: A bit for each 16 bytes of text, modulo so many: set where something is planted.
    FILTER_CELLS = 1 << 20
    FILTER_BYTES = FILTER_CELLS // 8
    JOURNAL = _JOURNAL_OFFSET
    JOURNAL_BYTES = _WINDOW_TABLES_OFFSET - _JOURNAL_OFFSET
    #: See :mod:`.early_pokes`: between which addresses, how many are in the list, and the lower halves of them.
    TAKES_ABOVE = 0x340
    TAKES_BELOW = 0x348
    TAKEN = 0x350
    TAKEN_LIST = _JOURNAL_OFFSET
    MAX_TAKEN = JOURNAL_BYTES // 4

    @property
    def stubs(self) -> int:
        """Virtual address of the stub of node 0."""
        return self.code + _STUBS_OFFSET

    @property
    def stubs_end(self) -> int:
        """Behind the last stub."""
        return self.stubs + MAX_NODES * STUB_BYTES

    @property
    def site_stubs(self) -> int:
        """Virtual address of the room for stubs of single sites."""
        return self.code + _SITE_STUBS_OFFSET

    @property
    def site_stubs_end(self) -> int:
        """Where it ends."""
        return self.filter

    @property
    def filter(self) -> int:
        """Virtual address of the table of planted locations."""
        return self.code + _FILTER_OFFSET

    @property
    def slots(self) -> int:
        """Virtual address of slot 0."""
        return self.data + _SLOTS_OFFSET

    @property
    def nodes(self) -> int:
        """Virtual address of node 0."""
        return self.data + _NODES_OFFSET

    @property
    def losses(self) -> int:
        """Virtual address of the counters of losses."""
        return self.data + HUGE_BYTES

    @property
    def losses_bytes(self) -> int:
        """Size of the counters of losses; 0 in a small zone."""
        return _LOSSES_BYTES if self.size_bytes >= _LARGE_BYTES else 0

    @property
    def journal(self) -> int:
        """Virtual address of the part for the journal."""
        return self.losses + self.losses_bytes

    @property
    def ring_bytes(self) -> int:
        """Size of each ring, a power of two; 0 in a zone that has no room for them."""
        left = self.size_bytes - 2 * HUGE_BYTES - self.losses_bytes - self.journal_bytes
        each = left // self.rings - _RING_END_BYTES if self.rings else 0
        return 1 << each.bit_length() - 1 if each >= 16 * LONGEST_RECORD_BYTES else 0

    @property
    def ring_stride_bytes(self) -> int:
        """From one ring to the next one."""
        return self.ring_bytes + _RING_END_BYTES

    def ring(self, cpu: int) -> int:
        """Virtual address of a CPU's ring."""
        return self.journal + self.journal_bytes + cpu * self.ring_stride_bytes

    @property
    def tables_bytes(self) -> int:
        """Size of each CPU's part of the tables; 0 where there are no rings."""
        left = self.code + self.size_bytes - self.ring(self.rings)
        return left // self.rings & -_TABLE_ALIGN if self.ring_bytes else 0

    def tables(self, cpu: int) -> int:
        """Virtual address of a CPU's part of the tables."""
        return self.ring(self.rings) + cpu * self.tables_bytes

    def ring_words(self, cpu: int) -> int:
        """Virtual address of the words of a CPU's ring."""
        return self.data + _RINGS_OFFSET + cpu * RING_WORDS_BYTES

    def word(self, offset: int) -> int:
        """Virtual address of a shared word."""
        return self.data + offset

    def physical_of(self, addr: int) -> int:
        """Physical address of something in the zone."""
        offset = addr - self.code if self.code <= addr < self.code + HUGE_BYTES else HUGE_BYTES + addr - self.data
        assert 0 <= offset < self.size_bytes, hex(addr)
        if not self.pieces:
            return self.physical + offset
        return self.pieces[offset // PIECE_BYTES] + offset % PIECE_BYTES

    def runs(self, addr: int, size_bytes: int) -> list[tuple[int, int]]:
        """Where in physical memory a part of the data is: addresses and sizes in bytes, in order."""
        runs: list[tuple[int, int]] = []
        end = addr + size_bytes
        while addr < end:
            # Pieces begin at multiples of their size, counted from the code on.
            room = PIECE_BYTES - (addr - self.data + HUGE_BYTES) % PIECE_BYTES
            size = min(room, end - addr)
            physical = self.physical_of(addr)
            if runs and sum(runs[-1]) == physical:
                runs[-1] = runs[-1][0], runs[-1][1] + size
            else:
                runs.append((physical, size))
            addr += size
        return runs

    def stub(self, node: int) -> int:
        """The return address that stands for a node."""
        return self.stubs + node * STUB_BYTES

    def node(self, number: int) -> int:
        """Virtual address of a node."""
        return self.nodes + number * NODE_BYTES

    @property
    def window_tables(self) -> int:
        """Virtual address of the tables of the window."""
        return self.data + _WINDOW_TABLES_OFFSET

    @property
    def node_args(self) -> int:
        """Virtual address of the arguments of the call that has node :data:`HOST_NODES`."""
        return self.data + _NODE_ARGS_OFFSET

    def probe(self, number: int) -> int:
        """Virtual address of the words of a recording probe."""
        return self.data + _PROBES_OFFSET + number * PROBE_BYTES

    def node_of_stub(self, addr: int) -> int | None:
        """Which node a return address stands for; None when it is not one of ours."""
        if self.stubs <= addr < self.stubs_end and (addr - self.stubs) % STUB_BYTES == 0:
            return (addr - self.stubs) // STUB_BYTES
        return None


def with_rings_bytes(rings: int) -> int:
    """How large a zone with so many rings should be.

    4 MiB of code and data, 4 of counters, 8 of tables, the ends of rings among them, and rings of records: 16 MiB, or 2
    for each CPU where that is more.
    """
    return (16 << 20) + max(16 << 20, rings << 21)


assert Zone.LOST + Zone.LOST_CELLS * Zone.LOST_CELL_BYTES <= Zone.JOURNAL
assert _FILTER_OFFSET + Zone.FILTER_BYTES <= HUGE_BYTES
