"""Recording pads that ask something of each call: what is recorded, what is counted, and what nobody notices."""

from __future__ import annotations

from itertools import count

import pytest

from fprobe_gdb.dispatch.trampoline.pad_expr import ALWAYS, Asked, Compare, Compute, Entered, Imm, Left, Not, PadExpr
from fprobe_gdb.dispatch.trampoline.record_format import RecordKind, RingWord
from fprobe_gdb.dispatch.trampoline.recorder import RecordProbe
from fprobe_gdb.registers import ARGUMENT_REGISTERS, GENERAL_REGISTERS
from tests.unit.dispatch.record_machine import CALLER, FUNCTION, OTHER, STACK_TOP, TASK_DEAD, RecordMachine
from tests.unit.dispatch.test_record_pads import FREE_AT_ENTRY, KEPT_AT_RETURN, NAMES, fill

# Of the machine's random registers: true of the call with seed 1, and false of that with seed 2.
ODD = Compare("==", Compute("&", Entered("di"), Imm(1)), Imm(1), False)


@pytest.fixture(params=[1, 4], ids=["one CPU", "four CPUs"])
def machine(request: pytest.FixtureRequest) -> RecordMachine:
    return RecordMachine(cpus=request.param)


def seeds(machine: RecordMachine) -> tuple[int, int]:
    """Of calls with an odd first argument, and with an even one."""
    of = {machine.enter(FUNCTION, seed=seed)["di"] & 1: seed for seed in range(10)}
    return of[1], of[0]


# A sum of two sums has to keep one of them; with a division, so that it can also have no value.
def wide(register: type[Entered | Left], name: str) -> PadExpr:
    total = Compute("+", Compute("*", register(name), Imm(3)), Compute("*", register("dx"), Imm(5)))
    return Compare("!=", Compute("+", total, Compute("/", Imm(7), Compute("&", register(name), Imm(1)))), Imm(0), False)


def figures(machine: RecordMachine, probe: RecordProbe) -> tuple[int, ...]:
    machine.recorder.count_lost(probe)
    return probe.hits, probe.exits, probe.kept_out, probe.faults, probe.nmissed, probe.lost


@pytest.mark.parametrize("returns", [False, True])
@pytest.mark.parametrize(("question", "faults"), [(ODD, 0), (wide(Entered, "di"), 1)], ids=["plain", "wide"])
def test_a_question_at_the_entry(machine: RecordMachine, returns: bool, question: PadExpr, faults: int) -> None:
    probe = machine.record(FUNCTION, returns=returns, args=True, asked=Asked(at_entry=question))
    odd, even = seeds(machine)
    for seed in (odd, even):
        before = machine.enter(FUNCTION, seed=seed)
        assert machine.run(FUNCTION + 5)
        after = machine.registers()
        assert {name for name in GENERAL_REGISTERS if after[name] != before[name]} <= FREE_AT_ENTRY
        assert (machine.stack_word(STACK_TOP) == CALLER) is (not returns or seed == even)
        assert machine.run(CALLER)
        assert machine.preempt_count == 0
    records = machine.take()
    assert [record.kind.name for record in records] == ["ENTRY", "EXIT"][: 1 + returns]
    assert records[0].args[0] & 1
    assert figures(machine, probe) == (1, int(returns), 1, faults, 0, 0)


@pytest.mark.parametrize("names", [None, NAMES])
@pytest.mark.parametrize("args", [False, True])
@pytest.mark.parametrize(
    ("question", "faults"),
    [(ODD, 0), (Compare("==", Compute("&", Left("ax"), Imm(1)), Imm(1), False), 0), (wide(Left, "ax"), 1)],
    ids=["entered", "left", "wide"],
)
def test_a_question_at_the_return(
    machine: RecordMachine, args: bool, names: object, question: PadExpr, faults: int
) -> None:
    probe = machine.record(FUNCTION, OTHER, returns=True, args=args, names=names, asked=Asked(at_exit=question))
    register = "di" if question is ODD else "ax"
    of = {machine.enter(FUNCTION, seed=seed)[register] & 1: seed for seed in range(10)}
    for seed in (of[1], of[0]):
        before = machine.enter(FUNCTION, seed=seed)
        assert machine.run(FUNCTION + 5)
        after = machine.registers()
        assert {name for name in GENERAL_REGISTERS if after[name] != before[name]} <= FREE_AT_ENTRY
        assert machine.take() == []
        assert machine.run(CALLER)
        after = machine.registers()
        assert {name: after[name] - 8 * (name == "sp") for name in KEPT_AT_RETURN} == {
            name: before[name] for name in KEPT_AT_RETURN
        }
        assert machine.preempt_count == 0
        if seed == of[1]:
            (record,) = machine.take()
            assert (record.kind, record.ip, record.ret_ip) == (RecordKind.EXIT, FUNCTION, CALLER)
            assert record.args == (tuple(before[name] for name in ARGUMENT_REGISTERS) if args else ())
            assert record.retval == before["ax"]
            assert record.entered_tsc <= record.left_tsc <= record.tsc
            assert (record.comm, record.pid) == (("dd", 93) if names else (None, None))
    assert machine.take() == []
    assert figures(machine, probe) == (1, 1, 1, faults, 0, 0)
    assert machine.recorder.pools.take_back(probe.number)


