"""What pads fetch for records: text and numbers of any memory, and nothing else is changed by that."""

from __future__ import annotations

import random
from itertools import count

import pytest
from unicorn import x86_const as x86

from fprobe_gdb.dispatch.trampoline.pad_expr import (
    ALWAYS,
    Asked,
    Compute,
    Entered,
    Frame,
    Imm,
    Kept,
    Left,
    OrZero,
    Peek,
)
from fprobe_gdb.dispatch.trampoline.payload import Items, Number, Payload, Text, Value
from fprobe_gdb.dispatch.trampoline.peek_code import SIZES
from fprobe_gdb.dispatch.trampoline.record_format import RecordKind
from fprobe_gdb.registers import GENERAL_REGISTERS
from tests.unit.dispatch.record_machine import CALLER, DATA, FUNCTION, STACK_TOP, TASK_DEAD, RecordMachine
from tests.unit.dispatch.test_peek_code import LOW_BYTES, STACK, Guest
from tests.unit.dispatch.test_record_pads import FREE_AT_ENTRY, KEPT_AT_RETURN, NAMES

TO, FLAGS = STACK + 256, STACK + 1024
DIRECT_MAP = 0xFFFF888000000000

NAME, WORD = 0x100, 0x0123456789ABCDEF
PAGE = WORD.to_bytes(8, "little").ljust(NAME, b"\x11") + b"a name\0and more"
PAGE = PAGE.ljust(4096 - 4, b"\x22") + bytes([1, 2, 3, 4])
BAD = Imm(16)


def written(guest: Guest, size_bytes: int) -> bytes:
    return bytes(guest.uc.mem_read(TO, size_bytes))


@pytest.mark.parametrize("direct_map", [0, DIRECT_MAP], ids=["page tables", "direct map"])
def test_text_is_copied_up_to_its_end(direct_map: int) -> None:
    chance = random.Random(3)
    found = {"end": 0, "room": 0, None: 0}
    for _ in range(60):
        guest = Guest(chance, direct_map)
        for _ in range(40):
            addr, limit = guest.address(chance), 8 * chance.randrange(1, 64)
            if direct_map and chance.random() < 0.5:
                addr = DIRECT_MAP + chance.randrange(LOW_BYTES)
            guest.uc.mem_write(TO, b"\xee" * 768)
            expected, how = b"", "room"
            while len(expected) < limit:
                at = addr + len(expected)
                if direct_map and 0 <= at - DIRECT_MAP < LOW_BYTES:
                    one: bytes | None = guest.ram.read_physical(at - DIRECT_MAP, 1)
                else:
                    one = guest.read(at, 1)
                if one is None or one == b"\0":
                    how = "end" if one else None
                    break
                expected += one
            result = guest.call(guest.peeks.text, addr, limit, TO)
            found[how] += 1
            assert (result is None) is (how is None), hex(addr)
            if how == "end":
                assert written(guest, limit).partition(b"\0")[:2] == (expected, b"\0")
            elif how == "room":
                assert written(guest, limit) == expected
            # Nothing behind its place is touched.
            assert written(guest, 768)[limit:] == b"\xee" * (768 - limit)
    assert min(found.values()) > 50


@pytest.mark.parametrize("size", SIZES)
def test_numbers_are_copied_as_far_as_they_can_be_read(size: int) -> None:
    chance = random.Random(4)
    some = 0
    for _ in range(40):
        guest = Guest(chance)
        for _ in range(30):
            addr, number = guest.address(chance), chance.randrange(1, 64)
            guest.uc.mem_write(TO, b"\xee" * 768)
            guest.uc.mem_write(FLAGS, bytes(80))
            guest.uc.reg_write(x86.UC_X86_REG_R11, FLAGS)
            guest.call(guest.peeks.items[size], addr, number, TO)
            items = [guest.read(addr + size * at, size) for at in range(number)]
            assert written(guest, 768) == b"".join(item or b"\xee" * size for item in items).ljust(768, b"\xee")
            assert bytes(guest.uc.mem_read(FLAGS, 80)) == bytes(item is None for item in items).ljust(80, b"\0")
            some += 0 < sum(item is None for item in items) < number
    assert some > 10


# Of the entry, and of the return.
AT_ENTRY = Payload(
    (
        Number(Entered("dx")),
        Number(Compute("+", Compute("*", Entered("ax"), Imm(3)), Compute("*", Entered("di"), Imm(5)))),
        Number(Peek(Imm(DATA), 0, 8)),
        Number(Peek(BAD, 0, 8)),
        Text(Imm(DATA + NAME), 64),
        Text(BAD, 64),
        Text(Imm(DATA + 4096 - 4), 16),
        Text(Imm(DATA + NAME), 8),
        Items(Imm(DATA + 4096 - 4), 2, 3),
        Items(Peek(BAD, 0, 8), 1, 4),
        Number(OrZero(Peek(BAD, 0, 8))),
        Number(OrZero(Peek(Imm(DATA), 0, 4))),
        Number(Kept(Frame(), 0, 8)),
        Number(Frame()),
    )
)
LEFT = Payload(
    (Number(Left("ax")), Number(Entered("dx")), Number(Peek(BAD, 8, 4)), Text(Imm(DATA + NAME), 16), Number(Frame()))
)


