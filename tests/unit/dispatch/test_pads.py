"""The pads of call mode, run instruction by instruction: what they save, give back, count, and never touch."""

from __future__ import annotations

import capstone
import pytest

from fprobe_gdb.dispatch.trampoline import pads
from fprobe_gdb.dispatch.trampoline.pads import SLOT_REGISTERS, Field, Kind, NodeField, State
from fprobe_gdb.dispatch.trampoline.slots import Posted
from fprobe_gdb.dispatch.trampoline.zone import NODE_BYTES, SLOT_BYTES, SLOTS, Zone
from tests.unit.dispatch.pad_machine import CALLER, COUNT_AT, FUNCTION, KPROBE_AT, PadMachine

BEHIND = FUNCTION + 5
HELPER = FUNCTION + 0x100


def go_on(machine: PadMachine, posted: Posted) -> None:
    machine.slots.answer(posted.slot, posted.use)


def never(machine: PadMachine, posted: Posted) -> None:
    raise AssertionError("nobody is there to ask")


@pytest.mark.parametrize("seed", range(8))
def test_everything_is_given_back(seed: int) -> None:
    machine = PadMachine(go_on)
    before = machine.scramble(seed)
    machine.run(FUNCTION, BEHIND)
    assert machine.registers() == before | {"ip": BEHIND}
    assert machine.stack_word(before["sp"]) == CALLER
    assert machine.slots.next_posted() is None
    assert not any(machine.ram.read_physical(machine.zone.physical_of(machine.zone.data), SLOTS))


def test_what_a_hit_tells() -> None:
    machine = PadMachine(go_on)
    machine.percpu(KPROBE_AT, 0xFFFF888001234560)
    before = machine.scramble(1)
    machine.run(FUNCTION, BEHIND)
    (posted,) = machine.posted
    assert (posted.kind, posted.ip, posted.sp, posted.ret_ip) == (Kind.ENTRY, FUNCTION, before["sp"], CALLER)
    assert {name: posted.registers[name] for name in SLOT_REGISTERS} == {name: before[name] for name in SLOT_REGISTERS}
    assert posted.registers["flags"] & 0xCD5 == before["flags"] & 0xCD5
    assert (posted.task, posted.cpu, posted.kprobe) == (0xFFFF888005378000, 1, 0xFFFF888001234560)
    # As the function found it; but off while the handler runs.
    assert posted.preempt_count == 0x80000001


def test_preemption_is_off_while_the_host_is_asked() -> None:
    counts = []

    def answer(machine: PadMachine, posted: Posted) -> None:
        counts.append(machine.percpu(COUNT_AT))
        machine.slots.answer(posted.slot, posted.use)

    machine = PadMachine(answer)
    machine.scramble(1)
    machine.run(FUNCTION, BEHIND)
    assert counts == [0x80000002]
    assert machine.percpu(COUNT_AT) == 0x80000001


@pytest.mark.parametrize("name", [*SLOT_REGISTERS, "flags"])
def test_a_register_that_the_host_writes(name: str) -> None:
    value = 0x247 if name == "flags" else 0x1122334455667788

    def answer(machine: PadMachine, posted: Posted) -> None:
        machine.slots.answer(posted.slot, posted.use, writes={name: value})

    machine = PadMachine(answer)
    before = machine.scramble(2)
    machine.run(FUNCTION, BEHIND)
    assert machine.registers() == before | {"ip": BEHIND, name: value}


def test_a_call_that_is_skipped() -> None:
    """``override_return()``: on at the return address, with the slot popped."""

    def answer(machine: PadMachine, posted: Posted) -> None:
        machine.slots.answer(posted.slot, posted.use, posted.ret_ip, sp=posted.sp + 8, writes={"ax": 42})

    machine = PadMachine(answer)
    before = machine.scramble(3)
    machine.run(FUNCTION, CALLER)
    assert machine.registers() == before | {"ip": CALLER, "ax": 42, "sp": before["sp"] + 8}


