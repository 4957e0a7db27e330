"""The pads of record mode: machine code that writes what happens into the ring and goes on, without the host. Pure.

A probe has pads of its own, made for what its records hold (:class:`~.record_format.RecordForm`), and nodes of its own
for the returns that it records. So a return's stub leads to the right pad by itself.

Rules, as of call mode's pads: preemption is off while a record is reserved but not there; interrupts stay as they are;
no FPU register; no lock is held, at any instruction another hit may come in between. Room in the ring is taken by
compare and exchange, and so are nodes: from a stack whose head carries a number that changes each time. There is one
ring for all CPUs: its order is the order of events, and with one TCG thread a locked instruction costs what others do.

Registers: ftrace's own entry code leaves r10, r11 and the flags to whoever wants them (arch/x86/kernel/ftrace_64.S,
``save_mcount_regs``, 5.10 to 6.18), and behind a return all but ax and dx are free (``return_to_handler`` there).
"""

from __future__ import annotations

from dataclasses import dataclass

from fprobe_gdb.dispatch.cpu_state import PerCpuOffsets
from fprobe_gdb.dispatch.trampoline.assembler import Asm, at, gs, rip
from fprobe_gdb.dispatch.trampoline.pads import DOORBELL_PORT
from fprobe_gdb.dispatch.trampoline.record_format import (
    FENTRY_BYTES,
    NodeWord,
    ProbeWord,
    RecordField,
    RecordForm,
    RecordKind,
    meta_bits,
)
from fprobe_gdb.dispatch.trampoline.zone import (
    HOST_NODES,
    LOSS_SHIFT,
    MAX_NODES,
    NODE_BYTES,
    STUB_BYTES,
    Zone,
)
from fprobe_gdb.registers import ARGUMENT_REGISTERS

__all__ = ["PadPlace", "RecordPads", "record_pads"]

# On the stack behind _save(): dx, ax, and then what was there.
_BEHIND = 16
_RETURN_SLOT = 24
_NODE_SHIFT = NODE_BYTES.bit_length() - 1
_STUBS_BYTES = MAX_NODES * STUB_BYTES
_SIGN = 1 << 64
_ALIGN = 64


@dataclass(frozen=True, slots=True)
class PadPlace:
    """What pads have to know of the guest and its zone.

    :param cpu_number: per-CPU offset of the CPU's number; None on a kernel for one CPU.
    :param text: where kernel text begins, for the counters of losses.
    """

    zone: Zone
    offsets: PerCpuOffsets
    cpu_number: int | None
    text: int


@dataclass(frozen=True, slots=True)
class RecordPads:
    """Code, from some address on, and where its parts begin."""

    code: bytes
    #: What planted locations call.
    entry: int
    #: What the location of ``do_task_dead`` calls; only where returns are recorded.
    task_dead: int | None
    #: What the stubs of the probe's nodes call; only where returns are recorded.
    exit: int | None


