"""Recording on several CPUs: a ring for each, room that is given back, and what becomes of the order."""

from __future__ import annotations

import random
from itertools import count

import pytest

from fprobe_gdb.dispatch.trampoline import rings
from fprobe_gdb.dispatch.trampoline.record_format import Record, RecordKind, RingWord
from tests.unit.dispatch.record_machine import CALLER, FUNCTION, OTHER, STACK_TOP, TASK, RecordMachine

ENTRY, EXIT = RecordKind.ENTRY, RecordKind.EXIT


@pytest.fixture
def machine() -> RecordMachine:
    return RecordMachine(zone_mib=6, cpus=3)


def kinds(records: list[Record]) -> list[tuple[RecordKind, int, int]]:
    return [(record.kind, record.ip, record.cpu) for record in records]


def test_a_call_that_returns_on_another_cpu(machine: RecordMachine) -> None:
    probe = machine.record(FUNCTION, returns=True, ordered=True)
    machine.switch(2)
    machine.enter(FUNCTION)
    assert machine.run(FUNCTION + 5)
    machine.switch(0)
    assert machine.run(CALLER)
    machine.stop()
    entry, leave = machine.take()
    assert kinds([entry, leave]) == [(ENTRY, FUNCTION, 2), (EXIT, FUNCTION, 0)]
    assert (leave.node, leave.entered_tsc) == (entry.node, entry.tsc)
    assert machine.recorder.pools.take_back(probe.number)


def stop_when_reserved(machine: RecordMachine, function: int) -> None:
    machine.enter(function, sp=STACK_TOP - 1024)
    before = machine.ring_word(RingWord.HEAD)
    while machine.ring_word(RingWord.HEAD) == before:
        assert not machine.run(function + 5, count=1)


def test_without_order_nobody_waits_for_another_cpu(machine: RecordMachine) -> None:
    machine.record(FUNCTION, OTHER)
    machine.switch(1)
    stop_when_reserved(machine, FUNCTION)
    machine.interrupt(OTHER, cpu=0)
    assert kinds(machine.take()) == [(ENTRY, OTHER, 0)]
    assert machine.run(FUNCTION + 5)
    assert kinds(machine.take()) == [(ENTRY, FUNCTION, 1)]


@pytest.mark.parametrize("patient", [False, True])
def test_with_order_all_wait_for_a_cpu_but_not_for_ever(
    machine: RecordMachine, monkeypatch: pytest.MonkeyPatch, patient: bool
) -> None:
    now_ns = count(1_000_000_000, 0 if patient else 200_000_000)
    monkeypatch.setattr(rings.time, "monotonic_ns", lambda: next(now_ns))
    machine.record(FUNCTION, OTHER, ordered=True)
    machine.switch(1)
    stop_when_reserved(machine, FUNCTION)
    for _ in range(2):
        machine.interrupt(OTHER, cpu=0)
    seen = [record for _ in range(8) for record in machine.take()]
    assert kinds(seen) == ([] if patient else [(ENTRY, OTHER, 0)] * 2)
    assert machine.run(FUNCTION + 5)
    machine.stop()
    seen += machine.take()
    assert sorted(kinds(seen)) == sorted([(ENTRY, OTHER, 0)] * 2 + [(ENTRY, FUNCTION, 1)])
    assert not patient or [record.tsc for record in seen] == sorted(record.tsc for record in seen)


@pytest.mark.parametrize("when", ["never", "before the hit", "behind the hit"])
@pytest.mark.parametrize("returns", [False, True])
def test_room_that_is_given_back(when: str, returns: bool) -> None:
    """A hit that finds the ring full, and another one at each of its instructions, for which there may be room."""
    machine = RecordMachine(zone_mib=6, cpus=100)
    probe = machine.record(FUNCTION, OTHER, returns=returns)
    calls = 0

    def fill() -> None:
        nonlocal calls
        while machine.ring_word(RingWord.HEAD) <= machine.ring_word(RingWord.LIMIT):
            machine.call(OTHER)
            calls += 1

    def make_room() -> None:
        for _ in range(2):
            machine.recorder.drain(1)

    for instructions in count(1):
        fill()
        machine.enter(FUNCTION)
        calls += 1
        if machine.run(CALLER, count=instructions):
            break
        if when == "before the hit":
            make_room()
        machine.interrupt(OTHER)
        calls += 1
        if when == "behind the hit":
            make_room()
        assert machine.run(CALLER)
        # What was not given back and not written would wait here for ever.
        assert machine.preempt_count == 0
    while machine.recorder.waiting:
        assert machine.take()
    machine.recorder.count_lost(probe)
    assert probe.hits + probe.lost == calls
    assert probe.exits + probe.lost_exits == (probe.hits if returns else 0)
    assert probe.lost > 0
    assert probe.nmissed == 0
    assert not list(machine.recorder.pools.in_flight())


@pytest.mark.parametrize("seed", range(12))
def test_any_schedule(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPUs in the middle of pads at the same time, interrupted anywhere: by counter values, a node is used by one call
    after the other; nothing is lost, and nothing waits for ever."""
    # Order is kept as long as there is patience, of which a busy host may have too little.
    monkeypatch.setattr(rings.time, "monotonic_ns", lambda: 0)
    chance = random.Random(seed)
    machine = RecordMachine(cpus=3)
    probe = machine.record(FUNCTION, OTHER, returns=True, args=bool(seed & 1), ordered=True, nr_maxactive=6)
    records: list[Record] = []
    calls = 0
    under_way: dict[int, object] = {}
    while calls < 60 or under_way:
        cpu = chance.randrange(3)
        if cpu in under_way:
            machine.uc.context_restore(under_way.pop(cpu))
            machine.switch(cpu)
        elif calls < 60:
            machine.switch(cpu)
            machine.set_task(TASK + 0x100 * chance.randrange(3))
            machine.enter(chance.choice((FUNCTION, OTHER)), sp=STACK_TOP - 0x600 * cpu, seed=chance.getrandbits(32))
            calls += 1
        else:
            continue
        if machine.run(CALLER, count=chance.randrange(1, 60)):
            continue
        if chance.random() < 0.4:
            machine.interrupt(chance.choice((FUNCTION, OTHER)))
            calls += 1
        if chance.random() < 0.3:
            records += machine.take()
        under_way[cpu] = machine.uc.context_save()
    machine.stop()
    records += machine.take()
    assert [record.tsc for record in records] == sorted(record.tsc for record in records)
    entered: dict[int, Record] = {}
    for record in records:
        if record.kind is ENTRY:
            assert record.node not in entered
            entered[record.node] = record
        else:
            entry = entered.pop(record.node)
            assert (entry.ip, entry.tsc, entry.ret_ip) == (record.ip, record.entered_tsc, record.ret_ip)
    assert not entered
    assert (probe.hits, probe.exits, probe.nmissed, probe.lost) == (calls, calls, 0, 0)
    assert machine.preempt_count == 0
