"""Several recordings of one function: each sees each call, with its own nodes, and all in one order."""

from __future__ import annotations

from itertools import count

import pytest

from fprobe_gdb.dispatch.trampoline.pad_expr import ALWAYS, Asked
from fprobe_gdb.dispatch.trampoline.record_format import Record, record_bits
from fprobe_gdb.dispatch.trampoline.ring import Batch
from fprobe_gdb.registers import GENERAL_REGISTERS
from tests.unit.dispatch.record_machine import CALLER, FUNCTION, OTHER, STACK_TOP, TASK_DEAD, RecordMachine
from tests.unit.dispatch.test_record_pads import FREE_AT_ENTRY, KEPT_AT_RETURN, NAMES, fill


@pytest.fixture(params=[1, 4], ids=["one CPU", "four CPUs"])
def machine(request: pytest.FixtureRequest) -> RecordMachine:
    return RecordMachine(cpus=request.param)


def seen(records: list[Record]) -> list[tuple[str, int, int]]:
    return [(record.kind.name, record.ip, record.ret_ip) for record in records]


def test_the_newest_is_the_first_to_enter_and_the_last_to_leave(machine: RecordMachine) -> None:
    old = machine.record(FUNCTION, returns=True, ordered=True)
    new = machine.record(FUNCTION, returns=True, ordered=True, names=NAMES, by_function=False)
    other = machine.record(FUNCTION, args=True, ordered=True, by_function=False)
    taken: list[tuple[int, bytes]] = []
    for probe in (old, new, other):
        probe.consume = lambda batch: taken.append((batch.probe, batch.kinds))
    before = machine.enter(FUNCTION)
    assert machine.run(FUNCTION + 5)
    after = machine.registers()
    assert {name for name in GENERAL_REGISTERS if after[name] != before[name]} <= FREE_AT_ENTRY
    assert machine.run(CALLER)
    after = machine.registers()
    assert {name: after[name] - 8 * (name == "sp") for name in KEPT_AT_RETURN} == {
        name: before[name] for name in KEPT_AT_RETURN
    }
    machine.stop()
    machine.take()
    assert taken == [
        (other.number, bytes([record_bits(0, other.number)])),
        (new.number, bytes([record_bits(0, new.number)])),
        (old.number, bytes([record_bits(0, old.number), record_bits(1, old.number)])),
        (new.number, bytes([record_bits(1, new.number)])),
    ]
    assert machine.preempt_count == 0
    assert [machine.recorder.pools.take_back(probe.number) for probe in (old, new)] == [True, True]


def test_records_have_the_real_return_address(machine: RecordMachine) -> None:
    for number in range(3):
        machine.record(FUNCTION, returns=True, by_function=False, asked=Asked(at_exit=ALWAYS) if number == 1 else None)
    machine.call(FUNCTION)
    records = machine.take()
    assert {record.ret_ip for record in records} == {CALLER}
    assert [record.kind.name for record in records] == ["ENTRY", "ENTRY", "EXIT", "EXIT", "EXIT"]


def test_each_has_its_own_misses_and_losses(machine: RecordMachine) -> None:
    few = machine.record(FUNCTION, returns=True, nr_maxactive=1)
    many = machine.record(FUNCTION, returns=True, nr_maxactive=4, by_function=False)
    machine.enter(FUNCTION)
    assert machine.run(FUNCTION + 5)
    machine.interrupt(FUNCTION)
    assert machine.run(CALLER)
    machine.take()
    assert [(probe.hits, probe.exits, probe.nmissed) for probe in (few, many)] == [(1, 1, 1), (2, 2, 0)]
    fill(machine)
    machine.call(FUNCTION)
    for probe in (few, many):
        machine.recorder.count_lost(probe)
    assert [(probe.hits, probe.lost, probe.lost_exits) for probe in (few, many)] == [(1, 1, 0), (2, 1, 0)]


