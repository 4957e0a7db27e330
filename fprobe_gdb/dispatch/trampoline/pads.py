"""The pads of call mode: machine code that hands a hit to the host and waits for its answer. Pure.

A pad is reached by ``call pad`` in place of a function's fentry NOP, or by the stub of a node in place of a return
address. It takes a slot, puts all registers there, posts the slot, and waits. The host answers with registers, with
where to go on, and with a return address to leave on the stack.

What ftrace keeps, a pad keeps: interrupts stay as they are; preemption is off while the host is asked; no FPU register
is touched; and it may be interrupted at each instruction by another hit, which takes another slot. It holds no lock.

The guest outlives the host. A pad that has waited for :attr:`~.zone.Zone.BOUND_TSC` takes its slot back, counts the
call as lost and lets it through, and so do all after it, until the host is back and clears ``HOST_AWAY``.

The host may stand still between any two of its accesses, for as long as it likes, while the slot passes on to other
hits. So each word is written by one side only, and what the host writes has to do with one hit alone, whose number it
says: the number of this use of the slot.

- ``TAKEN`` is the host's: it has begun with this hit, and is the one that counts it. A pad that wants to give up writes
  the state ``LEAVING``, and then reads that; the host writes it, and then reads the state (Dekker).
- ``ANSWERED`` is the host's: what the pad is to do is complete. Where that is more than to go on, it is in words of the
  host's own, and ``CHANGED`` is this use of the slot.
- ``LEFT`` is the pad's: it has waited for a host that had begun (it was stopped, or its handler takes for ever), and
  looks a last time whether there is an answer. Where there is none it writes ``GONE``. So it is the pad who decides: a
  host that answers just then waits for its word.

A processor may hold back what it has written until it has read something else. A pad that is about to decide has time:
it gives the host's some (:data:`_SETTLE`), so that the host, of which each microsecond counts, needs no fence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from fprobe_gdb.dispatch.cpu_state import PerCpuOffsets
from fprobe_gdb.dispatch.trampoline.assembler import Asm, Mem, at, gs, rip
from fprobe_gdb.dispatch.trampoline.record_format import FENTRY_BYTES
from fprobe_gdb.dispatch.trampoline.stub_code import NODES_BY_STUBS_SHIFT
from fprobe_gdb.dispatch.trampoline.zone import MAX_NODES, SLOT_BYTES, SLOTS, STUB_BYTES, Zone
from fprobe_gdb.registers import ARGUMENT_REGISTERS

__all__ = [
    "DOORBELL_PORT",
    "SLOTS_OF_CPU",
    "SLOT_REGISTERS",
    "CallPads",
    "Change",
    "Field",
    "Kind",
    "NodeField",
    "State",
    "call_pads",
]

#: The port that wakes the host: QEMU's isa-debugcon.
DOORBELL_PORT = 0xE9
#: A CPU's pads begin with the slots of its own: one for each context that can interrupt another.
SLOTS_OF_CPU = 4


class State(IntEnum):
    """A slot's state, one byte, written by pads alone."""

    FREE = 0
    #: A pad is filling it, or has seen its answer.
    OWNED = 1
    #: The host's turn, unless it has answered.
    POSTED = 2
    #: The pad wants to give up and looks whether the host has begun, or has answered.
    LEAVING = 3


class Kind(IntEnum):
    """What a posted slot is about."""

    ENTRY = 1
    EXIT = 2
    #: A guest function that the host asked for has come back.
    CALLED = 3


class Change(IntEnum):
    """What the host asks for, bits."""

    #: Leave :attr:`Field.NEW_RET` in the return slot.
    RETURN = 1
    #: Go on at :attr:`Field.TO`, with :attr:`Field.NEW_FRAME`.
    REGISTERS = 2
    #: Call :attr:`Field.FUNCTION`, and post the slot again.
    CALL = 4