def test_each_function_is_asked_its_own(machine: RecordMachine) -> None:
    asked = {FUNCTION: Asked(at_exit=Imm(0)), OTHER: Asked(at_exit=Imm(1))}
    probe = machine.record(FUNCTION, OTHER, returns=True, asked=asked[FUNCTION])
    machine.remove(probe)
    again = machine.recorder.add([FUNCTION, OTHER], probe.form, probe.consume, nr_maxactive=4, asked=asked)
    machine.plant()
    machine.enter(FUNCTION)
    assert machine.run(FUNCTION + 5)
    machine.interrupt(OTHER)
    assert machine.run(CALLER)
    machine.recorder.drain()
    assert figures(machine, again) == (1, 1, 1, 0, 0, 0)


def test_losses_and_misses_of_calls_that_their_return_decides(machine: RecordMachine) -> None:
    probe = machine.record(FUNCTION, returns=True, nr_maxactive=1, asked=Asked(at_exit=Not(Imm(0))))
    machine.enter(FUNCTION)
    assert machine.run(FUNCTION + 5)
    machine.interrupt(FUNCTION)
    fill(machine)
    assert machine.run(CALLER)
    machine.ring_word(RingWord.HEAD, 48)
    assert [record.kind.name for record in machine.take()] == ["MISSED"]
    assert figures(machine, probe) == (0, 0, 0, 0, 1, 1)
    assert probe.losses == {FUNCTION: 1}
    assert probe.lost_exits == 0


def test_calls_that_are_all_recorded_at_their_return_are_hits_before(machine: RecordMachine) -> None:
    """Those in flight, and those that never return; but not one whose record is lost."""
    probe = machine.record(FUNCTION, returns=True, nr_maxactive=2, asked=Asked(at_exit=ALWAYS))
    machine.call(FUNCTION)
    machine.enter(FUNCTION)
    assert machine.run(FUNCTION + 5)
    machine.enter(TASK_DEAD, sp=STACK_TOP - 512)
    assert machine.run(TASK_DEAD + 5)
    machine.enter(FUNCTION)
    assert machine.run(FUNCTION + 5)
    machine.interrupt(FUNCTION)
    machine.take()
    assert figures(machine, probe) == (4, 2, 0, 0, 0, 0)
    fill(machine)
    machine.interrupt(FUNCTION)
    assert figures(machine, probe) == (4, 2, 0, 0, 0, 1)
    assert machine.run(CALLER)
    assert figures(machine, probe) == (3, 2, 0, 0, 0, 2)


@pytest.mark.parametrize("asked", [Asked(at_entry=ODD), Asked(at_exit=ODD)], ids=["entry", "exit"])
def test_task_dead_is_asked_like_others(machine: RecordMachine, asked: Asked) -> None:
    probe = machine.record(FUNCTION, TASK_DEAD, returns=True, asked=asked)
    odd, even = seeds(machine)
    for seed in (odd, even):
        machine.enter(FUNCTION, seed=odd)
        assert machine.run(FUNCTION + 5)
        before = machine.enter(TASK_DEAD, sp=STACK_TOP - 1024, seed=seed)
        assert machine.run(TASK_DEAD + 5)
        after = machine.registers()
        assert {name for name in GENERAL_REGISTERS if after[name] != before[name]} <= FREE_AT_ENTRY
        assert machine.preempt_count == 0
        assert not list(machine.recorder.pools.in_flight())
    found = [(record.kind.name, record.ip) for record in machine.take()]
    if asked.at_exit:
        # None has returned.
        assert found == []
        assert figures(machine, probe) == (0, 0, 0, 0, 0, 0)
        assert probe.undecided == 4
    else:
        assert found == [("ENTRY", FUNCTION), ("ENTRY", TASK_DEAD), ("ENTRY", FUNCTION)]
        assert figures(machine, probe) == (3, 0, 1, 0, 0, 0)
        assert probe.undecided == 0