def test_a_return_goes_through_its_stub_and_back() -> None:
    stubs = []

    def answer(machine: PadMachine, posted: Posted) -> None:
        if posted.kind == Kind.ENTRY:
            stubs.append(machine.returns.hook(posted.ret_ip, posted.ret_ip, posted.sp, posted.task))
            machine.slots.answer(posted.slot, posted.use, new_ret=stubs[0])
        else:
            call = machine.returns.find(posted.ip - 5)
            assert call is not None
            assert (call.ret_addr, call.frame, posted.sp) == (CALLER, before["sp"], before["sp"] + 8)
            machine.slots.answer(posted.slot, posted.use, writes={"ax": 7})

    machine = PadMachine(answer)
    before = machine.scramble(4)
    machine.run(FUNCTION, BEHIND)
    assert machine.stack_word(before["sp"]) == stubs[0]
    # The text behind the location is RET.
    machine.run(BEHIND, CALLER)
    assert machine.registers() == before | {"ip": CALLER, "ax": 7, "sp": before["sp"] + 8}
    assert [posted.kind for posted in machine.posted] == [Kind.ENTRY, Kind.EXIT]


def test_a_guest_function_that_a_handler_calls() -> None:
    def answer(machine: PadMachine, posted: Posted) -> None:
        if posted.kind == Kind.ENTRY:
            machine.slots.call(posted.slot, posted.use, HELPER, (5, 6))
        else:
            assert machine.percpu(COUNT_AT) == 0x80000002
            machine.slots.answer(posted.slot, posted.use)

    machine = PadMachine(answer)
    # mov eax, edi; add eax, esi; ret
    machine.uc.mem_write(HELPER, bytes.fromhex("89f801f0c3"))
    before = machine.scramble(5)
    machine.run(FUNCTION, BEHIND)
    assert machine.posted[1].kind == Kind.CALLED
    assert machine.posted[1].result == 11
    assert machine.functions[:1] == [HELPER]
    assert machine.registers() == before | {"ip": BEHIND}


def test_a_pad_that_gives_up_behind_a_guest_call_gives_everything_back() -> None:
    def answer(machine: PadMachine, posted: Posted) -> None:
        if posted.kind == Kind.ENTRY:
            machine.slots.call(posted.slot, posted.use, HELPER, (5, 6, 7, 8, 9, 10))

    machine = PadMachine(answer)
    machine.set_word(Zone.BOUND_TSC, 1)
    before = machine.scramble(6)
    machine.run(FUNCTION, BEHIND)
    assert machine.posted[-1].kind == Kind.CALLED
    assert machine.registers() == before | {"ip": BEHIND}
    assert machine.word(Zone.HOST_AWAY) == 1
    # The host has begun with this hit, and counts it.
    assert (machine.lost(), machine.slots.take_left()) == ({}, [])


@pytest.mark.parametrize("sleeps", [0, 1])
def test_the_host_is_woken_only_when_it_sleeps(sleeps: int) -> None:
    machine = PadMachine(go_on)
    machine.set_word(Zone.HOST_SLEEPS, sleeps)
    machine.scramble(6)
    machine.run(FUNCTION, BEHIND)
    assert machine.rings == sleeps


def test_a_host_that_is_away_is_not_asked() -> None:
    machine = PadMachine(never)
    machine.set_word(Zone.HOST_AWAY, 1)
    before = machine.scramble(7)
    machine.run(FUNCTION, BEHIND)
    assert machine.registers() == before | {"ip": BEHIND}
    assert machine.word(Zone.LOST_ENTRIES) == 1
    assert machine.lost() == {FUNCTION: 1}
    # A call in flight returns all the same.
    stub = machine.returns.hook(CALLER, CALLER, before["sp"], 1)
    machine.uc.mem_write(before["sp"], stub.to_bytes(8, "little"))
    machine.run(BEHIND, CALLER)
    assert machine.registers() == before | {"ip": CALLER, "sp": before["sp"] + 8}
    assert machine.word(Zone.LOST_EXITS) == 1
    assert [call.ret_addr for call in machine.returns.take_ended()] == [CALLER]