def test_tasks_that_die_give_nodes_of_all_back(machine: RecordMachine) -> None:
    """do_task_dead is recorded by two, whose pads there are not those of other functions."""
    probes = [machine.record(FUNCTION, TASK_DEAD, returns=True, by_function=False) for _ in range(2)]
    alone = machine.record(TASK_DEAD)
    machine.enter(FUNCTION)
    assert machine.run(FUNCTION + 5)
    before = machine.enter(TASK_DEAD, sp=STACK_TOP - 512)
    assert machine.run(TASK_DEAD + 5)
    after = machine.registers()
    assert {name for name in GENERAL_REGISTERS if after[name] != before[name]} <= FREE_AT_ENTRY
    assert seen(machine.take()) == [("ENTRY", FUNCTION, CALLER)] * 2 + [("ENTRY", TASK_DEAD, CALLER)] * 3
    assert not list(machine.recorder.pools.in_flight())
    assert [probe.hits for probe in (*probes, alone)] == [2, 2, 1]
    machine.remove(probes[0])
    machine.remove(probes[1])
    machine.enter(TASK_DEAD)
    assert machine.run(TASK_DEAD + 5)
    assert seen(machine.take()) == [("ENTRY", TASK_DEAD, CALLER)]


def test_a_removed_one_leaves_the_others(machine: RecordMachine) -> None:
    probes = [machine.record(FUNCTION, OTHER, returns=True, by_function=False) for _ in range(3)]
    machine.enter(FUNCTION)
    assert machine.run(FUNCTION + 5)
    machine.remove(probes[1])
    machine.interrupt(OTHER)
    assert machine.run(CALLER)
    machine.take()
    assert [(probe.hits, probe.exits) for probe in probes] == [(2, 2), (1, 1), (2, 2)]
    machine.recorder.switch(probes[0], enabled=False)
    machine.plant()
    machine.call(FUNCTION)
    machine.take()
    assert [(probe.hits, probe.exits) for probe in probes] == [(2, 2), (1, 1), (3, 3)]


def test_a_hit_inside_of_pads_at_each_instruction() -> None:
    machine = RecordMachine(cpus=2)
    forms = ({"returns": True}, {"returns": True, "asked": Asked(at_exit=ALWAYS)}, {"args": True})
    probes = [machine.record(FUNCTION, by_function=False, **form) for form in forms]  # type: ignore[arg-type]
    calls = 0
    for steps in count(1, 2):
        outer = machine.enter(FUNCTION)
        if machine.run(CALLER, count=steps):
            calls += 1
            break
        machine.interrupt(FUNCTION)
        assert machine.run(CALLER)
        after = machine.registers()
        assert {name: after[name] - 8 * (name == "sp") for name in KEPT_AT_RETURN} == {
            name: outer[name] for name in KEPT_AT_RETURN
        }
        calls += 2
    records = machine.take()
    assert machine.preempt_count == 0
    assert calls > 200
    assert [(probe.hits, probe.exits) for probe in probes] == [(calls, calls), (calls, calls), (calls, 0)]
    assert {record.ret_ip for record in records} == {CALLER}


def test_a_call_that_is_in_the_pads_when_they_are_removed_is_counted_by_all_or_by_none() -> None:
    machine = RecordMachine(cpus=1)
    for steps in count(1):
        first = machine.record(FUNCTION, by_function=False)
        asked = machine.record(FUNCTION, returns=True, by_function=False, asked=Asked(at_exit=ALWAYS))
        last = machine.record(FUNCTION, returns=True, by_function=False)
        machine.enter(FUNCTION)
        over = machine.run(CALLER, count=steps)
        for probe in (asked, first, last):
            machine.remove(probe)
        assert machine.run(CALLER)
        machine.take()
        for probe in (asked, first, last):
            machine.recorder.count_lost(probe)
            assert probe.hits + probe.nmissed + probe.lost + probe.undecided == 1, (steps, probe)
            assert probe.exits == (0 if probe is first else probe.hits), (steps, probe)
        if over:
            break
    assert steps > 100
    assert machine.preempt_count == 0


def test_batches_of_several_probes_are_of_one_probe_each() -> None:
    machine = RecordMachine(cpus=1)
    batches: list[Batch] = []
    for function in (FUNCTION, OTHER):
        machine.record(function, ordered=True).consume = batches.append
    for function in (FUNCTION, FUNCTION, OTHER, FUNCTION):
        machine.call(function)
    machine.stop()
    machine.take()
    assert [(batch.probe, len(batch.kinds)) for batch in batches] == [(1, 2), (2, 1), (1, 1)]
