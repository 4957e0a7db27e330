"""Record mode, the host's side: which functions are recorded by which probe, and the records that come of it.

Rule 1: a call is in one of ``hits`` (its record was taken), ``nmissed`` (its record says that no node was left),
``lost`` (there was no room for a record) and ``kept_out`` (it was asked something, and the answer was no). All four are
counted by the pads. Where the return decides, there is ``undecided``, too: calls that have not returned; where it says
yes to all, those are hits. A probe with tables (:mod:`.tables`) has no records: what its pads add up is all that there
is.
Rule 2: while a probe is disabled its functions are not planted, and returns are not told, as with an fprobe: what was
entered before comes home unseen, what is entered meanwhile is no call.
Rule 3: probes come and go while the guest is stopped. Code of pads stays for good: a vCPU may be in it at any time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from fprobe_gdb.dispatch.trampoline.assembler import Asm
from fprobe_gdb.dispatch.trampoline.count_pads import count_pads
from fprobe_gdb.dispatch.trampoline.node_pools import NodePools
from fprobe_gdb.dispatch.trampoline.pad_expr import Asked
from fprobe_gdb.dispatch.trampoline.peek_code import peek_code
from fprobe_gdb.dispatch.trampoline.record_format import ProbeWord, RecordForm, RecordKind, record_bits
from fprobe_gdb.dispatch.trampoline.record_order import RecordOrder
from fprobe_gdb.dispatch.trampoline.record_pads import PadPlace, RecordPads, record_pads
from fprobe_gdb.dispatch.trampoline.ring import Batch
from fprobe_gdb.dispatch.trampoline.rings import Rings
from fprobe_gdb.dispatch.trampoline.table_counts import TableCounts
from fprobe_gdb.dispatch.trampoline.table_room import TableRoom
from fprobe_gdb.dispatch.trampoline.tables import ProbeTables, TableForm
from fprobe_gdb.dispatch.trampoline.window import Window
from fprobe_gdb.dispatch.trampoline.zone import LOSS_SHIFT, MAX_PROBES, PROBE_BYTES
from fprobe_gdb.errors import (
    MemoryFault,
    RecordNoNodes,
    RecordNoRing,
    RecordRefused,
    RecordTooMany,
    SiteNoCode,
    SiteRecorded,
)
from fprobe_gdb.target.base import Target, TargetState
from fprobe_gdb.target.guest_ram import GuestRam

__all__ = ["RecordProbe", "Recorder"]

# What one drain takes out of each ring at most, so that hits that wait for the host do not wait for long.
_DRAIN_BYTES = 1 << 20
_PAGE_BYTES = 4096
_NOTHING = Asked()


@dataclass(slots=True, eq=False)
class RecordProbe:
    """Functions that are recorded together. Made by :meth:`Recorder.add`.

    Calls are counted as those of an fprobe: ``hits + nmissed + lost`` is how many there were.
    """

    ips: frozenset[int]
    form: RecordForm
    #: Gets the records, soon after they were written.
    consume: Callable[[Batch], None]
    #: How many calls can be in flight at once; 0 where returns are not recorded.
    nr_maxactive: int
    block: bool
    #: What is asked of each call, by location; nothing where a location is missing.
    asked: Mapping[int, Asked] = field(default_factory=dict)
    #: Records are given in the order of their time, among those of all such probes.
    ordered: bool = False
    #: Losses are counted by function, which one probe of a function can have. Else only their sum is known.
    by_function: bool = True
    #: Calls that were recorded.
    hits: int = 0
    #: Returns that were recorded.
    exits: int = 0
    #: Calls whose return could not have been recorded: ``nr_maxactive`` were in flight.
    nmissed: int = 0
    #: Calls for which the ring had no room. As the two below, known once the probe is removed.
    lost: int = 0
    #: Returns for which it had none.
    lost_exits: int = 0
    #: Calls that are not recorded for what was asked of them, and for how many of them there was no answer.
    kept_out: int = 0
    faults: int = 0
    #: Where the return decides: calls whose return has not been seen. They are in none of the others.
    undecided: int = 0
    #: ``lost`` by function; those of modules, and all in a small zone or without ``by_function``, are only in the sum.
    losses: dict[int, int] = field(default_factory=dict)
    #: In which its pads add up calls, where they do that instead of recording them; and what is in them, known once the
    #: probe is removed.
    tables: ProbeTables | None = None
    counts: TableCounts = field(default_factory=TableCounts)
    #: Nothing is recorded, until it is enabled again.
    disabled: bool = False
    #: Returns that came while it was.
    unseen: int = 0
    number: int = -1
    #: What its locations call, by the pad that has to be next there and what is asked there.
    entries: dict[tuple[int | None, Asked | None], int] = field(default_factory=dict)


class Recorder:
    """All recording probes of a zone. What it wants planted is in :attr:`ips`; planting is somebody else's.

    :param code: where in the zone pads can be put, up to the stubs of nodes.
    """

    def __init__(self, target: Target, ram: GuestRam, place: PadPlace, code: int) -> None:
        self._target = target
        self._ram = ram
        self._place = place
        self._zone = zone = place.zone
        self._code = code
        #: Location of ``do_task_dead``; None where there is none, and nodes of tasks that die are kept.
        self.task_dead_ip: int | None = None
        self.pools = NodePools(ram, zone)
        self._sizes = [8] * MAX_PROBES
        self._rings = Rings(ram, zone, self._sizes.__getitem__) if zone.ring_bytes else None
        self._order = RecordOrder(self._sizes.__getitem__)
        self._words = ram.part(zone.physical_of(zone.probe(0)), MAX_PROBES * PROBE_BYTES).cast("Q")
        losses = zone.losses if zone.losses_bytes else zone.data
        self._losses = ram.part(zone.physical_of(losses), zone.losses_bytes).cast("I")
        self._tables = TableRoom(ram, zone)
        self._probes: dict[int, RecordProbe] = {}
        # The oldest first.
        self._probes_at: dict[int, tuple[RecordProbe, ...]] = {}
        # Probes that are gone, some of whose calls are in flight; their numbers are not free.
        self._leaving: dict[int, RecordProbe] = {}
        self._next_number = 1
        self._pads: dict[Hashable, RecordPads] = {}
        # Which exit pad the stub of a node calls.
        self._stub_calls: dict[int, int] = {}
        #: Locations whose pad may be another one than what is planted; who plants clears it.
        self.changed: set[int] = set()
        #: Whether the last :meth:`drain` has taken records, or keeps some back.
        self.flowing = False

    def furnish(self) -> None:
        """The zone has been wiped: write what pads expect there."""
        self.pools.furnish()
        if self._rings is not None:
            self._rings.furnish()

    def open_window(self, window: Window) -> None:
        """All memory can be seen there, from now on: pads can follow pointers."""
        addr = -(-self._code // _PAGE_BYTES) * _PAGE_BYTES
        code, peeks = peek_code(addr, window)
        self._ram.write_physical(self._zone.physical_of(addr), code)
        self._code = addr + len(code)
        self._place = replace(self._place, peeks=peeks)

    @property
    def reaches_memory(self) -> bool:
        """Whether pads can follow pointers."""
        return self._place.peeks is not None

    # Section: what has to be planted

    @property
    def ips(self) -> set[int]:
        """Locations that have to call a pad of ours."""
        enabled = [probe.ips for probe in self._probes.values() if not probe.disabled]
        watches_dead = self.task_dead_ip is not None and self._watcher is not None
        return set().union(*enabled, (self.task_dead_ip,) if watches_dead and self.task_dead_ip else ())

    def pad_of(self, ip: int, then: int | None) -> int | None:
        """The pad for a location; None where nothing is recorded. Of several probes the newest one's is the first.

        :param then: a pad that has to be next, with everything as the function's entry had it.
        """
        first, watched = then, ip != self.task_dead_ip
        for probe in self._probes_at.get(ip, ()):
            if probe.disabled:
                continue
            if ip == self.task_dead_ip and probe.form.returns:
                first, watched = self._make_pads(probe, ip, first).task_dead, True
                continue
            key = (first, probe.asked.get(ip))
            if key not in probe.entries:
                probe.entries[key] = self._make_pads(probe, ip, first).entry
            first = probe.entries[key]
        if not watched and self._watcher is not None:
            first = self._make_pads(self._watcher, ip, first).task_dead
        return None if first == then else first

    # The probe whose pad gives nodes back at do_task_dead; those of disabled ones may be out, too.
    @property
    def _watcher(self) -> RecordProbe | None:
        return next((probe for probe in self._probes.values() if probe.form.returns), None)

    # Section: probes

    def add(
        self,
        ips: Collection[int],
        form: RecordForm,
        consume: Callable[[Batch], None],
        *,
        nr_maxactive: int,
        block: bool = False,
        ordered: bool = True,
        asked: Mapping[int, Asked] | None = None,
        by_function: bool = True,
        tables: Sequence[TableForm] | None = None,
    ) -> RecordProbe:
        """Record these functions, as soon as :attr:`ips` are planted. The guest is stopped.

        :param nr_maxactive: calls in flight at once, if returns are recorded; as many as there is room for, at most.
        :param ordered: give records in the order of their time, a little later, and at some cost for each.
        :param asked: what is asked of calls, by location.
        :param tables: add up calls, in these tables beside the one of the functions, and record none.
        :param by_function: count losses by function; only one probe of a function can do that.
        :raise SiteRecorded: another one does.
        :raise SiteNoCode: there is no room for the pads of so many different questions.
        :raise RecordRefused: there is no room for another probe.
        """
        if self._rings is None:
            raise RecordNoRing(self._zone.rings)
        self.settle()
        if by_function and (taken := [ip for ip in ips if any(it.by_function for it in self._probes_at.get(ip, ()))]):
            raise SiteRecorded(min(taken))
        number = self._free_number()
        probe = RecordProbe(frozenset(ips), form, consume, 0, block, asked or {}, ordered, by_function, number=number)
        if tables is not None:
            probe.tables = self._tables.place(number, len(probe.ips), tables)
        try:
            # Before anything is given to it.
            pads = self._make_all_pads(probe)
            self._sizes[probe.number] = form.size_bytes
            self._clear_words(probe)
            if form.returns:
                probe.nr_maxactive = self._give_nodes(probe, pads, nr_maxactive)
        except (SiteNoCode, RecordRefused):
            self._tables.give_back(number)
            raise
        self._probes[probe.number] = probe
        for ip in probe.ips:
            self._probes_at[ip] = (*self._probes_at.get(ip, ()), probe)
        self._change(probe)
        return probe

    def remove(self, probe: RecordProbe) -> None:
        """Record these functions no longer, as soon as they are not planted any more. The guest is stopped.

        Calls in flight return by themselves.
        """
        if self._probes.pop(probe.number, None) is not probe:
            return
        for ip in probe.ips:
            if others := tuple(other for other in self._probes_at[ip] if other is not probe):
                self._probes_at[ip] = others
            else:
                del self._probes_at[ip]
        self._change(probe)
        self._leaving[probe.number] = probe
        self._close(probe, closed=True)
        self.count_lost(probe)
        self._tables.give_back(probe.number)
        self.settle()

    def switch(self, probe: RecordProbe, *, enabled: bool) -> None:
        """Disable a probe or enable it, as soon as :attr:`ips` are planted. The guest is stopped, the rings are empty.

        What it has in the zone stays: calls in flight return through it, and to enable it takes no more than to plant.
        """
        if self._probes.get(probe.number) is probe and probe.disabled is enabled:
            probe.disabled = not enabled
            self._close(probe, closed=not enabled)
            self._change(probe)

    # Whether pads that add up still count returns.
    def _close(self, probe: RecordProbe, *, closed: bool) -> None:
        self._words[self._word(probe, ProbeWord.CLOSED)] = closed

    def _change(self, probe: RecordProbe) -> None:
        self.changed |= probe.ips
        if self.task_dead_ip is not None and probe.form.returns:
            self.changed.add(self.task_dead_ip)

    def settle(self) -> None:
        """Take back nodes that have come home since their probe was removed, and forget probes of which nothing more
        can come. The guest is stopped.
        """
        over = [number for number in self._leaving if self.pools.take_back(number) and not self._order.keeps(number)]
        if over and not self.waiting and not self._in_pad:
            for number in over:
                del self._leaving[number]

    def withdraw(self) -> None:
        """Take everything out of the stopped guest: sites get their bytes back, return slots their addresses."""
        for probe in list(self._probes.values()):
            self.remove(probe)
        for call in self.pools.in_flight():
            stub = self._zone.stub(call.node).to_bytes(8, "little")
            with contextlib.suppress(MemoryFault):
                # The stack of a task that is gone may be, too.
                if self._target.read_memory(call.frame, 8) == stub:
                    self._target.write_memory(call.frame, self.real_return(call.ret_addr).to_bytes(8, "little"))

    def close(self) -> None:
        """Let go of the memory."""
        for part in (self.pools, self._rings):
            if part is not None:
                part.close()
        self._words.release()
        self._losses.release()

    def real_return(self, addr: int) -> int:
        """What a return address stands for, if it is a stub."""
        while (node := self._zone.node_of_stub(addr)) is not None:
            data = self._ram.read_physical(self._zone.physical_of(self._zone.node(node)), 8)
            addr = int.from_bytes(data, "little")
        return addr

    def recover_return(self, slot_addr: int, value: int) -> int | None:
        """What a return slot held before a pad put ``value`` there; None when none did."""
        node = self._zone.node_of_stub(value)
        found = self.pools.call(node) if node is not None else None
        return self.real_return(value) if found and found.frame == slot_addr else None

    # Section: records

    def drain(self, limit_bytes: int = _DRAIN_BYTES) -> bool:
        """Give records that are there to their probes. Returns whether there may be more at once.

        :param limit_bytes: how much to take out of each ring, at most.
        :raise BaseException: what a probe's ``consume`` raises; records behind it are taken all the same.
        """
        if self._rings is None:
            return False
        taken = self._rings.take(limit_bytes)
        taken_bytes = sum(len(batch.data) for batch in taken)
        batches = [told for batch in taken if (told := self._told(batch)).kinds]
        for batch in batches:
            if probe := self._probe(batch.probe):
                self._count(probe, batch)
        for batch in self._in_order(batches):
            if probe := self._probe(batch.probe):
                probe.consume(batch)
        kept = bool(self._order)
        self.flowing = bool(taken) or kept
        return taken_bytes >= limit_bytes // 2 or (kept and not taken and self._rings.complete)

    # Without what comes home to a disabled probe.
    def _told(self, batch: Batch) -> Batch:
        probe = self._probe(batch.probe)
        if probe is None or not probe.disabled:
            return batch
        told = batch.without(record_bits(RecordKind.EXIT, batch.probe))
        probe.unseen += len(batch.kinds) - len(told.kinds)
        return told

    # Of the probes that do not mind, all that has come; of the others together, what nothing older can come behind.
    def _in_order(self, batches: list[Batch]) -> Iterator[Batch]:
        assert self._rings is not None
        for batch in batches:
            probe = self._probe(batch.probe)
            if probe is None or not probe.ordered:
                yield batch
            else:
                self._order.add(batch)
        state = self._target.state
        more = state is TargetState.RUNNING or (state is TargetState.STOPPED and not self._rings.complete)
        settled_tsc = self._rings.settled_tsc if more else None
        yield from self._order.release(settled_tsc)

    def _probe(self, number: int) -> RecordProbe | None:
        return self._probes.get(number) or self._leaving.get(number)

    @property
    def waiting(self) -> bool:
        """Whether records are reserved that have not been taken."""
        return self._rings is not None and self._rings.waiting

    def _count(self, probe: RecordProbe, batch: Batch) -> None:
        of_kind = [batch.kinds.count(record_bits(kind, probe.number)) for kind in RecordKind]
        probe.hits += of_kind[RecordKind.EXIT if probe.form.decided else RecordKind.ENTRY]
        probe.exits += of_kind[RecordKind.EXIT]
        probe.nmissed += of_kind[RecordKind.MISSED]

    def count_lost(self, probe: RecordProbe) -> None:
        """Look after what this probe has lost, kept out and added up, and what is in flight, so far."""
        places = ((ip, self._loss_place(ip)) for ip in probe.ips if probe.by_function)
        counts = ((ip, self._losses[place]) for ip, place in places if place is not None)
        probe.losses = {ip: count for ip, count in counts if count}
        probe.lost = self._words[self._word(probe, ProbeWord.LOST)] + sum(probe.losses.values())
        probe.lost_exits = self._words[self._word(probe, ProbeWord.LOST_EXITS)]
        if probe.form.always:
            # Whose only record was lost is no hit.
            probe.lost += probe.lost_exits
            probe.hits = self._words[self._word(probe, ProbeWord.AWAITED)] - probe.lost_exits
        probe.kept_out = self._words[self._word(probe, ProbeWord.KEPT_OUT)]
        probe.faults = self._words[self._word(probe, ProbeWord.FAULTS)]
        if probe.form.decided and not probe.form.always:
            unseen = probe.unseen + self._words[self._word(probe, ProbeWord.UNSEEN)]
            probe.undecided = unseen + len(self.pools.out(probe.number))
        if probe.tables is not None:
            probe.counts = self._tables.read(probe.tables)
            all_calls = probe.counts.all_calls
            probe.hits, probe.exits, probe.nmissed = all_calls.hits, all_calls.exits, all_calls.missed

    @property
    def busy(self) -> bool:
        """Whether a vCPU of the stopped guest is about to record something, or to add it up."""
        adding = self._rings is not None and self._rings.adding
        return self.waiting or adding or self._in_pad or any(map(self._deciding, self._leaving.values()))

    # Whether a vCPU is in a pad: records of its probe may be yet to come, and of the probes whose pads are next.
    @property
    def _in_pad(self) -> bool:
        return any(self._zone.code <= ip < self._zone.stubs for ip in self._target.instruction_pointers())

    # Whether calls of it are between being in flight and being counted. Without a task nodes do not tell.
    def _deciding(self, probe: RecordProbe) -> bool:
        tells = self._place.offsets.current_task is not None
        return tells and probe.form.decided and self.pools.unsettled(probe.number)

    @property
    def returning(self) -> bool:
        """Whether calls may be in flight whose probes are disabled or have been removed."""
        gone = [*self._leaving.values(), *(probe for probe in self._probes.values() if probe.disabled)]
        return any(probe.form.returns for probe in gone)

    @property
    def replaces_returns(self) -> bool:
        """Whether return addresses are replaced by stubs of ours, or may still be."""
        return self._watcher is not None or self.returning

    # Section: private

    def _free_number(self) -> int:
        # Round and round, so that a number rests for as long as possible before it means something else.
        for step in range(MAX_PROBES - 1):
            number = (self._next_number - 1 + step) % (MAX_PROBES - 1) + 1
            if self._probe(number) is None:
                self._next_number = number + 1
                return number
        raise RecordTooMany(MAX_PROBES - 1)

    # All pads that a new probe needs, or none. Gives some of them: their exits are all alike.
    def _make_all_pads(self, probe: RecordProbe) -> RecordPads:
        code, known = self._code, len(self._pads)
        try:
            pads, *_ = [self._make_pads(probe, ip, None) for ip in self._differently_asked(probe)]
        except SiteNoCode:
            # Nobody has executed what was made so far.
            self._code = code
            for key in list(self._pads)[known:]:
                del self._pads[key]
            raise
        return pads

    # A location for each of the different questions.
    def _differently_asked(self, probe: RecordProbe) -> list[int]:
        return list({probe.asked.get(ip, _NOTHING): ip for ip in probe.ips}.values())

    def _make_pads(self, probe: RecordProbe, ip: int, then: int | None) -> RecordPads:
        probes_dead, asked = self.task_dead_ip in probe.ips and not probe.disabled, probe.asked.get(ip, _NOTHING)
        key = (probe.number, probe.form, probe.block, probe.by_function, probes_dead, then, asked, probe.tables)
        if key not in self._pads:
            made_by: Callable[..., RecordPads] = partial(record_pads, block=probe.block, by_function=probe.by_function)
            if probe.tables is not None:
                made_by = partial(count_pads, tables=probe.tables)
            make = partial(
                made_by,
                place=self._place,
                form=probe.form,
                probe=probe.number,
                probes_task_dead=probes_dead,
                then=then,
                asked=asked,
            )
            pads = make(self._code)
            left_bytes = -self._code % _PAGE_BYTES
            if left_bytes < len(pads.code) <= _PAGE_BYTES:
                self._code += left_bytes
                pads = make(self._code)
            if self._code + len(pads.code) > self._zone.stubs:
                raise SiteNoCode(ip)
            # Nobody has executed anything there.
            self._ram.write_physical(self._zone.physical_of(self._code), pads.code)
            self._code += len(pads.code)
            self._pads[key] = pads
        return self._pads[key]

    def _give_nodes(self, probe: RecordProbe, pads: RecordPads, wanted: int) -> int:
        # Some are kept for others.
        count = min(wanted, self.pools.free - self.pools.free // 8)
        if count <= 0:
            raise RecordNoNodes
        assert pads.exit is not None
        nodes = [node for node in self.pools.give(probe.number, count) if self._stub_calls.get(node) != pads.exit]
        for begin, length in _runs(nodes):
            asm = Asm(self._zone.stub(begin))
            for node in range(begin, begin + length):
                asm.call(pads.exit)
                asm.pad_to(self._zone.stub(node + 1))
                self._stub_calls[node] = pads.exit
            self._target.write_memory(self._zone.stub(begin), asm.finish())
        return count

    def _clear_words(self, probe: RecordProbe) -> None:
        for word in ProbeWord:
            if word is not ProbeWord.FREE:
                self._words[self._word(probe, word)] = 0
        if probe.by_function and self._losses and any(self._losses[:].tobytes()):
            for ip in probe.ips:
                if (place := self._loss_place(ip)) is not None:
                    self._losses[place] = 0

    def _loss_place(self, ip: int) -> int | None:
        place = ip - self._place.text >> LOSS_SHIFT
        return place if 0 <= place < len(self._losses) else None

    def _word(self, probe: RecordProbe, word: ProbeWord) -> int:
        return (self._zone.probe(probe.number) - self._zone.probe(0) + word) // 8


# Ascending numbers as runs: the first, and how many.
def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][0] + runs[-1][1] == number:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((number, 1))
    return runs