class Field(IntEnum):
    """Offsets in a slot, in bytes; 64-bit words."""

    # The pad's. What few hits need:
    TSC = 0x00
    KPROBE = 0x08
    CR3 = 0x10
    CPU = 0x18
    RESULT = 0x20
    #: The USE word of the last hit that left a host that had begun, unless it found an answer then.
    LEFT = 0x28
    # What the host wants of every hit, in one piece; the stack pointer and what follows are also what regs are made of.
    #: Counts the times that the slot was posted. Never 0 then.
    USE = 0x30
    #: A :class:`Kind`.
    KIND = 0x38
    #: Entry: the location. Exit: behind the call in the stub.
    IP = 0x40
    #: Entry: the word at SP.
    RET_IP = 0x48
    TASK = 0x50
    PREEMPT_COUNT = 0x58
    #: The stack pointer when the function was entered, or when it has returned.
    SP = 0x60
    FLAGS = 0x68
    #: :data:`SLOT_REGISTERS`, one word each.
    REGISTERS = 0x70
    # What the host does not take.
    #: Where to go on.
    ON = 0xE8
    #: The USE word of the last hit that left a host that had begun, and found no answer.
    GONE = 0xF0
    #: Of the hit that LEFT says: its location, if it was the entry of a function; else 0.
    LEFT_IP = 0xF8
    # The host's.
    #: The USE word of the hit that it has begun with.
    TAKEN = 0x100
    #: The USE word of the hit that it has answered.
    ANSWERED = 0x108
    #: The USE word of the hit for which CHANGES says what to change; for others it is nothing.
    CHANGED = 0x110
    #: :class:`Change` bits.
    CHANGES = 0x118
    NEW_RET = 0x120
    FUNCTION = 0x128
    #: Six words, by :data:`~fprobe_gdb.registers.ARGUMENT_REGISTERS`.
    ARGUMENTS = 0x130
    TO = 0x160
    #: What SP, FLAGS and REGISTERS shall be.
    NEW_FRAME = 0x168


