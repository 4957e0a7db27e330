"""Pads that add up calls: what tables say, what pads leave alone, hits inside of pads, tables that are full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import count

import pytest

from fprobe_gdb.dispatch.trampoline.pad_expr import (
    Asked,
    Caller,
    Compare,
    Compute,
    Cpu,
    Duration,
    Entered,
    Imm,
    Kept,
    Left,
    PadExpr,
    Site,
    Sum,
    Task,
)
from fprobe_gdb.dispatch.trampoline.record_format import RingWord
from fprobe_gdb.dispatch.trampoline.recorder import RecordProbe
from fprobe_gdb.dispatch.trampoline.table_counts import HistogramCounts, KeyCounts
from fprobe_gdb.dispatch.trampoline.tables import HistogramForm, KeyForm
from fprobe_gdb.errors import RecordNoTables
from fprobe_gdb.registers import GENERAL_REGISTERS
from tests.unit.dispatch.record_machine import (
    CALLER,
    FUNCTION,
    OTHER,
    STACK_TOP,
    TASK,
    TASK_DEAD,
    RecordMachine,
)
from tests.unit.dispatch.test_record_asked import seeds, wide
from tests.unit.dispatch.test_record_pads import FREE_AT_ENTRY, KEPT_AT_RETURN

NAME = (Kept(Task(), 0x10, 8), Kept(Task(), 0x18, 8))
DD = int.from_bytes(b"dd", "little")


@pytest.fixture(params=[1, 4], ids=["one CPU", "four CPUs"])
def machine(request: pytest.FixtureRequest) -> RecordMachine:
    return RecordMachine(cpus=request.param)


def figures(machine: RecordMachine, probe: RecordProbe) -> tuple[int, ...]:
    machine.recorder.count_lost(probe)
    return probe.hits, probe.exits, probe.kept_out, probe.faults, probe.nmissed, probe.lost


def keys(probe: RecordProbe, table: int = 0) -> KeyCounts:
    found = probe.counts.sums[table]
    assert isinstance(found, KeyCounts)
    return found


def numbers(probe: RecordProbe, table: int = 0) -> HistogramCounts:
    found = probe.counts.sums[table]
    assert isinstance(found, HistogramCounts)
    return found


def by_key(*words: PadExpr, at_exit: bool = False) -> Asked:
    return Asked(sums=(Sum(0, words, at_exit),))


@pytest.mark.parametrize("returns", [False, True])
def test_calls_are_counted_by_function(machine: RecordMachine, returns: bool) -> None:
    probe = machine.record(FUNCTION, OTHER, returns=returns, tables=())
    for function in (FUNCTION, OTHER, FUNCTION):
        before = machine.enter(function)
        assert machine.run(function + 5)
        after = machine.registers()
        assert {name for name in GENERAL_REGISTERS if after[name] != before[name]} <= FREE_AT_ENTRY
        assert (machine.stack_word(STACK_TOP) == CALLER) is not returns
        assert machine.run(CALLER)
        after = machine.registers()
        assert {name: after[name] - 8 * (name == "sp") for name in KEPT_AT_RETURN} == {
            name: before[name] for name in KEPT_AT_RETURN
        }
        assert machine.preempt_count == 0
    assert machine.take() == []
    assert figures(machine, probe) == (3, 3 * returns, 0, 0, 0, 0)
    rows = {ip: (of.hits, of.exits, of.times.count) for ip, of in probe.counts.functions.items()}
    assert rows == {FUNCTION + 5: (2, 2 * returns, 2 * returns), OTHER + 5: (1, returns, returns)}
    if returns:
        of = probe.counts.functions[FUNCTION + 5].times
        assert 0 < of.least <= of.greatest <= of.total <= 2 * of.greatest


@pytest.mark.parametrize("at_exit", [False, True])
def test_keys_of_all_kinds(machine: RecordMachine, at_exit: bool) -> None:
    key = (Site(), *NAME, Cpu(), Caller(), Entered("di"), Compute("&", Entered("dx"), Imm(1)))
    probe = machine.record(
        FUNCTION, OTHER, returns=at_exit, asked=by_key(*key, at_exit=at_exit), tables=[KeyForm(len(key))]
    )
    expected: Counter[tuple[int, ...]] = Counter()
    for seed in (1, 2, 2, 3):
        for function in (FUNCTION, OTHER):
            before = machine.enter(function, seed=seed)
            machine.run(CALLER)
            expected[function + 5, DD, 0, machine.cpu, CALLER, before["di"], before["dx"] & 1] += 1
    figures(machine, probe)
    assert keys(probe).of == expected
    assert (keys(probe).others, keys(probe).faults) == (0, 0)


@pytest.mark.parametrize("register", ["ax", "dx", "bx"])
def test_what_a_function_leaves(machine: RecordMachine, register: str) -> None:
    probe = machine.record(FUNCTION, returns=True, asked=by_key(Left(register), at_exit=True), tables=[KeyForm(1)])
    before = machine.enter(FUNCTION)
    machine.run(CALLER)
    assert figures(machine, probe) == (1, 1, 0, 0, 0, 0)
    assert keys(probe).of == {(before[register],): 1}


NUMBERS = [0, 1, 2, 3, 4, 1023, 1024, (1 << 31) - 1, 1 << 31, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 4096]


@pytest.mark.parametrize("signed", [False, True])
def test_histograms(machine: RecordMachine, signed: bool) -> None:
    expected: Counter[int] = Counter()
    values = [number - (1 << 64) * (signed and number >> 63) for number in NUMBERS]
    for number in NUMBERS:
        probe = machine.record(
            FUNCTION, asked=Asked(sums=(Sum(0, (Imm(number),), False),)), tables=[HistogramForm(signed)]
        )
        machine.call(FUNCTION)
        figures(machine, probe)
        (bucket,) = numbers(probe).of
        value = values[NUMBERS.index(number)]
        assert bucket == (65 if value < 0 else value.bit_length())
        of = numbers(probe).series
        assert (of.count, of.total, of.least, of.greatest) == (1, value, value, value)
        machine.remove(probe)
        expected[bucket] += 1
    # All in one, on all CPUs.
    probe = machine.record(
        FUNCTION, asked=Asked(sums=(Sum(0, (Entered("di"),), False),)), tables=[HistogramForm(signed)]
    )
    taken = []
    for seed in range(40):
        machine.switch(machine.cpus[seed % len(machine.cpus)])
        value = machine.enter(FUNCTION, seed=seed)["di"]
        machine.run(CALLER)
        taken.append(value - (1 << 64) * (signed and value >> 63))
    figures(machine, probe)
    of = numbers(probe).series
    assert (of.count, of.total, of.least, of.greatest) == (40, sum(taken), min(taken), max(taken))
    assert numbers(probe).of == Counter(65 if value < 0 else value.bit_length() for value in taken)


def test_durations(machine: RecordMachine) -> None:
    asked = Asked(sums=(Sum(0, (Duration(1_000_000),), True),))
    probe = machine.record(FUNCTION, returns=True, asked=asked, tables=[HistogramForm(True)])
    for _ in range(5):
        machine.call(FUNCTION)
    figures(machine, probe)
    of, row = numbers(probe).series, probe.counts.functions[FUNCTION + 5].times
    assert (of.count, of.total, of.least, of.greatest) == (5, row.total, row.least, row.greatest)


@pytest.mark.parametrize("at_exit", [False, True])
def test_a_hit_without_a_value_is_told_apart(machine: RecordMachine, at_exit: bool) -> None:
    value = Compute("/", Imm(6), Compute("&", Entered("di"), Imm(1)))
    asked = Asked(sums=(Sum(0, (value,), at_exit), Sum(1, (Imm(4), value), at_exit), Sum(2, (Site(),), at_exit)))
    tables = [HistogramForm(False), KeyForm(2), KeyForm(1)]
    probe = machine.record(FUNCTION, returns=at_exit, asked=asked, tables=tables)
    for seed in seeds(machine):
        machine.call(FUNCTION, seed=seed)
    assert figures(machine, probe) == (2, 2 * at_exit, 0, 0, 0, 0)
    assert (numbers(probe).of, numbers(probe).faults) == ({3: 1}, 1)
    assert (keys(probe, 1).of, keys(probe, 1).faults) == ({(4, 6): 1}, 1)
    assert (keys(probe, 2).of, keys(probe, 2).faults) == ({(FUNCTION + 5,): 2}, 0)


@pytest.mark.parametrize("decided", [False, True])
def test_only_calls_that_pass_are_added(machine: RecordMachine, decided: bool) -> None:
    question = wide(Entered, "di")
    asked = Asked(
        at_entry=None if decided else question,
        at_exit=question if decided else None,
        sums=(Sum(0, (Entered("di"),), decided),),
    )
    probe = machine.record(FUNCTION, returns=True, asked=asked, tables=[KeyForm(1)])
    odd, even = seeds(machine)
    first = machine.enter(FUNCTION, seed=odd)["di"]
    for seed in (odd, even, odd):
        machine.call(FUNCTION, seed=seed)
    assert figures(machine, probe) == (2, 2, 1, 1, 0, 0)
    assert keys(probe).of == {(first,): 2}
    assert machine.recorder.pools.take_back(probe.number)


def test_calls_without_a_node_are_missed(machine: RecordMachine) -> None:
    asked = by_key(Site())
    probe = machine.record(FUNCTION, OTHER, returns=True, nr_maxactive=1, asked=asked, tables=[KeyForm(1)])
    machine.enter(FUNCTION)
    assert machine.run(FUNCTION + 5)
    machine.interrupt(OTHER)
    assert machine.run(CALLER)
    assert figures(machine, probe) == (1, 1, 0, 0, 1, 0)
    assert {ip: (of.hits, of.missed) for ip, of in probe.counts.functions.items()} == {
        FUNCTION + 5: (1, 0), OTHER + 5: (0, 1)
    }  # fmt: skip
    assert keys(probe).of == {(FUNCTION + 5,): 1}


def test_a_call_that_returns_on_another_cpu() -> None:
    machine = RecordMachine(cpus=3)
    probe = machine.record(FUNCTION, returns=True, asked=by_key(Cpu(), at_exit=True), tables=[KeyForm(1)])
    machine.switch(2)
    machine.enter(FUNCTION)
    assert machine.run(FUNCTION + 5)
    machine.switch(0)
    assert machine.run(CALLER)
    assert figures(machine, probe) == (1, 1, 0, 0, 0, 0)
    assert keys(probe).of == {(0,): 1}


def test_a_table_that_is_full_forgets_nobody() -> None:
    """Of a zone with little room: the keys that are there go on, all others are one."""
    machine = RecordMachine(zone_mib=6, cpus=90)
    machine.switch(1)
    probe = machine.record(FUNCTION, OTHER, asked=by_key(Entered("di")), tables=[KeyForm(1)])
    assert probe.tables is not None
    (table,) = probe.tables.others
    rows, calls = table.rows, Counter[tuple[int, ...]]()  # type: ignore[union-attr]
    assert 16 <= rows < 100
    for seed in (*range(2 * rows), *range(rows // 2)):
        calls[machine.enter(FUNCTION, seed=seed)["di"],] += 1
        machine.run(CALLER)
    assert figures(machine, probe) == (sum(calls.values()), 0, 0, 0, 0, 0)
    found = keys(probe)
    assert len(found.of) == rows
    assert found.of.items() <= calls.items()
    assert sum(found.of.values()) + found.others == sum(calls.values())


def test_without_room_for_tables_nothing_is_counted() -> None:
    """Somebody has it all; what was refused leaves nothing behind."""
    machine = RecordMachine(zone_mib=6, cpus=90)
    first = machine.record(FUNCTION, asked=by_key(Site()), tables=[KeyForm(1)])
    with pytest.raises(RecordNoTables):
        machine.record(OTHER, asked=by_key(Site()), tables=[KeyForm(32)] * 8)
    machine.remove(first)
    again = machine.record(OTHER, asked=by_key(Site()), tables=[KeyForm(1)])
    machine.call(OTHER)
    assert figures(machine, again)[0] == 1


def test_a_table_of_functions_that_is_full() -> None:
    machine = RecordMachine()
    probe = machine.record(FUNCTION, returns=True, tables=())
    # As if there were more functions than rows: this probe thinks that it has one.
    machine.recorder._probes_at[OTHER] = (probe,)
    probe.ips = frozenset((FUNCTION, OTHER))
    machine.plant()
    for function in (FUNCTION, OTHER, OTHER):
        machine.call(function)
    assert figures(machine, probe) == (3, 3, 0, 0, 0, 0)
    assert {ip: of.hits for ip, of in probe.counts.functions.items()} == {FUNCTION + 5: 1}
    assert (probe.counts.others.hits, probe.counts.others.exits, probe.counts.others.times.count) == (2, 2, 2)


@pytest.mark.parametrize("end", ["removed", "disabled"])
def test_who_comes_home_late_is_not_counted(machine: RecordMachine, end: str) -> None:
    probe = machine.record(FUNCTION, returns=True, asked=by_key(Site(), at_exit=True), tables=[KeyForm(1)])
    machine.enter(FUNCTION)
    assert machine.run(FUNCTION + 5)
    if end == "removed":
        machine.remove(probe)
    else:
        machine.recorder.switch(probe, enabled=False)
        machine.plant()
    assert machine.run(CALLER)
    assert figures(machine, probe) == (1, 0, 0, 0, 0, 0)
    assert keys(probe).of == {}
    if end == "disabled":
        machine.recorder.switch(probe, enabled=True)
        machine.plant()
        machine.call(FUNCTION)
        assert figures(machine, probe) == (2, 1, 0, 0, 0, 0)
    assert machine.preempt_count == 0


def test_tables_are_given_again(machine: RecordMachine) -> None:
    """And are empty then."""
    places = set()
    for _ in range(3):
        probe = machine.record(FUNCTION, returns=True, asked=by_key(Site()), tables=[KeyForm(1), HistogramForm(True)])
        machine.call(FUNCTION)
        machine.remove(probe)
        assert figures(machine, probe) == (1, 1, 0, 0, 0, 0)
        places.add(probe.tables)
    assert len(places) == 1


def test_two_probes_have_tables_of_their_own(machine: RecordMachine) -> None:
    probes = [machine.record(ip, asked=by_key(Site()), tables=[KeyForm(1)]) for ip in (FUNCTION, OTHER)]
    for ip in (FUNCTION, OTHER, OTHER):
        machine.call(ip)
    assert [figures(machine, probe)[0] for probe in probes] == [1, 2]
    assert [keys(probe).of for probe in probes] == [{(FUNCTION + 5,): 1}, {(OTHER + 5,): 2}]


def test_a_probe_that_records_beside_one_that_adds_up(machine: RecordMachine) -> None:
    recorded = machine.record(FUNCTION, returns=False)
    added = machine.record(OTHER, returns=True, tables=())
    for ip in (FUNCTION, OTHER):
        machine.call(ip)
    assert [record.ip for record in machine.take()] == [FUNCTION]
    assert (figures(machine, recorded)[:2], figures(machine, added)[:2]) == ((1, 0), (1, 1))


@pytest.mark.parametrize("probed", [False, True])
@pytest.mark.parametrize("decided", [False, True])
def test_a_task_that_dies(machine: RecordMachine, probed: bool, decided: bool) -> None:
    asked = Asked(at_exit=Imm(1) if decided else None, sums=(Sum(0, (Site(), Entered("di")), decided),))
    ips = (FUNCTION, TASK_DEAD) if probed else (FUNCTION,)
    probe = machine.record(*ips, returns=True, asked=asked, tables=[KeyForm(2)])
    first = machine.enter(FUNCTION)["di"]
    assert machine.run(FUNCTION + 5)
    before = machine.enter(TASK_DEAD, sp=STACK_TOP - 1024, seed=3)
    assert machine.run(TASK_DEAD + 5)
    after = machine.registers()
    assert {name for name in GENERAL_REGISTERS if after[name] != before[name]} <= FREE_AT_ENTRY
    assert machine.preempt_count == 0
    assert not list(machine.recorder.pools.in_flight())
    hits = 0 if decided else 1 + probed
    assert figures(machine, probe) == (hits, 0, 0, 0, 0, 0)
    assert keys(probe).of == dict([((FUNCTION + 5, first), 1), ((TASK_DEAD + 5, before["di"]), 1)][:hits])


ALWAYS = Compare("!=", Entered("di"), Imm(1), False)
SUMS = [
    Asked(sums=(Sum(0, (Entered("di"), Compute("&", Entered("si"), Imm(1))), False), Sum(1, (Entered("cx"),), False))),
    Asked(sums=(Sum(0, (Left("ax"), Entered("si")), True), Sum(1, (Duration(1_000_000),), True))),
    Asked(ALWAYS, None, sums=(Sum(0, (Entered("di"), Imm(7)), False), Sum(1, (Left("bx"),), True))),
    Asked(None, Compare("!=", Left("ax"), Imm(1), False),
          sums=(Sum(0, (Left("ax"), Site()), True), Sum(1, (Entered("cx"),), True))),
]  # fmt: skip


# What their keys are, given the registers of a call.
KEYS: list[Callable[[dict[str, int]], tuple[int, ...]]] = [
    lambda regs: (regs["di"], regs["si"] & 1),
    lambda regs: (regs["ax"], regs["si"]),
    lambda regs: (regs["di"], 7),
    lambda regs: (regs["ax"], FUNCTION + 5),
]


@pytest.mark.parametrize(
    ("asked", "key"), list(zip(SUMS, KEYS, strict=True)), ids=["entry", "exit", "asked at the entry", "decided"]
)
def test_a_hit_inside_of_a_pad_at_each_instruction(
    asked: Asked, key: Callable[[dict[str, int]], tuple[int, ...]]
) -> None:
    """Each time with a row that is new to both of them, and with one that both know."""
    machine = RecordMachine(zone_mib=6, cpus=2)
    tables = [KeyForm(2), HistogramForm(False)]
    # As RecordMachine.interrupt() calls it.
    inner = machine.enter(FUNCTION, seed=7)
    for seed in (7, 8):
        steps = 0
        for steps in count(1):
            probe = machine.record(FUNCTION, returns=True, asked=asked, tables=tables)
            outer = machine.enter(FUNCTION, seed=seed)
            if machine.run(CALLER, count=steps):
                machine.remove(probe)
                break
            machine.interrupt(FUNCTION)
            assert machine.run(CALLER)
            after = machine.registers()
            assert {name: after[name] - 8 * (name == "sp") for name in KEPT_AT_RETURN} == {
                name: outer[name] for name in KEPT_AT_RETURN
            }
            assert machine.preempt_count == 0
            machine.remove(probe)
            assert figures(machine, probe) == (2, 2, 0, 0, 0, 0)
            assert keys(probe).of == Counter((key(outer), key(inner)))
            of = numbers(probe, 1).series
            assert (sum(numbers(probe, 1).of.values()), of.least + of.greatest) == (2, of.total)
            assert probe.counts.functions.keys() == {FUNCTION + 5}
            assert probe.counts.all_calls.times.count == 2
        assert steps > 150


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("asked", SUMS[1:3], ids=["exit", "asked at the entry"])
def test_what_is_half_added_up_is_known(asked: Asked, cpus: int) -> None:
    """Also where the guest is stopped in an interrupt of the pad."""
    machine = RecordMachine(zone_mib=6, cpus=cpus)
    tables = [KeyForm(2), HistogramForm(False)]
    halves = 0
    for steps in count(1):
        probe = machine.record(FUNCTION, returns=True, asked=asked, tables=tables)
        machine.enter(FUNCTION)
        done = machine.run(CALLER, count=steps)
        hits, exits, *_ = figures(machine, probe)
        at = {False: hits, True: exits}
        expected = [at[one.at_exit] for one in asked.sums]
        added = [sum(keys(probe).of.values()), sum(numbers(probe, 1).of.values())]
        adding = machine.ring_word(RingWord.ADDING)
        assert adding in (0, 1)
        if added != expected:
            halves += 1
            assert adding == 1
        assert not (done and adding)
        machine.run(CALLER)
        machine.remove(probe)
        if done:
            break
    assert halves > 10


def test_nothing_is_asked_of_the_task_that_is_not_there() -> None:
    """The machine's task, as the key of a name reads it."""
    machine = RecordMachine()
    probe = machine.record(FUNCTION, asked=by_key(Task()), tables=[KeyForm(1)])
    machine.call(FUNCTION)
    figures(machine, probe)
    assert keys(probe).of == {(TASK,): 1}