def at_entry(regs: dict[str, int]) -> list[tuple[Value, ...]]:
    total = (regs["ax"] * 3 + regs["di"] * 5) & (1 << 64) - 1
    return [
        (regs["dx"],), (total,), (WORD,), (None,), (b"a name",), (None,), (None,), (b"a name",), (0x0201, 0x0403, None),
        (None,) * 4, (0,), (WORD & 0xFFFFFFFF,), (CALLER,), (regs["sp"],),
    ]  # fmt: skip


def left(regs: dict[str, int]) -> list[tuple[Value, ...]]:
    return [(regs["ax"],), (regs["dx"],), (None,), (b"a name",), (regs["sp"],)]


@pytest.fixture(params=[1, 4], ids=["one CPU", "four CPUs"])
def machine(request: pytest.FixtureRequest) -> RecordMachine:
    machine = RecordMachine(cpus=request.param)
    machine.open_window(PAGE)
    return machine


@pytest.mark.parametrize("names", [None, NAMES])
@pytest.mark.parametrize("returns", [False, True])
def test_fetched_at_the_entry(machine: RecordMachine, returns: bool, names: object) -> None:
    probe = machine.record(FUNCTION, returns=returns, args=True, names=names, asked=Asked(payload=AT_ENTRY))
    for seed in range(3):
        before = machine.enter(FUNCTION, seed=seed)
        assert machine.run(FUNCTION + 5)
        after = machine.registers()
        assert {name for name in GENERAL_REGISTERS if after[name] != before[name]} <= FREE_AT_ENTRY
        assert machine.run(CALLER)
        assert machine.preempt_count == 0
        entry, *leave = machine.take()
        assert AT_ENTRY.decode(entry.payload) == at_entry(before)
        assert (entry.args[0], entry.comm) == (before["di"], "dd" if names else None)
        assert [(record.kind, record.payload) for record in leave] == [(RecordKind.EXIT, b"")] * returns
    assert probe.hits == 3


def test_fetched_at_the_return(machine: RecordMachine) -> None:
    probe = machine.record(FUNCTION, returns=True, names=NAMES, asked=Asked(at_exit=ALWAYS, payload=LEFT))
    for seed in range(3):
        before = machine.enter(FUNCTION, seed=seed)
        assert machine.run(CALLER)
        after = machine.registers()
        assert {name: after[name] - 8 * (name == "sp") for name in KEPT_AT_RETURN} == {
            name: before[name] for name in KEPT_AT_RETURN
        }
        assert machine.preempt_count == 0
        (record,) = machine.take()
        assert LEFT.decode(record.payload) == left(before)
        assert (record.retval, record.comm, record.pid) == (before["ax"], "dd", 93)
    assert (probe.hits, probe.exits, probe.kept_out, probe.faults) == (3, 3, 0, 0)


def test_missed_calls_and_dying_tasks(machine: RecordMachine) -> None:
    """Of a call without a node nothing is fetched; do_task_dead is a function like others."""
    machine.record(FUNCTION, TASK_DEAD, returns=True, nr_maxactive=1, asked=Asked(payload=AT_ENTRY))
    machine.enter(FUNCTION)
    assert machine.run(FUNCTION + 5)
    machine.enter(FUNCTION, sp=STACK_TOP - 512)
    assert machine.run(FUNCTION + 5)
    before = machine.enter(TASK_DEAD, sp=STACK_TOP - 1024)
    assert machine.run(TASK_DEAD + 5)
    _, missed, dead = machine.take()
    assert (missed.kind, missed.payload) == (RecordKind.MISSED, b"")
    assert AT_ENTRY.decode(dead.payload) == at_entry(before)


@pytest.mark.parametrize("at_return", [False, True], ids=["entry", "return"])
def test_a_hit_inside_of_a_pad_at_each_instruction(at_return: bool) -> None:
    machine = RecordMachine(cpus=2)
    machine.open_window(PAGE)
    payload, expect = (LEFT, left) if at_return else (AT_ENTRY, at_entry)
    asked = Asked(at_exit=ALWAYS if at_return else None, payload=payload)
    machine.record(FUNCTION, returns=at_return, asked=asked)
    for steps in count(1, 5):
        outer = machine.enter(FUNCTION)
        if machine.run(CALLER, count=steps):
            break
        inner_sp = (machine.registers()["sp"] - 256) & ~15
        machine.interrupt(FUNCTION)
        assert machine.run(CALLER)
        assert machine.preempt_count == 0
        resumed, inner = machine.registers(), machine.enter(FUNCTION, sp=inner_sp, seed=7)
        assert {name: resumed[name] - 8 * (name == "sp") for name in KEPT_AT_RETURN} == {
            name: outer[name] for name in KEPT_AT_RETURN
        }
        fetched = sorted(repr(payload.decode(record.payload)) for record in machine.take())
        assert fetched == sorted(repr(expect(regs)) for regs in (outer, inner))
    assert steps > 200