def record_pads(
    addr: int,
    place: PadPlace,
    form: RecordForm,
    probe: int,
    *,
    block: bool = False,
    probes_task_dead: bool = False,
    then: int | None = None,
) -> RecordPads:
    """Assemble the pads of a probe.

    :param addr: where they will be.
    :param probe: its number.
    :param block: wait for room in the ring, as long as call mode waits for an answer.
    :param probes_task_dead: ``do_task_dead`` is one of the probe's functions.
    :param then: a pad that is next at an entry, with everything as the function's entry had it.
    """
    asm = Asm(addr)
    pad = _Pad(asm, place, form, probe, block, then)
    asm.label("entry")
    pad.entry()
    if form.returns:
        asm.label("exit")
        pad.exit()
        asm.label("task_dead")
        pad.task_dead(probes_task_dead)
    code = asm.finish()
    exits = (asm.address_of("task_dead"), asm.address_of("exit")) if form.returns else (None, None)
    return RecordPads(code.ljust(-(-len(code) // _ALIGN) * _ALIGN, b"\xcc"), asm.address_of("entry"), *exits)


# r11 is the record, r10 (entry) or rdi (exit) the node.
@dataclass(slots=True)
class _Pad:
    asm: Asm
    place: PadPlace
    form: RecordForm
    probe: int
    block: bool
    then: int | None

    def entry(self) -> None:
        asm = self.asm
        self._save()
        self._reserve("entry.")
        self._common()
        asm.mov("ax", at("sp", _RETURN_SLOT))
        self._parent("entry.")
        self._arguments()
        if self.form.returns:
            self._take_node()
            self._hook()
            # The node's number is in ax, times 8.
            asm.shl_imm("ax", 13)
            self._meta(RecordKind.ENTRY, also="ax")
        else:
            self._meta(RecordKind.ENTRY)
        self._commit_entry()
        asm.label("entry.leave")
        self._restore(self.then)
        if self.form.returns:
            asm.label("no_node")
            self._meta(RecordKind.MISSED)
            self._commit_entry()
            asm.jmp("entry.leave")
        asm.label("entry.lost")
        self._count_lost()
        asm.jmp("entry.leave")

    def exit(self) -> None:
        asm, zone = self.asm, self.place.zone
        self._save()
        asm.mov("si", at("sp", _BEHIND))
        asm.sub_imm("si", zone.stubs + FENTRY_BYTES - _SIGN)
        asm.shl_imm("si", _NODE_SHIFT - (STUB_BYTES.bit_length() - 1))
        asm.lea("di", rip(zone.nodes))
        asm.add("di", "si")
        asm.mov("r8", at("di", NodeWord.RET_ADDR))
        asm.mov(at("sp", _BEHIND), "r8")
        self._reserve("exit.")
        self._common()
        asm.mov("ax", "r8")
        self._parent("exit.")
        asm.mov("ax", at("sp", 8))
        asm.mov(at("r11", RecordField.RETVAL), "ax")
        asm.mov("ax", at("di", NodeWord.ENTERED))
        asm.mov(at("r11", RecordField.ENTERED), "ax")
        # rsi is the node's number times its size.
        asm.shl_imm("si", 16 - _NODE_SHIFT)
        self._meta(RecordKind.EXIT, also="si")
        asm.movl("ax", at("di", NodeWord.IP))
        asm.movl(at("r11", RecordField.IP), "ax")
        asm.label("exit.free")
        asm.mov_imm(at("di", NodeWord.TASK), 0)
        asm.lea("r8", rip(self._word(ProbeWord.FREE)))
        self._push_node("exit.", "di", "r8", "dx")
        self._restore()
        asm.label("exit.lost")
        asm.lock_inc(rip(self._word(ProbeWord.LOST_EXITS)))
        asm.jmp("exit.free")

    # The entry of do_task_dead: the calls of this task will never return; all nodes that it has are free again. What
    # it calls from here on has no pads (__schedule() is notrace) or returns.
    def task_dead(self, probed: bool) -> None:
        asm = self.asm
        kind = RecordKind.ENTRY if probed else RecordKind.TASK_DEAD
        self._save()
        self._reserve("dead.")
        self._common()
        asm.mov("ax", at("sp", _RETURN_SLOT))
        self._parent("dead.")
        self._arguments()
        self._meta(kind)
        self._commit_entry()
        asm.label("dead.walk")
        asm.push("cx")
        self._free_nodes()
        asm.pop("cx")
        self._restore(self.then)
        asm.label("dead.lost")
        if probed:
            self._count_lost()
        asm.jmp("dead.walk")

    def _save(self) -> None:
        self.asm.push("ax")
        self.asm.push("dx")
        if self.place.offsets.preempt_count is not None:
            self.asm.incl(gs(self.place.offsets.preempt_count))

    def _restore(self, then: int | None = None) -> None:
        asm = self.asm
        if self.place.offsets.preempt_count is not None:
            asm.decl(gs(self.place.offsets.preempt_count))
        asm.pop("dx")
        asm.pop("ax")
        if then is None:
            asm.ret()
        else:
            asm.jmp(then)

    # Take room for a record: r11. Clobbers ax, dx; with `block` r10.
    def _reserve(self, scope: str) -> None:
        asm, zone = self.asm, self.place.zone
        asm.label(scope + "reserve")
        asm.mov("ax", rip(zone.word(Zone.RING_HEAD)))
        asm.label(scope + "again")
        self._room("ax")
        asm.jcc("a", scope + ("full" if self.block else "lost"))
        asm.lock_cmpxchg(rip(zone.word(Zone.RING_HEAD)), "r11")
        asm.jcc("ne", scope + "again")
        asm.andl_imm("ax", zone.ring_bytes - 1)
        asm.lea("r11", rip(zone.ring))
        asm.add("r11", "ax")
        if self.block:
            asm.jmp(scope + "reserved")
            self._wait_for_room(scope)
            asm.label(scope + "reserved")

    # Given where the ring's head is: r11 is where it would be behind one more record; "a" if that is too far.
    def _room(self, head: str) -> None:
        asm, zone = self.asm, self.place.zone
        asm.lea("r11", at(head, self.form.size_bytes))
        asm.mov("dx", "r11")
        asm.sub("dx", rip(zone.word(Zone.RING_TAIL)))
        asm.cmp_imm("dx", zone.ring_bytes)

    def _wait_for_room(self, scope: str) -> None:
        asm, zone = self.asm, self.place.zone
        asm.label(scope + "full")
        asm.cmpl_imm(rip(zone.word(Zone.HOST_AWAY)), 0)
        asm.jcc("ne", scope + "lost")
        self._now()
        asm.add("ax", rip(zone.word(Zone.BOUND_TSC)))
        asm.mov("r10", "ax")
        asm.cmpl_imm(rip(zone.word(Zone.HOST_SLEEPS)), 0)
        asm.jcc("e", scope + "wait")
        asm.out_al(DOORBELL_PORT)
        asm.label(scope + "wait")
        asm.pause()
        asm.mov("ax", rip(zone.word(Zone.RING_HEAD)))
        self._room("ax")
        asm.jcc("be", scope + "reserve")
        self._now()
        asm.cmp("ax", "r10")
        asm.jcc("b", scope + "wait")
        asm.movl_imm(rip(zone.word(Zone.HOST_AWAY)), 1)
        asm.jmp(scope + "lost")

    # The TSC into ax; clobbers dx.
    def _now(self) -> None:
        asm = self.asm
        asm.rdtsc()
        asm.shl_imm("dx", 32)
        asm.or_("ax", "dx")

    # What all records have.
    def _common(self) -> None:
        asm, offsets, names = self.asm, self.place.offsets, self.form.names
        self._now()
        asm.mov(at("r11", RecordField.TSC), "ax")
        if offsets.current_task is None:
            asm.xorl("dx", "dx")
        else:
            asm.mov("dx", gs(offsets.current_task))
        asm.mov(at("r11", RecordField.TASK), "dx")
        if names is None:
            return
        for word in (0, 8):
            asm.mov("ax", at("dx", names.comm + word))
            asm.mov(at("r11", self.form.names_at + word), "ax")
        asm.movl("ax", at("dx", names.pid))
        asm.movl(at("r11", self.form.names_at + 16), "ax")

    # ax is a return address. A stub stands for the one in its node, which may be a stub again: a tail call.
    def _parent(self, scope: str) -> None:
        asm, zone = self.asm, self.place.zone
        asm.label(scope + "parent")
        asm.mov("dx", "ax")
        asm.sub_imm("dx", zone.stubs - _SIGN)
        asm.cmp_imm("dx", _STUBS_BYTES)
        asm.jcc("ae", scope + "real_parent")
        asm.shl_imm("dx", _NODE_SHIFT - (STUB_BYTES.bit_length() - 1))
        asm.lea("ax", rip(zone.nodes))
        asm.mov("ax", at("ax", NodeWord.RET_ADDR, "dx"))
        asm.jmp(scope + "parent")
        asm.label(scope + "real_parent")
        asm.mov(at("r11", RecordField.RET_IP), "ax")

    def _arguments(self) -> None:
        if not self.form.args:
            return
        asm = self.asm
        for number, name in enumerate(ARGUMENT_REGISTERS):
            if name == "dx":
                asm.mov("ax", at("sp"))
                name = "ax"
            asm.mov(at("r11", RecordField.ARGS + 8 * number), name)

    # Take a node of this probe: r10. Clobbers ax, dx.
    def _take_node(self) -> None:
        asm, zone = self.asm, self.place.zone
        free = rip(self._word(ProbeWord.FREE))
        asm.mov("ax", free)
        asm.label("next_node")
        asm.movl("dx", "ax")
        asm.cmpl_imm("dx", 0)
        asm.jcc("e", "no_node")
        asm.shl_imm("dx", _NODE_SHIFT)
        asm.lea("r10", rip(zone.nodes))
        asm.add("r10", "dx")
        self._new_head("dx")
        asm.add("dx", at("r10", NodeWord.NEXT))
        asm.lock_cmpxchg(rip(self._word(ProbeWord.FREE)), "dx")
        asm.jcc("ne", "next_node")

    # Of a stack head in ax: its number in the upper half, one further, into a register.
    def _new_head(self, to: str) -> None:
        asm = self.asm
        asm.mov(to, "ax")
        asm.shr_imm(to, 32)
        asm.incl(to)
        asm.shl_imm(to, 32)

    # Put a node on a stack of free ones. Clobbers ax and `scratch`.
    def _push_node(self, scope: str, node: str, pool: str, scratch: str) -> None:
        asm = self.asm
        asm.mov("ax", at(pool))
        asm.label(scope + "push")
        asm.movl(scratch, "ax")
        asm.mov(at(node, NodeWord.NEXT), scratch)
        self._new_head(scratch)
        asm.add(scratch, at(node, NodeWord.NUMBER))
        asm.lock_cmpxchg(at(pool), scratch)
        asm.jcc("ne", scope + "push")

    # Fill the node, and leave its stub in the return slot. ax is the node's number times 8 afterwards.
    def _hook(self) -> None:
        asm, zone = self.asm, self.place.zone
        asm.mov("ax", at("sp", _RETURN_SLOT))
        asm.mov(at("r10", NodeWord.RET_ADDR), "ax")
        asm.lea("ax", at("sp", _RETURN_SLOT))
        asm.mov(at("r10", NodeWord.FRAME), "ax")
        asm.mov("ax", at("sp", _BEHIND))
        asm.mov(at("r10", NodeWord.IP), "ax")
        asm.mov("ax", at("r11", RecordField.TSC))
        asm.mov(at("r10", NodeWord.ENTERED), "ax")
        asm.mov("ax", at("r11", RecordField.TASK))
        asm.mov(at("r10", NodeWord.TASK), "ax")
        asm.mov("ax", at("r10", NodeWord.NUMBER))
        asm.shl_imm("ax", STUB_BYTES.bit_length() - 1)
        asm.lea("dx", rip(zone.stubs))
        asm.add("dx", "ax")
        asm.mov(at("sp", _RETURN_SLOT), "dx")

    # Clobbers dx.
    def _meta(self, kind: RecordKind, also: str | None = None) -> None:
        asm = self.asm
        if self.place.cpu_number is None:
            asm.xorl("dx", "dx")
        else:
            asm.movl("dx", gs(self.place.cpu_number))
        asm.orl_imm("dx", meta_bits(kind, self.probe))
        if also:
            asm.or_("dx", also)
        asm.movl(at("r11", RecordField.META), "dx")

    def _commit_entry(self) -> None:
        self.asm.movl("ax", at("sp", _BEHIND))
        self.asm.movl(at("r11", RecordField.IP), "ax")

    # By function if it has a counter, else by probe; in one place only, so that the sum is right at any moment.
    # Clobbers ax, dx.
    def _count_lost(self) -> None:
        asm, zone = self.asm, self.place.zone
        if not zone.losses_bytes:
            asm.lock_inc(rip(self._word(ProbeWord.LOST)))
            return
        scope = f"lost{asm.here:x}."
        asm.mov("ax", at("sp", _BEHIND))
        asm.sub_imm("ax", FENTRY_BYTES)
        asm.sub_imm("ax", self.place.text - _SIGN)
        asm.shr_imm("ax", LOSS_SHIFT)
        asm.cmp_imm("ax", zone.losses_bytes // 4)
        asm.jcc("ae", scope)
        asm.shl_imm("ax", 2)
        asm.lea("dx", rip(zone.losses))
        asm.lock_incl(at("dx", 0, "ax"))
        asm.jmp(scope + "counted")
        asm.label(scope)
        asm.lock_inc(rip(self._word(ProbeWord.LOST)))
        asm.label(scope + "counted")

    # Clobbers ax, cx, dx, r10, r11.
    def _free_nodes(self) -> None:
        asm, zone, task = self.asm, self.place.zone, self.place.offsets.current_task
        if task is None:
            return
        asm.mov("dx", gs(task))
        asm.lea("r10", rip(zone.node(HOST_NODES)))
        asm.jmp("dead.check")
        asm.label("dead.node")
        asm.cmp("dx", at("r10", NodeWord.TASK))
        asm.jcc("ne", "dead.next")
        asm.mov_imm(at("r10", NodeWord.TASK), 0)
        asm.mov("r11", at("r10", NodeWord.POOL))
        self._push_node("dead.", "r10", "r11", "cx")
        asm.label("dead.next")
        asm.add_imm("r10", NODE_BYTES)
        asm.label("dead.check")
        asm.cmp("r10", rip(zone.word(Zone.NODES_END)))
        asm.jcc("b", "dead.node")

    def _word(self, word: ProbeWord) -> int:
        return self.place.zone.probe(self.probe) + word