#: The order of the general registers in a slot.
SLOT_REGISTERS = ("ax", "bx", "cx", "dx", "si", "di", "bp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
assert Field.REGISTERS + 8 * len(SLOT_REGISTERS) == Field.ON
assert Field.ARGUMENTS + 8 * len(ARGUMENT_REGISTERS) == Field.TO
assert Field.NEW_FRAME + Field.ON - Field.SP <= SLOT_BYTES


class NodeField(IntEnum):
    """Offsets in a node, in bytes."""

    RET_ADDR = 0x00
    #: Set by a pad that let the return through without the host.
    ENDED = 0x08
    #: The host's note of where the return slot is, for whoever has to clean up after it; 0 when no call has the node.
    FRAME = 0x10


# On the stack of a pad, from its stack pointer up, behind _save().
_SAVED = ("si", "bx", "dx", "cx", "ax", "flags")
_BELOW = 8 * len(_SAVED)
# How often a pad looks for the answer before it says that it waits. QEMU's TCG leaves its generated code for PAUSE, so
# that other vCPUs of the same thread get their turn (target/i386/tcg/misc_helper.c, 7.2 to 10.0), and comes back
# microseconds later.
_LOOKS = 2000
# How often a pad waits for a host that has begun with its hit.
_PATIENCE = 8
# How often a pad pauses before it reads what decides. What a processor has written others see in a small part of that.
_SETTLE = 64
# For so many cells a pad looks for the one of its location.
_LOST_LOOKS = 1024


@dataclass(frozen=True, slots=True)
class CallPads:
    """Code, from :attr:`Zone.code` on, and where its parts begin."""

    code: bytes
    #: What a planted location calls.
    entry: int
    #: What the stub of each node calls.
    exit: int

    def stubs(self, zone: Zone) -> bytes:
        """The stubs of all nodes, from :attr:`Zone.stubs` on."""
        made = bytearray()
        for node in range(MAX_NODES):
            stub = Asm(zone.stub(node))
            stub.call(self.exit)
            made += stub.finish().ljust(STUB_BYTES, b"\xcc")
        return bytes(made)


def call_pads(zone: Zone, offsets: PerCpuOffsets, cpu_number: int | None) -> CallPads:
    """Assemble the pads.

    :param offsets: where the guest's per-CPU variables are.
    :param cpu_number: the same for the number of the CPU; None on a kernel for one CPU.
    """
    asm = Asm(zone.code)
    pad = _Pad(asm, zone, offsets, cpu_number)
    asm.label("entry")
    pad.emit("entry.", Kind.ENTRY)
    asm.label("exit")
    pad.emit("exit.", Kind.EXIT)
    code = asm.finish()
    return CallPads(code, asm.address_of("entry"), asm.address_of("exit"))


@dataclass(slots=True)
class _Pad:
    asm: Asm
    zone: Zone
    offsets: PerCpuOffsets
    cpu_number: int | None

    # rbx is the use of the slot, r12 the slot, r13 its state, r14 the deadline, r15 the patience left: functions that
    # are called keep these.
    def emit(self, scope: str, kind: Kind) -> None:
        asm = self.asm
        self._save()
        self._take_slot(scope)
        self._fill(kind)
        self._preempt_count(asm.incl)
        asm.label(scope + "post")
        self._post_and_wait(scope, kind)
        asm.label(scope + "answered")
        asm.movb_imm(at("r13"), State.OWNED)
        asm.cmp("bx", at("r12", Field.CHANGED))
        asm.jcc("e", scope + "change")
        asm.label(scope + "leave")
        self._preempt_count(asm.decl)
        self._leave()
        asm.label(scope + "change")
        self._change(scope)
        asm.jmp(scope + "leave")
        asm.label(scope + "call")
        self._call()
        asm.jmp(scope + "post")
        asm.label(scope + "give_up")
        # Behind a function that the host has called this hit is the host's to count.
        asm.cmpl_imm(at("r12", Field.KIND), Kind.CALLED)
        asm.jcc("e", scope + "gone")
        if kind is Kind.ENTRY:
            asm.mov("ax", at("r12", Field.IP))
            self._count_lost_entry()
        else:
            self._end_call(at("r12", Field.IP))
        asm.label(scope + "gone")
        asm.movl_imm(rip(self.zone.word(Zone.HOST_AWAY)), 1)
        asm.jmp(scope + "leave")
        asm.label(scope + "skip")
        self._skip(kind)

    def _save(self) -> None:
        self.asm.pushfq()
        for name in reversed(_SAVED[:-1]):
            self.asm.push(name)

    # Find a free slot, beginning with those of this CPU; `cx` is its number.
    def _take_slot(self, scope: str) -> None:
        asm, zone = self.asm, self.zone
        asm.cmpl_imm(rip(zone.word(Zone.HOST_AWAY)), 0)
        asm.jcc("ne", scope + "skip")
        if self.cpu_number is None:
            asm.xorl("cx", "cx")
        else:
            asm.movl("cx", gs(self.cpu_number))
            asm.shl_imm("cx", SLOTS_OF_CPU.bit_length() - 1)
            asm.andl_imm("cx", SLOTS - 1)
        asm.movl_imm("si", SLOTS)
        asm.movl_imm("bx", State.OWNED)
        asm.lea("dx", rip(zone.word(Zone.STATES)))
        asm.label(scope + "next_slot")
        asm.xorl("ax", "ax")
        asm.lock_cmpxchgb(at("dx", 0, "cx"), "bx")
        asm.jcc("e", scope + "got_slot")
        asm.incl("cx")
        asm.andl_imm("cx", SLOTS - 1)
        asm.decl("si")
        asm.jcc("ne", scope + "next_slot")
        asm.jmp(scope + "skip")
        asm.label(scope + "got_slot")
        asm.lea("si", at("dx", 0, "cx"))
        asm.shl_imm("cx", SLOT_BYTES.bit_length() - 1)
        asm.lea("dx", rip(zone.slots))
        asm.add("dx", "cx")

    # `dx` is the slot and `si` its state. Everything that the function or its caller had in registers goes there.
    def _fill(self, kind: Kind) -> None:
        asm = self.asm
        for name in SLOT_REGISTERS:
            if name not in _SAVED:
                asm.mov(at("dx", _register(name)), name)
        asm.mov("r12", "dx")
        asm.mov("r13", "si")
        for index, name in enumerate(_SAVED):
            asm.mov("ax", at("sp", 8 * index))
            asm.mov(at("r12", Field.FLAGS if name == "flags" else _register(name)), "ax")
        asm.mov_imm(at("r12", Field.KIND), kind)
        asm.lea("ax", at("sp", _BELOW + 8))
        asm.mov(at("r12", Field.SP), "ax")
        asm.mov("ax", at("sp", _BELOW))
        if kind is Kind.ENTRY:
            asm.mov(at("r12", Field.ON), "ax")
            asm.sub_imm("ax", FENTRY_BYTES)
            asm.mov(at("r12", Field.IP), "ax")
            asm.mov("ax", at("sp", _BELOW + 8))
            asm.mov(at("r12", Field.RET_IP), "ax")
        else:
            asm.mov(at("r12", Field.IP), "ax")
            self._find_node("cx", at("r12", Field.IP))
            asm.mov("ax", at("cx", NodeField.RET_ADDR))
            asm.mov(at("r12", Field.ON), "ax")
        self._note_cpu()
        for field, offset in ((Field.TASK, self.offsets.current_task), (Field.KPROBE, self.offsets.current_kprobe)):
            if offset is None:
                asm.xorl("ax", "ax")
            else:
                asm.mov("ax", gs(offset))
            asm.mov(at("r12", field), "ax")
        if self.offsets.preempt_count is None:
            asm.xorl("ax", "ax")
        else:
            asm.movl("ax", gs(self.offsets.preempt_count))
        asm.mov(at("r12", Field.PREEMPT_COUNT), "ax")

    # Put the address of a node into a register, given the return address that its stub's call has pushed.
    def _find_node(self, register: str, pushed: Mem) -> None:
        asm, zone = self.asm, self.zone
        asm.mov(register, pushed)
        asm.lea("ax", rip(zone.stubs + FENTRY_BYTES))
        asm.sub(register, "ax")
        asm.shl_imm(register, NODES_BY_STUBS_SHIFT)
        asm.lea("ax", rip(zone.nodes))
        asm.add(register, "ax")

    # What changes where a task sleeps in a function that the host called.
    def _note_cpu(self) -> None:
        asm = self.asm
        if self.cpu_number is None:
            asm.xorl("ax", "ax")
        else:
            asm.movl("ax", gs(self.cpu_number))
        asm.mov(at("r12", Field.CPU), "ax")
        asm.mov_from_cr3("ax")
        asm.mov(at("r12", Field.CR3), "ax")

    def _preempt_count(self, change: Callable[[Mem], None]) -> None:
        if self.offsets.preempt_count is not None:
            change(gs(self.offsets.preempt_count))

    def _post_and_wait(self, scope: str, kind: Kind) -> None:
        asm, zone = self.asm, self.zone
        asm.inc(at("r12", Field.USE))
        asm.mov("bx", at("r12", Field.USE))
        self._now()
        asm.mov(at("r12", Field.TSC), "ax")
        asm.movl_imm("r15", _PATIENCE)
        asm.label(scope + "bound")
        asm.add("ax", rip(zone.word(Zone.BOUND_TSC)))
        asm.mov("r14", "ax")
        asm.movb_imm(at("r13"), State.POSTED)
        asm.fence()
        asm.cmpl_imm(rip(zone.word(Zone.HOST_SLEEPS)), 0)
        asm.jcc("e", scope + "wait")
        asm.out_al(DOORBELL_PORT)
        asm.label(scope + "wait")
        asm.movl_imm("cx", _LOOKS)
        asm.label(scope + "look")
        asm.cmp("bx", at("r12", Field.ANSWERED))
        asm.jcc("e", scope + "answered")
        asm.decl("cx")
        asm.jcc("ne", scope + "look")
        asm.pause()
        self._now()
        asm.cmp("ax", "r14")
        asm.jcc("b", scope + "wait")
        # The host may begin just now.
        asm.movb_imm(at("r13"), State.LEAVING)
        self._settle(scope + "leaving")
        asm.cmp("bx", at("r12", Field.ANSWERED))
        asm.jcc("e", scope + "answered")
        asm.cmp("bx", at("r12", Field.TAKEN))
        asm.jcc("ne", scope + "give_up")
        self._now()
        asm.decl("r15")
        asm.jcc("ne", scope + "bound")
        # The host has begun long ago, and may answer just now. The call is its to count.
        if kind is Kind.EXIT:
            # In front of our word: behind it the host may give the node to another call.
            self._find_node("cx", at("r12", Field.IP))
            asm.mov_imm(at("cx", NodeField.ENDED), 1)
        asm.xorl("ax", "ax")
        asm.cmpl_imm(at("r12", Field.KIND), Kind.ENTRY)
        asm.jcc("ne", scope + "counted")
        asm.mov("ax", at("r12", Field.IP))
        asm.label(scope + "counted")
        asm.mov(at("r12", Field.LEFT_IP), "ax")
        asm.mov(at("r12", Field.LEFT), "bx")
        self._settle(scope + "left")
        asm.cmp("bx", at("r12", Field.ANSWERED))
        asm.jcc("e", scope + "answered")
        asm.mov(at("r12", Field.GONE), "bx")
        asm.jmp(scope + "gone")

    # Let the host see what we have written, and ourselves what it has written up to then.
    def _settle(self, scope: str) -> None:
        asm = self.asm
        asm.fence()
        asm.movl_imm("cx", _SETTLE)
        asm.label(scope)
        asm.pause()
        asm.decl("cx")
        asm.jcc("ne", scope)

    # The TSC into ax; clobbers dx.
    def _now(self) -> None:
        asm = self.asm
        asm.rdtsc()
        asm.shl_imm("dx", 32)
        asm.or_("ax", "dx")

    # Give everything back, as the slot has it, below where the stack pointer will be, and free the slot.
    def _leave(self) -> None:
        asm = self.asm
        asm.mov("cx", at("r12", Field.SP))
        popped = [_register(name) for name in ("dx", "cx", "ax")]
        below = (Field.ON, *popped, Field.FLAGS, _register("r12"), _register("r13"))
        for count, field in enumerate(below, 1):
            asm.mov("ax", at("r12", field))
            asm.mov(at("cx", -8 * count), "ax")
        asm.lea("sp", at("cx", -8 * len(below)))
        for name in ("bx", "bp", "si", "di", "r8", "r9", "r10", "r11", "r14", "r15"):
            asm.mov(name, at("r12", _register(name)))
        asm.movb_imm(at("r13"), State.FREE)
        asm.pop("r13")
        asm.pop("r12")
        asm.popfq()
        for name in ("ax", "cx", "dx"):
            asm.pop(name)
        asm.ret()

    # What the host has answered goes to where _leave() takes it from. To "call" where that is asked for.
    def _change(self, scope: str) -> None:
        asm = self.asm
        asm.movl("dx", at("r12", Field.CHANGES))
        asm.testl_imm("dx", Change.CALL)
        asm.jcc("ne", scope + "call")
        asm.testl_imm("dx", Change.RETURN)
        asm.jcc("e", scope + "same_return")
        asm.mov("ax", at("r12", Field.NEW_RET))
        asm.mov(at("sp", _BELOW + 8), "ax")
        asm.label(scope + "same_return")
        asm.testl_imm("dx", Change.REGISTERS)
        asm.jcc("e", scope + "leave")
        asm.mov("ax", at("r12", Field.TO))
        asm.mov(at("r12", Field.ON), "ax")
        for offset in range(0, Field.ON - Field.SP, 8):
            asm.mov("ax", at("r12", Field.NEW_FRAME + offset))
            asm.mov(at("r12", Field.SP + offset), "ax")

    # Run a guest function in the context of the probed one.
    def _call(self) -> None:
        asm = self.asm
        self._preempt_count(asm.decl)
        for number, name in enumerate(ARGUMENT_REGISTERS):
            asm.mov(name, at("r12", Field.ARGUMENTS + 8 * number))
        asm.xorl("ax", "ax")
        asm.call_mem(at("r12", Field.FUNCTION))
        asm.mov(at("r12", Field.RESULT), "ax")
        self._preempt_count(asm.incl)
        self._note_cpu()
        asm.mov_imm(at("r12", Field.KIND), Kind.CALLED)

    # A call of the location in ax: in the cell of the location, which is the first one that has it or is free, and then
    # in the sum. Clobbers ax, bx, cx, dx, si.
    def _count_lost_entry(self) -> None:
        asm, zone = self.asm, self.zone
        scope = f"lost{asm.here:x}."
        asm.movl("si", "ax")
        asm.movl_imm("bx", 1)
        asm.shl_imm("bx", 32)
        asm.or_("si", "bx")
        asm.mov("cx", "ax")
        asm.shr_imm("cx", 1)
        asm.lea("dx", rip(zone.word(Zone.LOST)))
        asm.movl_imm("bx", _LOST_LOOKS)
        asm.label(scope + "look")
        asm.andl_imm("cx", (Zone.LOST_CELLS - 1) * Zone.LOST_CELL_BYTES)
        asm.xorl("ax", "ax")
        asm.lock_cmpxchg(at("dx", 0, "cx"), "si")
        asm.jcc("e", scope + "counted")
        asm.sub("ax", "si")
        asm.cmpl_imm("ax", 0)
        asm.jcc("e", scope + "found")
        asm.add_imm("cx", Zone.LOST_CELL_BYTES)
        asm.decl("bx")
        asm.jcc("ne", scope + "look")
        asm.jmp(scope + "counted")
        asm.label(scope + "found")
        asm.lock_incl(at("dx", 4, "cx"))
        asm.label(scope + "counted")
        asm.lock_inc(rip(zone.word(Zone.LOST_ENTRIES)))

    # A call in flight returns unseen; its node in cx afterwards. Clobbers ax.
    def _end_call(self, pushed: Mem) -> None:
        asm = self.asm
        asm.lock_inc(rip(self.zone.word(Zone.LOST_EXITS)))
        self._find_node("cx", pushed)
        asm.mov_imm(at("cx", NodeField.ENDED), 1)

    # No host, or no slot: count, and let the call through.
    def _skip(self, kind: Kind) -> None:
        asm = self.asm
        if kind is Kind.ENTRY:
            asm.mov("ax", at("sp", _BELOW))
            asm.sub_imm("ax", FENTRY_BYTES)
            self._count_lost_entry()
        else:
            self._end_call(at("sp", _BELOW))
            asm.mov("ax", at("cx", NodeField.RET_ADDR))
            asm.mov(at("sp", _BELOW), "ax")
        for name in _SAVED[:-1]:
            asm.pop(name)
        asm.popfq()
        asm.ret()


def _register(name: str) -> int:
    return Field.REGISTERS + 8 * SLOT_REGISTERS.index(name)