def test_no_slot_left() -> None:
    machine = PadMachine(never)
    states = machine.ram.offset(machine.zone.physical_of(machine.zone.data))
    machine.ram.view[states : states + SLOTS] = bytes([State.OWNED]) * SLOTS
    before = machine.scramble(8)
    machine.run(FUNCTION, BEHIND)
    assert machine.registers() == before | {"ip": BEHIND}
    assert (machine.word(Zone.LOST_ENTRIES), machine.word(Zone.HOST_AWAY)) == (1, 0)


def unclaimed(machine: PadMachine) -> None:
    """Make it as if nobody had looked at the slots."""
    machine.slots.take = lambda slot: None  # type: ignore[method-assign]
    machine.set_word(Zone.BOUND_TSC, 1)


def test_a_host_that_does_not_answer() -> None:
    """The pad gives up, counts, and all after it do not ask."""
    machine = PadMachine(never)
    unclaimed(machine)
    before = machine.scramble(9)
    machine.run(FUNCTION, BEHIND)
    assert machine.registers() == before | {"ip": BEHIND}
    assert machine.percpu(COUNT_AT) == 0x80000001
    assert (machine.word(Zone.LOST_ENTRIES), machine.word(Zone.HOST_AWAY)) == (1, 1)
    assert machine.lost() == {FUNCTION: 1}
    assert not any(machine.ram.read_physical(machine.zone.physical_of(machine.zone.data), SLOTS))


def test_a_return_that_nobody_takes() -> None:
    machine = PadMachine(never)
    unclaimed(machine)
    before = machine.scramble(10)
    stub = machine.returns.hook(CALLER, CALLER, before["sp"], 1)
    machine.uc.mem_write(before["sp"], stub.to_bytes(8, "little"))
    machine.run(BEHIND, CALLER)
    assert machine.registers() == before | {"ip": CALLER, "sp": before["sp"] + 8}
    assert machine.word(Zone.LOST_EXITS) == 1
    node = machine.zone.physical_of(machine.zone.nodes) + NODE_BYTES * (machine.zone.node_of_stub(stub) or 0)
    assert machine.ram.read_physical(node + NodeField.ENDED, 1) == b"\1"


def test_a_host_that_has_begun_gets_more_time() -> None:
    waits: list[int] = []

    def answer(machine: PadMachine, posted: Posted) -> None:
        until = machine.registers()["r14"]
        if until not in waits:
            waits.append(until)

    machine = PadMachine(answer)
    machine.set_word(Zone.BOUND_TSC, 1)
    before = machine.scramble(11)
    machine.run(FUNCTION, BEHIND)
    assert machine.registers() == before | {"ip": BEHIND}
    assert machine.word(Zone.HOST_AWAY) == 1
    # The host has begun with this hit, and counts it.
    assert (machine.lost(), machine.slots.take_left()) == ({}, [])
    assert len(waits) == pads._PATIENCE


def test_losses_are_counted_by_location() -> None:
    """Also where two locations begin to look in the same cell."""
    machine = PadMachine(never)
    machine.set_word(Zone.HOST_AWAY, 1)
    same_cell = FUNCTION + 16 * Zone.LOST_CELLS
    calls = {FUNCTION: 3, same_cell: 2, FUNCTION + 16: 4}
    for ip in calls:
        machine.plant(ip)
    for ip in (ip for number in range(4) for ip, count in calls.items() if number < count):
        before = machine.scramble(13)
        machine.run(ip, ip + 5)
        assert machine.registers() == before | {"ip": ip + 5}
    assert machine.lost() == calls
    assert machine.word(Zone.LOST_ENTRIES) == sum(calls.values())


