"""Recording pads, instruction by instruction: what they record, what they leave alone, and hits inside of pads."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest

from fprobe_gdb.dispatch.trampoline.record_format import RecordKind, RingWord, TaskNames
from fprobe_gdb.dispatch.trampoline.zone import HOST_NODES, LONGEST_RECORD_BYTES, Zone
from fprobe_gdb.errors import SiteRecorded
from fprobe_gdb.registers import ARGUMENT_REGISTERS, GENERAL_REGISTERS
from tests.unit.dispatch.record_machine import (
    CALL_ENTRY,
    CALLER,
    FUNCTION,
    OTHER,
    STACK_TOP,
    TASK,
    TASK_DEAD,
    RecordMachine,
)

NAMES = TaskNames(comm=0x10, pid=0x40)
#: What ftrace's own entry code leaves to whoever wants it.
FREE_AT_ENTRY = {"r10", "r11"}
KEPT_AT_RETURN = {"ax", "dx", "bx", "bp", "sp", "r12", "r13", "r14", "r15"}


@pytest.fixture(params=[1, 4], ids=["one CPU", "four CPUs"])
def machine(request: pytest.FixtureRequest) -> RecordMachine:
    return RecordMachine(cpus=request.param)


@pytest.mark.parametrize("returns", [False, True])
@pytest.mark.parametrize("args", [False, True])
@pytest.mark.parametrize("names", [None, NAMES])
def test_an_entry(machine: RecordMachine, returns: bool, args: bool, names: TaskNames | None) -> None:
    probe = machine.record(FUNCTION, returns=returns, args=args, names=names)
    before = machine.enter(FUNCTION)
    assert machine.run(FUNCTION + 5)
    after = machine.registers()
    assert {name for name in GENERAL_REGISTERS if after[name] != before[name]} <= FREE_AT_ENTRY
    assert machine.preempt_count == 0
    (record,) = machine.take()
    assert (record.kind, record.ip, record.ret_ip) == (RecordKind.ENTRY, FUNCTION, CALLER)
    assert (record.task, record.cpu) == (TASK, machine.cpu)
    assert record.args == (tuple(before[name] for name in ARGUMENT_REGISTERS) if args else ())
    assert (record.comm, record.pid) == (("dd", 93) if names else (None, None))
    assert record.node == (machine.zone.node(HOST_NODES) if returns else 0)
    assert machine.stack_word(STACK_TOP) == (machine.zone.stub(HOST_NODES) if returns else CALLER)
    assert (probe.hits, probe.exits, probe.nmissed, probe.lost) == (1, 0, 0, 0)


@pytest.mark.parametrize("names", [None, NAMES])
def test_a_return(machine: RecordMachine, names: TaskNames | None) -> None:
    probe = machine.record(FUNCTION, returns=True, args=True, names=names)
    before = machine.enter(FUNCTION)
    assert machine.run(CALLER)
    after = machine.registers()
    assert {name: after[name] for name in KEPT_AT_RETURN} == {
        name: before[name] + (8 if name == "sp" else 0) for name in KEPT_AT_RETURN
    }
    assert machine.preempt_count == 0
    entry, leave = machine.take()
    assert (leave.kind, leave.ip, leave.ret_ip, leave.node) == (RecordKind.EXIT, FUNCTION, CALLER, entry.node)
    assert (leave.retval, leave.entered_tsc) == (before["ax"], entry.tsc)
    assert leave.tsc >= entry.tsc
    assert (leave.comm, leave.pid) == (("dd", 93) if names else (None, None))
    assert (probe.hits, probe.exits) == (1, 1)
    assert machine.recorder.pools.take_back(probe.number)


def test_no_node_is_a_miss_that_is_recorded(machine: RecordMachine) -> None:
    probe = machine.record(FUNCTION, returns=True, nr_maxactive=2)
    for level in range(3):
        machine.enter(FUNCTION, sp=STACK_TOP - 64 * level)
        assert machine.run(FUNCTION + 5)
    assert machine.stack_word(STACK_TOP - 128) == CALLER
    assert [record.kind for record in machine.take()] == [RecordKind.ENTRY, RecordKind.ENTRY, RecordKind.MISSED]
    assert (probe.hits, probe.nmissed, probe.lost) == (2, 1, 0)
    # A node that came back is taken again.
    assert machine.run(CALLER)
    machine.call(FUNCTION, sp=STACK_TOP - 256)
    assert probe.nr_maxactive == 2


# As if all that was taken was reserved, and is being written.
def fill(machine: RecordMachine) -> None:
    machine.ring_word(RingWord.HEAD, machine.ring_word(RingWord.LIMIT) + 8)


def empty(machine: RecordMachine) -> None:
    taken_bytes = machine.ring_word(RingWord.LIMIT) + LONGEST_RECORD_BYTES - machine.zone.ring_bytes
    machine.ring_word(RingWord.HEAD, taken_bytes)


def test_a_full_ring_counts_each_call_by_function(machine: RecordMachine) -> None:
    probe = machine.record(FUNCTION, OTHER, returns=True)
    fill(machine)
    for function in (FUNCTION, OTHER, OTHER):
        before = machine.enter(function)
        assert machine.run(function + 5)
        after = machine.registers()
        assert {name for name in GENERAL_REGISTERS if after[name] != before[name]} <= FREE_AT_ENTRY
        assert machine.stack_word(STACK_TOP) == CALLER
    assert machine.preempt_count == 0
    machine.remove(probe)
    assert (probe.hits, probe.lost, probe.lost_exits) == (0, 3, 0)
    assert probe.losses == {FUNCTION: 1, OTHER: 2}


def test_a_full_ring_at_a_return(machine: RecordMachine) -> None:
    probe = machine.record(FUNCTION, returns=True)
    machine.enter(FUNCTION)
    assert machine.run(FUNCTION + 5)
    (entry,) = machine.take()
    fill(machine)
    assert machine.run(CALLER)
    empty(machine)
    assert machine.take() == []
    machine.recorder.count_lost(probe)
    assert (probe.hits, probe.exits, probe.lost, probe.lost_exits) == (1, 0, 0, 1)
    machine.call(FUNCTION)
    assert [record.node for record in machine.take()] == [entry.node] * 2


def test_with_block_a_pad_waits_for_room(machine: RecordMachine) -> None:
    probe = machine.record(FUNCTION, block=True)
    fill(machine)
    machine.word(Zone.BOUND_TSC, 1 << 62)
    machine.word(Zone.HOST_SLEEPS, 1)
    machine.enter(FUNCTION)
    assert not machine.run(FUNCTION + 5, count=5000)
    assert machine.rings == 1
    empty(machine)
    assert machine.run(FUNCTION + 5)
    assert len(machine.take()) == 1
    assert (probe.hits, probe.lost, machine.word(Zone.HOST_AWAY)) == (1, 0, 0)


def test_with_block_a_pad_waits_no_longer_than_the_bound(machine: RecordMachine) -> None:
    probe = machine.record(FUNCTION, block=True)
    fill(machine)
    machine.enter(FUNCTION)
    assert machine.run(FUNCTION + 5)
    assert machine.word(Zone.HOST_AWAY) == 1
    # Nobody waits again before the host is back.
    machine.word(Zone.BOUND_TSC, 1 << 62)
    machine.enter(FUNCTION)
    assert machine.run(FUNCTION + 5)
    machine.remove(probe)
    assert (probe.hits, probe.lost) == (0, 2)


def test_a_tail_call_has_the_real_return_address(machine: RecordMachine) -> None:
    probe = machine.record(FUNCTION, OTHER, returns=True)
    machine.enter(FUNCTION)
    assert machine.run(FUNCTION + 5)
    # FUNCTION jumps to OTHER: the return slot is what it is.
    stub = machine.stack_word(STACK_TOP)
    machine.enter(OTHER, ret_addr=stub)
    assert machine.run(CALLER)
    records = machine.take()
    assert [(record.kind.name, record.ip) for record in records] == [
        ("ENTRY", FUNCTION), ("ENTRY", OTHER), ("EXIT", OTHER), ("EXIT", FUNCTION)
    ]  # fmt: skip
    assert {record.ret_ip for record in records} == {CALLER}
    assert probe.exits == 2


def test_task_dead_brings_the_nodes_of_the_task_home(machine: RecordMachine) -> None:
    probe = machine.record(FUNCTION, returns=True, nr_maxactive=3)
    for level in range(2):
        machine.enter(FUNCTION, sp=STACK_TOP - 64 * level)
        assert machine.run(FUNCTION + 5)
    other_task = TASK + 0x800
    machine.set_task(other_task)
    machine.enter(FUNCTION, sp=STACK_TOP - 512)
    assert machine.run(FUNCTION + 5)
    machine.set_task(TASK)
    before = machine.enter(TASK_DEAD, sp=STACK_TOP - 1024)
    assert machine.run(TASK_DEAD + 5)
    after = machine.registers()
    assert {name for name in GENERAL_REGISTERS if after[name] != before[name]} <= FREE_AT_ENTRY
    assert [call.task for call in machine.recorder.pools.in_flight()] == [other_task]
    assert machine.take()[-1].kind is RecordKind.TASK_DEAD
    assert (probe.hits, probe.exits, probe.nmissed) == (3, 0, 0)
    for level in range(2):
        machine.enter(FUNCTION, sp=STACK_TOP - 2048 - 64 * level)
        assert machine.run(FUNCTION + 5)
    machine.take()
    assert (probe.hits, probe.nmissed) == (5, 0)


def test_task_dead_as_a_probed_function(machine: RecordMachine) -> None:
    probe = machine.record(FUNCTION, TASK_DEAD, returns=True)
    machine.enter(FUNCTION)
    assert machine.run(FUNCTION + 5)
    machine.enter(TASK_DEAD, sp=STACK_TOP - 64)
    assert machine.run(TASK_DEAD + 5)
    assert [(record.kind.name, record.ip) for record in machine.take()] == [("ENTRY", FUNCTION), ("ENTRY", TASK_DEAD)]
    assert not list(machine.recorder.pools.in_flight())
    assert probe.hits == 2
    # Where call mode waits for it as well, its pad is next, with everything as the function's entry had it.
    machine.asked = True
    machine.plant()
    before = machine.enter(TASK_DEAD)
    call_entry = machine.zone.code + 0x100
    assert machine.run(call_entry)
    assert machine.registers()["sp"] == before["sp"] - 8
    assert machine.stack_word(before["sp"] - 8) == TASK_DEAD + 5


def interrupted_at(
    machine: RecordMachine, function: int, until: int, instructions: int, cpu: int | None = None
) -> bool:
    """Run so many instructions, have a hit in between, run on. Returns whether it was in between."""
    if machine.run(until, count=instructions):
        return False
    machine.interrupt(function, cpu)
    assert machine.run(until)
    return True


@pytest.mark.parametrize("other_cpu", [False, True])
@pytest.mark.parametrize("interrupting", [FUNCTION, OTHER])
def test_a_hit_at_each_instruction_of_a_pad(machine: RecordMachine, interrupting: int, other_cpu: bool) -> None:
    cpu = 0 if other_cpu else None
    probe = machine.record(FUNCTION, OTHER, returns=True, args=True, names=NAMES)
    for instructions in count(1):
        before = machine.enter(FUNCTION)
        between = interrupted_at(machine, interrupting, CALLER, instructions, cpu)
        after = machine.registers()
        assert {name: after[name] for name in KEPT_AT_RETURN - {"sp"}} == {
            name: before[name] for name in KEPT_AT_RETURN - {"sp"}
        }
        assert (after["sp"], machine.preempt_count) == (before["sp"] + 8, 0)
        records = machine.take()
        if not between:
            break
        kinds = [(record.kind.name, record.ip) for record in records]
        assert sorted(kinds) == sorted(
            (kind, function) for kind in ("ENTRY", "EXIT") for function in (FUNCTION, interrupting)
        )
        # The interrupting call may have had the same node, before.
        calls = {(record.node, record.tsc): record for record in records if record.kind is RecordKind.ENTRY}
        for leave in records:
            if leave.kind is RecordKind.EXIT:
                entry = calls.pop((leave.node, leave.entered_tsc))
                assert (entry.ip, entry.ret_ip) == (leave.ip, leave.ret_ip)
        assert not list(machine.recorder.pools.in_flight())
    assert instructions > 100
    assert (probe.nmissed, probe.lost, probe.lost_exits) == (0, 0, 0)
    free = machine.recorder.pools.free
    machine.remove(probe)
    assert machine.recorder.pools.free == free + probe.nr_maxactive


def test_records_lie_across_the_end_of_the_ring() -> None:
    machine = RecordMachine(zone_mib=6, cpus=100)
    probe = machine.record(FUNCTION, args=True, names=NAMES)
    ring_bytes = machine.zone.ring_bytes
    assert ring_bytes % probe.form.size_bytes
    fits = (ring_bytes - LONGEST_RECORD_BYTES) // probe.form.size_bytes + 1
    for turn in range(3):
        for seed in range(fits + 2):
            machine.call(FUNCTION, seed=turn << 8 | seed)
        records = machine.take()
        expected = [machine.enter(FUNCTION, seed=turn << 8 | seed)["di"] for seed in range(fits)]
        assert [record.args[0] for record in records] == expected
        assert {(record.pid, record.cpu) for record in records} == {(93, 99)}
    machine.remove(probe)
    assert (probe.hits, probe.lost) == (3 * fits, 6)
    assert machine.ring_word(RingWord.HEAD) > 2 * ring_bytes
    ring = machine.ram.read_physical(machine.zone.physical_of(machine.zone.ring(99)), machine.zone.ring_stride_bytes)
    assert not any(ring)


def test_probes_of_different_size_share_the_ring(machine: RecordMachine) -> None:
    small = machine.record(FUNCTION)
    large = machine.record(OTHER, returns=True, args=True, names=NAMES)
    seen: list[tuple[str, int]] = []
    decode: Callable[[], None] = lambda: seen.extend((record.kind.name, record.ip) for record in machine.take())  # noqa: E731
    order = [FUNCTION, OTHER, OTHER, FUNCTION, FUNCTION, OTHER]
    for function in order:
        machine.call(function)
    decode()
    expected = []
    for function in order:
        expected += [("ENTRY", function)] + ([("EXIT", OTHER)] if function == OTHER else [])
    assert seen == expected
    assert (small.hits, large.hits, large.exits) == (3, 3, 3)


def test_a_record_that_is_not_there_yet_holds_back_the_next_ones(machine: RecordMachine) -> None:
    machine.record(FUNCTION)
    machine.enter(FUNCTION)
    assert not machine.run(FUNCTION + 5, count=3)
    while machine.ring_word(RingWord.HEAD) == 0:
        assert not machine.run(FUNCTION + 5, count=1)
    machine.interrupt(FUNCTION)
    assert machine.take() == []
    assert machine.recorder.waiting
    assert machine.run(FUNCTION + 5)
    assert len(machine.take()) == 2
    assert not machine.recorder.waiting


@pytest.mark.parametrize("returns", [False, True])
def test_call_mode_comes_next(machine: RecordMachine, returns: bool) -> None:
    machine.asked = True
    probe = machine.record(FUNCTION, returns=returns)
    before = machine.enter(FUNCTION)
    assert machine.run(CALL_ENTRY)
    after = machine.registers()
    assert {name for name in GENERAL_REGISTERS if after[name] != before[name]} - {"sp"} <= FREE_AT_ENTRY
    assert machine.stack_word(after["sp"]) == FUNCTION + 5
    machine.take()
    assert probe.hits == 1


def test_losses_are_counted_by_function_once(machine: RecordMachine) -> None:
    probe = machine.record(FUNCTION, TASK_DEAD)
    for ip in (FUNCTION, TASK_DEAD):
        with pytest.raises(SiteRecorded):
            machine.record(OTHER, ip, returns=True)
    other = machine.record(FUNCTION, by_function=False)
    fill(machine)
    machine.call(FUNCTION)
    for one, losses in ((probe, {FUNCTION: 1}), (other, {})):
        machine.recorder.count_lost(one)
        assert (one.lost, one.losses) == (1, losses)
    machine.remove(probe)
    machine.record(FUNCTION)


def test_a_removed_probe_leaves_the_text_as_it_was(machine: RecordMachine) -> None:
    nop = bytes.fromhex("0f1f440000")
    probe = machine.record(FUNCTION, OTHER, returns=True)
    machine.enter(FUNCTION)
    assert machine.run(FUNCTION + 5)
    machine.remove(probe)
    for function in (FUNCTION, OTHER, TASK_DEAD):
        assert bytes(machine.uc.mem_read(function, 5)) == nop
    # The call in flight finds its way, and then its node is free.
    free = machine.recorder.pools.free
    assert machine.run(CALLER)
    machine.take()
    machine.recorder.settle()
    assert machine.recorder.pools.free == free + 1
    assert not machine.recorder.returning


def test_withdrawing_puts_return_addresses_back(machine: RecordMachine) -> None:
    machine.record(FUNCTION, OTHER, returns=True)
    machine.enter(FUNCTION)
    assert machine.run(FUNCTION + 5)
    machine.enter(OTHER, ret_addr=machine.stack_word(STACK_TOP))
    assert machine.run(OTHER + 5)
    stub = machine.stack_word(STACK_TOP)
    assert machine.recorder.recover_return(STACK_TOP, stub) == CALLER
    assert machine.recorder.recover_return(STACK_TOP - 8, stub) is None
    assert machine.recorder.recover_return(STACK_TOP, CALLER) is None
    machine.recorder.withdraw()
    assert machine.stack_word(STACK_TOP) == CALLER
