"""The pads of record mode: machine code that writes what happens into the ring and goes on, without the host. Pure.

A probe has pads of its own, made for what its records hold (:class:`~.record_format.RecordForm`), and nodes of its own
for the returns that it records. So a return's stub leads to the right pad by itself.

Rules, as of call mode's pads: preemption is off while a record is reserved but not there; interrupts stay as they are;
no FPU register; no lock is held, at any instruction another hit may come in between.

Room is taken in the ring of the CPU, where only hits that interrupt the pad can come in between: by one ``xadd``, which
no interrupt can break up. It is given back by ``cmpxchg`` where it turns out to be too much, unless such a hit has got
room behind it; then there is room for this one as well. Nodes are shared by all CPUs: they are taken from a stack whose
head carries a number that changes each time.

The counter is read behind a call's node is taken, and in front of the node being put back. So in the order of their
counter values, records of one node are in the order in which it was used, on whatever CPUs that was.

Registers: ftrace's own entry code leaves r10, r11 and the flags to whoever wants them (arch/x86/kernel/ftrace_64.S,
``save_mcount_regs``, 5.10 to 6.18), and behind a return all but ax and dx are free (``return_to_handler`` there).

Where something is asked of calls (:class:`~.pad_expr.Asked`), that comes first, and of what is kept out only the number
is left. What is asked at a return decides whether the call is recorded at all: its entry leaves what a record needs in
the node, and in the node's words for arguments.

Much depends on how long this takes, and that on what is dear under TCG: a conditional branch, since what is translated
in one piece ends there; an access to memory; and above all a jump out of the page, so a pad lies in one page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fprobe_gdb.dispatch.cpu_state import PerCpuOffsets
from fprobe_gdb.dispatch.trampoline.assembler import Asm, Mem, at, gs, rip
from fprobe_gdb.dispatch.trampoline.pad_expr import Asked, Entered, PadExpr, walk
from fprobe_gdb.dispatch.trampoline.pad_expr_code import ExprCode, Seat
from fprobe_gdb.dispatch.trampoline.pads import DOORBELL_PORT
from fprobe_gdb.dispatch.trampoline.payload_code import PayloadCode
from fprobe_gdb.dispatch.trampoline.peek_code import Peeks
from fprobe_gdb.dispatch.trampoline.record_flags import emit_flags
from fprobe_gdb.dispatch.trampoline.record_format import (
    COMM_BYTES,
    FENTRY_BYTES,
    IP_SHIFT,
    NodeWord,
    ProbeWord,
    RecordField,
    RecordForm,
    RecordKind,
    RingWord,
    record_bits,
)
from fprobe_gdb.dispatch.trampoline.stub_code import NODES_BY_STUBS_SHIFT, look_through
from fprobe_gdb.dispatch.trampoline.zone import (
    HOST_NODES,
    LOSS_SHIFT,
    NODE_ARGS_BYTES,
    NODE_BYTES,
    RING_WORDS_BYTES,
    Zone,
)
from fprobe_gdb.registers import ARGUMENT_REGISTERS, PRESERVED_REGISTERS

__all__ = ["BEHIND", "PadPlace", "RecordPad", "RecordPads", "assemble", "record_pads"]

#: On the stack of an entry pad, in front of what was there before it was called: dx, ax, and the end of the location.
BEHIND = 16
_RETURN_SLOT = 24
_SIGN = 1 << 64
_ALIGN = 64
_NOTHING = Asked()


@dataclass(frozen=True, slots=True)
class PadPlace:
    """What pads have to know of the guest and its zone.

    :param cpu_number: per-CPU offset of the CPU's number; None on a kernel for one CPU.
    :param text: where kernel text begins, for the counters of losses.
    :param peeks: what reads all memory; None where nothing can.
    """

    zone: Zone
    offsets: PerCpuOffsets
    cpu_number: int | None
    text: int
    peeks: Peeks | None = None


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
    by_function: bool = True,
    probes_task_dead: bool = False,
    then: int | None = None,
    asked: Asked = _NOTHING,
) -> RecordPads:
    """Assemble the pads of a probe, or those for some of its functions.

    :param addr: where they will be.
    :param probe: its number, from 1 on.
    :param block: wait for room in the ring, as long as call mode waits for an answer.
    :param by_function: count losses by function, where the zone has counters for that.
    :param probes_task_dead: ``do_task_dead`` is one of the probe's functions.
    :param then: a pad that is next at an entry, with everything as the function's entry had it.
    :param asked: what is asked of these functions' calls; at the return if ``form`` says so.
    """
    return assemble(RecordPad(Asm(addr), place, form, probe, block, by_function, then, asked), probes_task_dead)


def assemble(pad: RecordPad, probes_task_dead: bool) -> RecordPads:
    """The parts of a pad. See :func:`record_pads`."""
    asm, form = pad.asm, pad.form
    if form.returns:
        asm.label("exit")
        pad.exit()
    asm.label("entry")
    pad.entry()
    if form.returns:
        asm.label("task_dead")
        pad.task_dead(probes_task_dead)
    code = asm.finish()
    exits = (asm.address_of("task_dead"), asm.address_of("exit")) if form.returns else (None, None)
    return RecordPads(code.ljust(-(-len(code) // _ALIGN) * _ALIGN, b"\xcc"), asm.address_of("entry"), *exits)


@dataclass(slots=True)
class RecordPad:
    """The parts of a pad that records, behind each other. See :func:`record_pads`.

    r11 is the record, r10 (entry) or di (exit) the node; ax and dx are for anything.
    """

    asm: Asm
    place: PadPlace
    form: RecordForm
    probe: int
    block: bool
    by_function: bool
    then: int | None
    asked: Asked

    def entry(self) -> None:
        """What planted locations call."""
        asm, returns = self.asm, self.form.returns
        self._save()
        denied = self._ask_at_entry("entry.")
        if returns:
            self._take_node()
        if self.form.decided:
            self._await()
        else:
            self._record_entry()
        asm.label("entry.leave")
        self._restore(self.then)
        self._denied("entry.", denied, "entry.leave")
        if not self.form.decided:
            self._stub_parent("entry.")
            self._full("entry.", "entry.lost")
            asm.label("entry.lost")
            if returns:
                self._push_node("lost.", "r10", rip(self._probe_word(ProbeWord.FREE)), "dx", "r11")
            asm.label("lost")
            self._count_lost()
            asm.jmp("entry.leave")
        if returns:
            self._missed()

    def _record_entry(self) -> None:
        asm, returns = self.asm, self.form.returns
        self._reserve("entry.")
        asm.mov("ax", at("sp", _RETURN_SLOT))
        if returns:
            asm.mov(at("r10", NodeWord.RET_ADDR), "ax")
            asm.lea("dx", at("sp", _RETURN_SLOT))
            asm.mov(at("r10", NodeWord.FRAME), "dx")
        self._parent("entry.")
        self._tsc("r10" if returns else None)
        self._task("r10" if returns else None)
        self._arguments()
        self._fetch("entry.", self._entry_seat)
        self._word(RecordKind.ENTRY)
        if returns:
            asm.mov(at("r11", RecordField.NODE), "r10")
            self._hook()
        self._commit()

    # The return will decide: leave all that it needs in the node.
    def _await(self) -> None:
        asm = self.asm
        asm.mov("ax", at("sp", _RETURN_SLOT))
        asm.mov(at("r10", NodeWord.RET_ADDR), "ax")
        asm.lea("dx", at("sp", _RETURN_SLOT))
        asm.mov(at("r10", NodeWord.FRAME), "dx")
        asm.lea("ax", rip(asm.address_of("exit.decide")))
        asm.mov(at("r10", NodeWord.DECIDE), "ax")
        if self._keeps_args:
            self._node_args("r10", "r11")
            for number, name in enumerate(ARGUMENT_REGISTERS):
                if name == "dx":
                    asm.mov("ax", at("sp"))
                asm.mov(at("r11", 8 * number), "ax" if name == "dx" else name)
        self._now()
        asm.mov(at("r10", NodeWord.ENTERED), "ax")
        if (task := self.place.offsets.current_task) is not None:
            asm.mov("ax", gs(task))
            asm.mov(at("r10", NodeWord.TASK), "ax")
        if self.form.always:
            asm.lock_inc(rip(self._probe_word(ProbeWord.AWAITED)))
        self._word(RecordKind.ENTRY)
        self._hook()

    @property
    def _keeps_args(self) -> bool:
        asked, fetched = self.asked.at_exit, self.asked.payload
        wanted = [*([asked] if asked else []), *(one.expr for one in (fetched.fields if fetched else ()))]
        return self.form.args or any(isinstance(node, Entered) for expr in wanted for node in walk(expr))

    # Where a node's words for arguments are.
    def _node_args(self, node: str, to: str) -> None:
        asm, zone = self.asm, self.place.zone
        asm.mov(to, node)
        asm.sub_imm(to, zone.node(HOST_NODES) - _SIGN)
        asm.mov("ax", to)
        asm.shr_imm("ax", 2)
        asm.sub(to, "ax")
        assert NODE_ARGS_BYTES * 4 == NODE_BYTES * 3
        asm.add_imm(to, zone.node_args - _SIGN)

    # No node is left.
    def _missed(self) -> None:
        asm = self.asm
        asm.label("no_node")
        self._entered("missed.", RecordKind.MISSED)
        asm.jmp("entry.leave")
        if self.form.decided:
            asm.label("lost")
            self._count_lost()
            asm.jmp("entry.leave")
        self._full("missed.", "lost")

    def exit(self) -> None:
        """What the stubs of nodes call."""
        asm = self.asm
        self._come_home()
        denied = None
        if self.form.decided:
            asm.jmp_mem(at("di", NodeWord.DECIDE))
            asm.label("exit.decide")
            denied = self._ask_at_exit("exit.")
        self._record_exit()
        self._go_home()
        self._denied("exit.", denied, "exit.free")
        self._stub_parent("exit.")
        self._full("exit.", "exit.lost")
        asm.label("exit.lost")
        if self.form.decided and not self.form.always:
            self._count_lost(at_exit=True)
        else:
            asm.lock_inc(rip(self._probe_word(ProbeWord.LOST_EXITS)))
        asm.jmp("exit.free")

    # Save what the function returns, find the node, and leave the real return address.
    def _come_home(self) -> None:
        asm, zone = self.asm, self.place.zone
        asm.mov("r8", "ax")
        asm.mov("r9", "dx")
        self._preempt_off()
        asm.mov("di", at("sp"))
        asm.sub_imm("di", zone.stubs + FENTRY_BYTES - _SIGN)
        asm.shl_imm("di", NODES_BY_STUBS_SHIFT)
        asm.add_imm("di", zone.nodes - _SIGN)
        asm.mov("ax", at("di", NodeWord.RET_ADDR))
        asm.mov(at("sp"), "ax")
        # From here on the call is not in flight, and soon it is counted.
        asm.mov_imm(at("di", NodeWord.TASK), 0)

    # Give the node back, and go on at the return address.
    def _go_home(self) -> None:
        asm = self.asm
        asm.label("exit.free")
        self._push_node("exit.", "di", rip(self._probe_word(ProbeWord.FREE)), "cx", "dx")
        self._preempt_on()
        asm.mov("dx", "r9")
        asm.mov("ax", "r8")
        asm.ret()

    def _record_exit(self) -> None:
        asm = self.asm
        self._reserve("exit.")
        self._tsc()
        self._task()
        asm.mov("ax", at("di", NodeWord.RET_ADDR))
        self._parent("exit.")
        asm.mov(at("r11", RecordField.NODE), "di")
        asm.mov(at("r11", self.form.retval_at), "r8")
        asm.mov("ax", at("di", NodeWord.ENTERED))
        asm.mov(at("r11", self.form.entered_tsc_at), "ax")
        if self.form.decided:
            self._decided()
            self._fetch("exit.", lambda kept_bytes: self._exit_seat())
        asm.mov("ax", at("di", NodeWord.WORD))
        asm.add_imm("ax", RecordKind.EXIT - RecordKind.ENTRY)
        self._commit()

    # What only records of whole calls have.
    def _decided(self) -> None:
        asm, form = self.asm, self.form
        asm.mov(at("r11", form.left_tsc_at), "cx")
        if form.args:
            for at_bytes in range(0, NODE_ARGS_BYTES, 8):
                asm.mov("ax", at("si", at_bytes))
                asm.mov(at("r11", form.args_at + at_bytes), "ax")

    # Section: questions

    # Returns what _denied() has to finish; None for no question.
    def _ask_at_entry(self, scope: str) -> ExprCode | None:
        if self.asked.at_entry is None:
            return None
        return self._ask(scope, self.asked.at_entry, self._entry_seat)

    # With so many bytes on the stack in front of what _save() has left there.
    def _entry_seat(self, kept_bytes: int) -> Seat:
        registers = {name: name for name in (*ARGUMENT_REGISTERS, *PRESERVED_REGISTERS)}
        return self._seat(
            entered=registers | {"dx": at("sp", kept_bytes), "ax": at("sp", kept_bytes + 8)},
            frame_is=at("sp", kept_bytes + _RETURN_SLOT),
            ret_addr=at("sp", kept_bytes + _RETURN_SLOT),
            site=at("sp", kept_bytes + BEHIND),
        )

    # cx is the counter's value, si the address of the node's words for arguments; both are for _decided(), too.
    def _ask_at_exit(self, scope: str) -> ExprCode | None:
        asm = self.asm
        self._now()
        asm.mov("cx", "ax")
        if self._keeps_args:
            self._node_args("di", "si")
        if self.asked.at_exit is None:
            return None
        return self._ask(scope, self.asked.at_exit, lambda kept_bytes: self._exit_seat())

    def _exit_seat(self, site: Mem | None = None) -> Seat:
        return self._seat(
            entered={name: at("si", 8 * number) for number, name in enumerate(ARGUMENT_REGISTERS)},
            left={name: name for name in PRESERVED_REGISTERS} | {"ax": "r8", "dx": "r9"},
            frame_in=at("di", NodeWord.FRAME),
            ret_addr=at("di", NodeWord.RET_ADDR),
            entered_tsc=at("di", NodeWord.ENTERED),
            left_tsc="cx",
            site=site,
        )

    # Fetch the payload into the record.
    def _fetch(self, scope: str, seat: Callable[[int], Seat]) -> None:
        if self.asked.payload is not None and self.asked.payload.fields:
            PayloadCode(self.asm, self.asked.payload, self.form.payload_at, seat, scope + "fetched").emit()

    def _seat(self, **where: Any) -> Seat:
        place = self.place
        return Seat(place.zone, place.offsets, place.cpu_number, peeks=place.peeks, **where)

    def _ask(self, scope: str, question: PadExpr, seat: Callable[[int], Seat]) -> ExprCode:
        asm, fault, denied = self.asm, scope + "fault", scope + "denied"
        trial = ExprCode(Asm(asm.here), seat(0), scope + "asked", fault)
        trial.branch(question, denied, False)
        kept_bytes = 8 * trial.most_kept
        if kept_bytes:
            asm.lea("sp", at("sp", -kept_bytes))
        code = ExprCode(asm, seat(kept_bytes), scope + "asked", fault)
        code.branch(question, denied, False)
        if kept_bytes:
            asm.lea("sp", at("sp", kept_bytes))
        return code

    # Where a question leads that is answered by no, or not at all.
    def _denied(self, scope: str, code: ExprCode | None, leave: str) -> None:
        asm = self.asm
        if code is None:
            return
        kept_bytes = 8 * code.most_kept
        asm.label(scope + "fault")
        asm.lock_inc(rip(self._probe_word(ProbeWord.FAULTS)))
        asm.label(scope + "denied")
        if kept_bytes:
            asm.lea("sp", at("sp", kept_bytes))
        asm.lock_inc(rip(self._probe_word(ProbeWord.KEPT_OUT)))
        asm.jmp(leave)

    # Section: tasks that die

    # The entry of do_task_dead: the calls of this task will never return; all nodes that it has are free again. What
    # it calls from here on has no pads (__schedule() is notrace) or returns.
    def task_dead(self, probed: bool) -> None:
        """What the location of ``do_task_dead`` calls."""
        asm = self.asm
        self._save()
        denied = self._ask_at_entry("dead.") if probed else None
        # Where the return decides, there is nothing to record: this one does not return.
        if not self.form.decided:
            self._entered("dead.", RecordKind.ENTRY if probed else RecordKind.TASK_DEAD)
        elif probed:
            asm.lock_inc(rip(self._probe_word(ProbeWord.AWAITED if self.form.always else ProbeWord.UNSEEN)))
        self._leave_dead(denied)
        if self.form.decided:
            return
        self._full("dead.", "dead.lost")
        asm.label("dead.lost")
        if probed:
            self._count_lost()
        asm.jmp("dead.walk")

    def _leave_dead(self, denied: ExprCode | None) -> None:
        asm = self.asm
        asm.label("dead.walk")
        asm.push("cx")
        self._free_nodes()
        asm.pop("cx")
        self._restore(self.then)
        self._denied("dead.", denied, "dead.walk")

    # A record of an entry whose return is not awaited.
    def _entered(self, scope: str, kind: RecordKind) -> None:
        asm = self.asm
        self._reserve(scope)
        asm.mov("ax", at("sp", _RETURN_SLOT))
        self._parent(scope)
        self._tsc()
        self._task()
        self._arguments()
        if kind is RecordKind.ENTRY:
            self._fetch(scope, self._entry_seat)
        self._word(kind)
        self._commit()
        asm.jmp(scope + "committed")
        self._stub_parent(scope)
        asm.label(scope + "committed")

    def _save(self) -> None:
        self.asm.push("ax")
        self.asm.push("dx")
        self._preempt_off()

    def _restore(self, then: int | None = None) -> None:
        asm = self.asm
        self._preempt_on()
        asm.pop("dx")
        asm.pop("ax")
        if then is None:
            asm.ret()
        else:
            asm.jmp(then)

    def _preempt_off(self) -> None:
        if self.place.offsets.preempt_count is not None:
            self.asm.incl(gs(self.place.offsets.preempt_count))

    def _preempt_on(self) -> None:
        if self.place.offsets.preempt_count is not None:
            self.asm.decl(gs(self.place.offsets.preempt_count))

    # Take room for a record: r11.
    def _reserve(self, scope: str) -> None:
        asm, zone = self.asm, self.place.zone
        asm.label(scope + "reserve")
        self._find_ring()
        asm.movl_imm("ax", self.form.size_bytes)
        asm.xadd(self._ring_word(RingWord.HEAD), "ax")
        asm.label(scope + "check")
        asm.cmp("ax", self._ring_word(RingWord.LIMIT))
        asm.jcc("a", scope + "full")
        asm.andl_imm("ax", zone.ring_bytes - 1)
        if zone.rings == 1:
            asm.lea("r11", at("ax", zone.ring(0) - _SIGN))
        else:
            asm.mov("r11", self._ring_word(RingWord.RING))
            asm.add("r11", "ax")

    # With several rings: in dx, how far the words of this CPU's ring are behind those of the first one.
    def _find_ring(self) -> None:
        if self.place.zone.rings > 1:
            assert self.place.cpu_number is not None
            self.asm.movl("dx", gs(self.place.cpu_number))
            self.asm.shl_imm("dx", RING_WORDS_BYTES.bit_length() - 1)

    def _ring_word(self, word: RingWord) -> Mem:
        addr = self.place.zone.ring_words(0) + word
        return rip(addr) if self.place.zone.rings == 1 else at("dx", addr - _SIGN)

    # Of what was taken at ax nothing can be written. Give it back. Who interrupts us gives his own back before, or has
    # written there, behind us.
    def _full(self, scope: str, lost: str) -> None:
        asm = self.asm
        asm.label(scope + "full")
        asm.mov("r11", "ax")
        asm.add_imm("ax", self.form.size_bytes)
        asm.cmpxchg(self._ring_word(RingWord.HEAD), "r11")
        asm.mov("ax", "r11")
        asm.jcc("ne", scope + "check")
        if self.block:
            self._wait_for_room(scope, lost)
        else:
            asm.jmp(lost)

    def _wait_for_room(self, scope: str, lost: str) -> None:
        asm, zone = self.asm, self.place.zone
        asm.cmpl_imm(rip(zone.word(Zone.HOST_AWAY)), 0)
        asm.jcc("ne", lost)
        self._now()
        asm.add("ax", rip(zone.word(Zone.BOUND_TSC)))
        asm.mov("r11", "ax")
        asm.cmpl_imm(rip(zone.word(Zone.HOST_SLEEPS)), 0)
        asm.jcc("e", scope + "wait")
        asm.out_al(DOORBELL_PORT)
        asm.label(scope + "wait")
        asm.pause()
        self._find_ring()
        asm.mov("ax", self._ring_word(RingWord.HEAD))
        asm.cmp("ax", self._ring_word(RingWord.LIMIT))
        asm.jcc("be", scope + "reserve")
        self._now()
        asm.cmp("ax", "r11")
        asm.jcc("b", scope + "wait")
        asm.movl_imm(rip(zone.word(Zone.HOST_AWAY)), 1)
        asm.jmp(lost)

    # The counter into ax; clobbers dx.
    def _now(self) -> None:
        asm = self.asm
        asm.rdtsc()
        asm.shl_imm("dx", 32)
        asm.or_("ax", "dx")

    def _tsc(self, node: str | None = None) -> None:
        self._now()
        self.asm.mov(at("r11", RecordField.TSC), "ax")
        if node:
            self.asm.mov(at(node, NodeWord.ENTERED), "ax")

    def _task(self, node: str | None = None) -> None:
        asm, task, names = self.asm, self.place.offsets.current_task, self.form.names
        if task is None:
            asm.xorl("dx", "dx")
        else:
            asm.mov("dx", gs(task))
        asm.mov(at("r11", RecordField.TASK), "dx")
        if node:
            asm.mov(at(node, NodeWord.TASK), "dx")
        if names is None:
            return
        for word in (0, 8):
            asm.mov("ax", at("dx", names.comm + word))
            asm.mov(at("r11", self.form.names_at + word), "ax")
        asm.movl("ax", at("dx", names.pid))
        asm.mov(at("r11", self.form.names_at + COMM_BYTES), "ax")
        if names.flags is not None:
            emit_flags(asm, names.flags, self.place.offsets.preempt_count, "r11", self.form.names_at + COMM_BYTES)

    # ax is a return address. Kernel text is in front of the zone; what is behind its beginning may be a stub.
    def _parent(self, scope: str) -> None:
        asm = self.asm
        asm.cmp_imm("ax", self.place.zone.code - _SIGN)
        asm.jcc("ae", scope + "stub_parent")
        asm.label(scope + "real_parent")
        asm.mov(at("r11", RecordField.RET_IP), "ax")

    def _stub_parent(self, scope: str) -> None:
        asm = self.asm
        asm.label(scope + "stub_parent")
        look_through(asm, self.place.zone, "ax", "dx", scope + "real_parent")
        asm.jmp(scope + "stub_parent")

    def _arguments(self) -> None:
        if not self.form.args:
            return
        asm = self.asm
        for number, name in enumerate(ARGUMENT_REGISTERS):
            if name == "dx":
                asm.mov("ax", at("sp"))
                name = "ax"
            asm.mov(at("r11", self.form.args_at + 8 * number), name)

    # The record's first word, into ax.
    def _word(self, kind: RecordKind) -> None:
        asm = self.asm
        asm.mov("ax", at("sp", BEHIND))
        asm.shl_imm("ax", IP_SHIFT)
        asm.add_imm("ax", record_bits(kind, self.probe))

    def _commit(self) -> None:
        self.asm.mov(at("r11", RecordField.WORD), "ax")

    # Take a node of this probe: r10.
    def _take_node(self) -> None:
        asm = self.asm
        asm.mov("ax", rip(self._probe_word(ProbeWord.FREE)))
        asm.label("next_node")
        # The zone is in the upper 2 GiB. To subtract such an address takes off its lower half, and adds 1 to the upper.
        asm.movslq("r10", "ax")
        asm.cmp_imm("r10", 0)
        asm.jcc("e", "no_node")
        asm.mov("dx", "ax")
        asm.sub("dx", "r10")
        asm.add("dx", at("r10", NodeWord.NEXT))
        asm.lock_cmpxchg(rip(self._probe_word(ProbeWord.FREE)), "dx")
        asm.jcc("ne", "next_node")

    # Put a node on a stack of free ones. Clobbers ax, `link` and `head`.
    def _push_node(self, scope: str, node: str, pool: Mem, link: str, head: str) -> None:
        asm = self.asm
        asm.mov("ax", pool)
        asm.label(scope + "push")
        asm.movl(link, "ax")
        asm.mov(at(node, NodeWord.NEXT), link)
        asm.mov(head, "ax")
        asm.sub(head, link)
        asm.movl(link, node)
        asm.add(head, link)
        asm.lock_cmpxchg(pool, head)
        asm.jcc("ne", scope + "push")

    # Fill the node, and leave its stub in the return slot.
    def _hook(self) -> None:
        asm = self.asm
        asm.mov(at("r10", NodeWord.WORD), "ax")
        asm.mov("dx", at("r10", NodeWord.STUB))
        asm.mov(at("sp", _RETURN_SLOT), "dx")

    # By function if it has a counter, else by probe; in one place only, so that the sum is right at any moment.
    # Clobbers ax, dx.
    def _count_lost(self, *, at_exit: bool = False) -> None:
        asm, zone = self.asm, self.place.zone
        if not (self.by_function and zone.losses_bytes):
            asm.lock_inc(rip(self._probe_word(ProbeWord.LOST)))
            return
        scope = f"lost{asm.here:x}."
        if at_exit:
            asm.mov("ax", at("di", NodeWord.WORD))
            asm.sar_imm("ax", IP_SHIFT)
        else:
            asm.mov("ax", at("sp", BEHIND))
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
        asm.lock_inc(rip(self._probe_word(ProbeWord.LOST)))
        asm.label(scope + "counted")

    # Clobbers ax, cx, dx, r10, r11.
    def _free_nodes(self) -> None:
        asm, zone, task = self.asm, self.place.zone, self.place.offsets.current_task
        if task is None:
            return
        asm.lea("r10", rip(zone.node(HOST_NODES)))
        asm.jmp("dead.nodes")
        asm.label("dead.node")
        asm.cmp("dx", at("r10", NodeWord.TASK))
        asm.jcc("ne", "dead.next")
        asm.mov_imm(at("r10", NodeWord.TASK), 0)
        asm.mov("r11", at("r10", NodeWord.POOL))
        asm.lock_inc(at("r11", ProbeWord.UNSEEN - ProbeWord.FREE))
        self._push_node("dead.", "r10", at("r11"), "cx", "dx")
        asm.label("dead.next")
        asm.add_imm("r10", NODE_BYTES)
        asm.label("dead.nodes")
        asm.mov("dx", gs(task))
        asm.cmp("r10", rip(zone.word(Zone.NODES_END)))
        asm.jcc("b", "dead.node")

    def _probe_word(self, word: ProbeWord) -> int:
        return self.place.zone.probe(self.probe) + word