def test_a_loss_that_has_no_cell_is_in_the_sum() -> None:
    machine = PadMachine(never)
    machine.set_word(Zone.HOST_AWAY, 1)
    at = machine.zone.physical_of(machine.zone.word(Zone.LOST))
    full = b"\x01\x00\x00\x81\x02\x00\x00\x00" * Zone.LOST_CELLS
    machine.ram.write_physical(at, full)
    before = machine.scramble(14)
    machine.run(FUNCTION, BEHIND)
    assert machine.registers() == before | {"ip": BEHIND}
    assert machine.ram.read_physical(at, len(full)) == full
    assert machine.word(Zone.LOST_ENTRIES) == 1


def test_a_slot_is_not_taken_from_a_pad_that_has_left() -> None:
    machine = PadMachine(never)
    unclaimed(machine)
    machine.scramble(12)
    machine.run(FUNCTION, BEHIND)
    del machine.slots.take  # type: ignore[method-assign]
    assert machine.slots.take(4) is None


def test_slots_that_wait_take_turns_and_those_that_are_answered_do_not_wait() -> None:
    machine = PadMachine(None)
    states = machine.ram.offset(machine.zone.physical_of(machine.zone.data))
    waiting, answered = (0, 7, SLOTS - 1), (3, SLOTS - 2)
    for slot in (*waiting, *answered):
        machine.ram.view[states + slot] = State.POSTED
        words = machine.slots._slots[slot].words
        words[Field.USE // 8], words[Field.ANSWERED // 8] = 5, 5 if slot in answered else 4
    assert [machine.slots.next_posted() for _ in range(6)] == [7, SLOTS - 1, 0] * 2
    assert machine.slots.waiting() == list(waiting)
    machine.ram.view[states + 7] = State.FREE
    for _ in range(3 * SLOTS):
        assert machine.slots.look() in (0, SLOTS - 1)
    machine.ram.view[states] = machine.ram.view[states + SLOTS - 1] = State.FREE
    assert (machine.slots.next_posted(), machine.slots.look()) == (None, None)


def test_a_hit_that_another_one_has_interrupted_comes_first() -> None:
    """Whichever slot the host looks at, and however often."""
    machine = PadMachine(None)
    outer, inner = 4, 5
    states = machine.ram.offset(machine.zone.physical_of(machine.zone.data))
    outer_words, inner_words = (machine.slots._slots[slot].words for slot in (outer, inner))
    for words in (outer_words, inner_words):
        words[Field.USE // 8] = 5
    machine.ram.view[states + inner] = State.POSTED
    assert machine.slots.look() == machine.slots.look() == inner
    machine.ram.view[states + outer] = State.POSTED
    assert {machine.slots.look() for _ in range(3 * SLOTS)} == {outer}
    assert {machine.slots.next_posted() for _ in range(3)} == {outer}
    outer_words[Field.ANSWERED // 8] = 5
    assert {machine.slots.look() for _ in range(3 * SLOTS)} == {inner}


def test_pads_touch_no_fpu_register_and_leave_interrupts_alone() -> None:
    machine = PadMachine(go_on)
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    insns = list(decoder.disasm(machine.pads.code, machine.zone.code))
    assert sum(insn.size for insn in insns) == len(machine.pads.code)
    assert {insn.mnemonic for insn in insns} <= {
        "mov", "lea", "push", "pop", "pushfq", "popfq", "add", "sub", "and", "or", "xor", "cmp", "shl", "shr", "inc",
        "dec", "lock cmpxchg", "lock inc", "lock or", "jmp", "je", "jne", "jb", "jae", "call", "ret", "rdtsc",
        "pause", "out", "test",
    }  # fmt: skip
    assert not [insn for insn in insns if "mm" in insn.op_str or "st(" in insn.op_str]


def test_slots_hold_all_fields() -> None:
    ends = [field + 8 for field in Field] + [Field.REGISTERS + 8 * len(SLOT_REGISTERS)]
    assert max(ends) <= SLOT_BYTES
    assert len(set(Field)) == len(Field)