@pytest.mark.parametrize("tables", [None, ()], ids=["records", "tables"])
def test_calls_that_have_not_returned_are_counted(machine: RecordMachine, tables: tuple[()] | None) -> None:
    """Those in flight, those of tasks that have died, and those that came home while nobody looked."""
    odd, even = seeds(machine)
    probe = machine.record(FUNCTION, OTHER, returns=True, nr_maxactive=8, asked=Asked(at_exit=ODD), tables=tables)

    def accounts() -> tuple[int, ...]:
        machine.take()
        hits, _, kept_out, _, nmissed, lost = figures(machine, probe)
        return hits, kept_out, probe.undecided, nmissed + lost

    for seed in (odd, even, even):
        machine.enter(FUNCTION, seed=seed)
        assert machine.run(CALLER)
    machine.enter(FUNCTION, seed=odd)
    assert machine.run(FUNCTION + 5)
    assert accounts() == (1, 2, 1, 0)
    machine.recorder.switch(probe, enabled=False)
    machine.plant()
    assert machine.run(CALLER)
    assert accounts() == (1, 2, 1, 0)
    machine.recorder.switch(probe, enabled=True)
    machine.plant()
    machine.enter(OTHER, seed=odd)
    assert machine.run(OTHER + 5)
    machine.enter(TASK_DEAD, sp=STACK_TOP - 1024)
    assert machine.run(TASK_DEAD + 5)
    machine.enter(FUNCTION, seed=even)
    assert machine.run(FUNCTION + 5)
    assert accounts() == (1, 2, 3, 0)
    machine.remove(probe)
    assert accounts() == (1, 2, 3, 0)


@pytest.mark.parametrize("tables", [None, ()], ids=["records", "tables"])
@pytest.mark.parametrize("wanted", [True, False])
def test_a_call_is_in_one_counter_behind_each_instruction(wanted: bool, tables: tuple[()] | None) -> None:
    """Where the guest may be stopped in an interrupt that has come into a pad. Or it is seen that this is not over."""
    machine = RecordMachine(cpus=2)
    probe = machine.record(FUNCTION, returns=True, asked=Asked(at_exit=ODD), tables=tables)
    recorder, seed = machine.recorder, seeds(machine)[not wanted]

    def calls() -> int:
        machine.take()
        hits, _, kept_out, *others = figures(machine, probe)
        assert others == [0, 0, 0]
        return hits + kept_out + probe.undecided

    settled = 0
    for steps in count(1):
        machine.enter(FUNCTION, seed=seed)
        ended = machine.run(CALLER, count=steps)
        if not (recorder.waiting or recorder._rings.adding or recorder.pools.unsettled(probe.number)):
            assert calls() in (steps - 1, steps)
            settled += 1
        assert ended or machine.run(CALLER)
        assert calls() == steps
        if ended:
            break
    assert steps > settled > 20


# A call that is interrupted by another one, again and again, one instruction later each time. How many calls that were.
def hits_inside(machine: RecordMachine, seed: int, inner: dict[str, int], register: str) -> int:
    for steps in count(1):
        outer = machine.enter(FUNCTION, seed=seed)
        if machine.run(CALLER, count=steps):
            machine.take()
            return 2 * steps - 1
        machine.interrupt(FUNCTION)
        assert machine.run(CALLER)
        after = machine.registers()
        assert {name: after[name] - 8 * (name == "sp") for name in KEPT_AT_RETURN} == {
            name: outer[name] for name in KEPT_AT_RETURN
        }
        assert machine.preempt_count == 0
        returned = [record.retval for record in machine.take() if record.kind is RecordKind.EXIT]
        assert sorted(returned) == sorted(call["ax"] for call in (outer, inner) if call[register] & 1)
    raise AssertionError


@pytest.mark.parametrize("asked", [Asked(wide(Entered, "di")), Asked(None, wide(Left, "ax"))], ids=["entry", "exit"])
def test_a_hit_inside_of_a_pad_at_each_instruction(asked: Asked) -> None:
    machine = RecordMachine(cpus=2)
    probe = machine.record(FUNCTION, returns=True, args=True, asked=asked)
    # As RecordMachine.interrupt() calls it.
    inner = machine.enter(FUNCTION, seed=7)
    register = "di" if asked.at_entry else "ax"
    calls = sum(hits_inside(machine, seed, inner, register) for seed in range(2, 8))
    assert calls > 400
    hits, exits, kept_out, faults, *others = figures(machine, probe)
    assert (hits + kept_out, others) == (calls, [0, 0])
    assert hits == exits > 0
    assert kept_out == faults > 0
