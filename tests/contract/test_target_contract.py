"""What every target promises (fprobe_gdb/target/base.py), on the fake, on our own client and on gdb."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from emu.deadline import Deadline
from fprobe_gdb.errors import MemoryFault, StateError, TargetLost, UsageError, WaitTimeout
from fprobe_gdb.registers import GENERAL_REGISTERS, MASK64, REGISTERS
from fprobe_gdb.target.base import BreakpointKind, Stop, StopKind, Target, TargetState
from fprobe_gdb.target.fake import FakeTarget
from tests.contract.program import COUNTERS, END_OF_RAM, GS_BASES, SCRATCH, STACK_TOP, program
from tests.contract.rigs import Rig

SW, HW = BreakpointKind.SOFTWARE, BreakpointKind.HARDWARE
CODE = program(0)
LIMIT_SEC = 20.0


def at(label: str, vcpu: int = 0) -> int:
    return program(vcpu).address(label)


def go(target: Target) -> Stop:
    target.resume()
    stop = target.wait(Deadline(LIMIT_SEC))
    assert stop is not None
    return stop


def run_past(rig: Rig, rounds: int) -> None:
    """Let a guest that nobody stops get on."""
    start, deadline = rig.rounds(0), Deadline(LIMIT_SEC)
    while rig.rounds(0) < start + rounds:
        assert not deadline.expired
        rig.let_run()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


class TestOneVcpu:
    def test_starts_stopped_with_all_register_names(self, rig: Rig) -> None:
        registers = rig.target.registers(0)
        assert set(registers) == set(REGISTERS)
        assert rig.target.state is TargetState.STOPPED
        assert list(rig.target.vcpus) == [0]
        assert registers["ip"] == at("main")
        assert registers["sp"] == STACK_TOP[0]
        assert registers["gs_base"] == GS_BASES[0]
        assert registers["cr3"] == 0x10000
        assert (registers["cs"], registers["ss"]) == (0x8, 0x10)
        assert rig.target.instruction_pointers() == [at("main")]

    def test_written_registers_read_back_and_reach_the_guest(self, rig: Rig) -> None:
        target = rig.target
        values = {name: 0x0123456789ABCD00 + number for number, name in enumerate(GENERAL_REGISTERS)}
        values |= {"r15": MASK64, "sp": STACK_TOP[0] - 64, "ip": at("f")}
        before = target.registers(0)
        target.write_registers(0, values)
        assert target.registers(0) == before | values
        target.write_registers(0, {"flags": 0x46})
        assert target.registers(0)["flags"] & 0x40

        target.write_registers(0, {"sp": STACK_TOP[0] - 8, "di": 40, "si": 2})
        target.write_memory(STACK_TOP[0] - 8, at("f_returns").to_bytes(8, "little"))
        target.insert_breakpoint(at("f_returns"), SW)
        assert go(target) == Stop(StopKind.BREAKPOINT, 0)
        assert target.registers(0)["ax"] == 42

    def test_flushing_a_tlb_changes_nothing_to_be_seen(self, rig: Rig) -> None:
        before = rig.target.registers(0)
        rig.target.flush_tlb(0)
        assert rig.target.registers(0) == before

    @pytest.mark.parametrize("values", [{"nonsense": 1}, {"cr3": 0}, {"ax": -1}, {"ax": MASK64 + 1}])
    def test_bad_register_writes_are_refused(self, rig: Rig, values: dict[str, int]) -> None:
        with pytest.raises(UsageError):
            rig.target.write_registers(0, values)
        with pytest.raises(UsageError):
            rig.target.registers(7)

    def test_memory_reads_back_at_any_length(self, rig: Rig) -> None:
        data = bytes(range(251)) * 700
        rig.target.write_memory(SCRATCH + 3, data)
        assert rig.target.read_memory(SCRATCH + 3, len(data)) == data
        assert rig.target.read_memory(SCRATCH + 4, 1) == data[1:2]
        assert rig.target.read_memory(SCRATCH, 0) == b""

    def test_several_reads_with_faults_among_them(self, rig: Rig) -> None:
        first, hole, across, last = rig.target.read_many(
            [(at("f"), 4), (0xDEAD0000DEAD, 8), (END_OF_RAM - 8, 16), (at("g"), 5)]
        )
        assert first == bytes.fromhex("f30f1efa")
        assert isinstance(hole, MemoryFault)
        assert (hole.addr, hole.size_bytes) == (0xDEAD0000DEAD, 8)
        assert isinstance(across, MemoryFault)
        assert last == bytes.fromhex("0f1f440000")
        assert rig.target.read_memory(END_OF_RAM - 8, 8) == bytes(8)

    @pytest.mark.parametrize(
        ("addr", "size"), [(END_OF_RAM, 1), (END_OF_RAM - 3000, 6000), (MASK64 - 3, 8), (0xDEAD0000DEAD, 8)]
    )
    def test_memory_that_is_not_there(self, rig: Rig, addr: int, size: int) -> None:
        with pytest.raises(MemoryFault):
            rig.target.read_memory(addr, size)
        with pytest.raises(MemoryFault):
            rig.target.write_memory(addr, bytes(size))
        assert rig.target.state is TargetState.STOPPED
        assert rig.target.registers(0)["ip"] == at("main")

    def test_memory_is_not_cached(self, rig: Rig) -> None:
        target = rig.target
        target.insert_breakpoint(at("f"), SW)
        for round_number in (1, 2, 3):
            go(target)
            registers = target.registers(0)
            stack, counter = target.read_many([(registers["sp"], 8), (COUNTERS, 8)])
            assert stack == at("f_returns").to_bytes(8, "little")
            assert counter == round_number.to_bytes(8, "little")
            target.write_registers(0, {"ip": at("f_location")})

    def test_physical_memory(self, rig: Rig) -> None:
        rig.target.write_memory(SCRATCH, b"physical")
        assert rig.target.read_physical(SCRATCH, 8) == b"physical"
        # Back to virtual addresses afterwards.
        with pytest.raises(MemoryFault):
            rig.target.read_memory(END_OF_RAM, 8)

    @pytest.mark.parametrize("kind", list(BreakpointKind))
    def test_hits_come_in_the_order_of_the_calls(self, rig: Rig, kind: BreakpointKind) -> None:
        target, hits = rig.target, []
        for label in ("f_location", "g"):
            target.insert_breakpoint(at(label), kind)
        for _ in range(6):
            stop = go(target)
            assert stop == Stop(StopKind.BREAKPOINT, 0)
            registers = target.registers(0)
            hits.append((registers["ip"], registers["di"]))
            target.write_registers(0, {"ip": registers["ip"] + 5})
        f, g = at("f_location"), at("g")
        assert hits == [(f, 1), (g, 1), (f, 2), (g, 2), (f, 3), (g, 3)]

    def test_breakpoints_are_invisible(self, rig: Rig) -> None:
        rig.target.insert_breakpoint(at("g"), SW)
        assert rig.target.read_memory(at("g"), 5) == bytes.fromhex("0f1f440000")

    def test_removed_breakpoints_are_gone(self, rig: Rig) -> None:
        target = rig.target
        target.insert_breakpoint(at("f"), SW)
        target.insert_breakpoint(at("g"), HW)
        go(target)
        assert target.instruction_pointers() == [at("f")]
        target.remove_breakpoint(at("f"), SW)
        for _ in range(2):
            go(target)
            assert target.instruction_pointers() == [at("g")]
            target.write_registers(0, {"ip": at("g") + 5})
        target.insert_breakpoint(at("f"), SW)
        target.remove_breakpoint(at("g"), HW)
        go(target)
        assert target.instruction_pointers() == [at("f")]

    @pytest.mark.parametrize(("label", "after"), [("h", "h_second"), ("g", None)])
    def test_a_step_passes_a_breakpoint(self, rig: Rig, label: str, after: str | None) -> None:
        target = rig.target
        target.insert_breakpoint(at(label), SW)
        go(target)
        target.step(0, Deadline(LIMIT_SEC))
        assert target.state is TargetState.STOPPED
        assert target.instruction_pointers() == [at(after) if after else at(label) + 5]
        rounds = rig.rounds(0)
        go(target)
        assert target.instruction_pointers() == [at(label)]
        assert rig.rounds(0) == rounds + 1

    def test_a_step_from_a_breakpoint_that_nobody_reported(self, rig: Rig) -> None:
        """The instruction has one byte: gdb must not take the stop behind it for an int3 that was hit."""
        target = rig.target
        target.insert_breakpoint(at("g"), SW)
        go(target)
        target.insert_breakpoint(at("h"), SW)
        target.write_registers(0, {"ip": at("h")})
        sp = target.registers(0)["sp"]
        target.step(0, Deadline(LIMIT_SEC))
        assert target.instruction_pointers() == [at("h_second")]
        assert target.registers(0)["sp"] == sp - 8
        # The breakpoint is still there.
        target.write_registers(0, {"sp": sp, "ip": at("g") + 5})
        go(target)
        assert target.instruction_pointers() == [at("h")]

    def test_a_step_onto_a_breakpoint(self, rig: Rig) -> None:
        target = rig.target
        target.insert_breakpoint(at("h"), SW)
        go(target)
        target.insert_breakpoint(at("h_second"), SW)
        target.step(0, Deadline(LIMIT_SEC))
        assert target.instruction_pointers() == [at("h_second")]
        target.step(0, Deadline(LIMIT_SEC))
        assert target.registers(0)["dx"] == target.registers(0)["sp"]

    def test_a_deadline_leaves_the_guest_running(self, rig: Rig) -> None:
        rig.target.resume()
        with pytest.raises(WaitTimeout):
            rig.target.wait(Deadline(0.05))
        assert rig.target.state is TargetState.RUNNING
        with pytest.raises(WaitTimeout):
            rig.target.wait(Deadline(0))
        rig.target.interrupt()
        assert rig.target.wait(Deadline(LIMIT_SEC)) == Stop(StopKind.INTERRUPT, 0)
        assert rig.rounds(0) > 0

    def test_a_wake_descriptor_ends_the_wait(self, rig: Rig, pipe: tuple[int, int]) -> None:
        rig.target.resume()
        os.write(pipe[1], b"!")
        assert rig.target.wait(Deadline(LIMIT_SEC), wake=[pipe[0]]) is None
        assert rig.target.state is TargetState.RUNNING
        rig.target.interrupt()
        os.read(pipe[0], 1)
        stop = rig.target.wait(Deadline(LIMIT_SEC), wake=[pipe[0]])
        assert stop == Stop(StopKind.INTERRUPT, 0)

    def test_an_interrupt_that_crosses_with_a_hit(self, rig: Rig) -> None:
        target = rig.target
        target.insert_breakpoint(at("f_location"), SW)
        crossed = 0
        for _ in range(20):
            target.resume()
            target.interrupt()
            target.interrupt()
            stop = target.wait(Deadline(LIMIT_SEC))
            assert stop is not None
            (ip,) = target.instruction_pointers()
            if ip == at("f_location"):
                crossed += 1
                target.write_registers(0, {"ip": ip + 5})
        target.remove_breakpoint(at("f_location"), SW)
        target.insert_breakpoint(at("g"), SW)
        # No stop is left over: the next one is a hit, at its place, and after that nobody stops the guest.
        assert go(target).kind is StopKind.BREAKPOINT
        assert target.instruction_pointers() == [at("g")]
        target.remove_breakpoint(at("g"), SW)
        target.resume()
        with pytest.raises(WaitTimeout):
            target.wait(Deadline(0.05))

    def test_an_interrupt_after_the_hit_makes_no_second_stop(self, rig: Rig) -> None:
        target = rig.target
        if isinstance(target, FakeTarget):
            target.interrupt_latency = 100
        for _ in range(5):
            target.insert_breakpoint(at("f_location"), SW)
            rounds, deadline = rig.rounds(0), Deadline(LIMIT_SEC)
            target.resume()
            # Real guests are at the breakpoint, or an instant before, when their counter has gone up.
            while rig.rounds(0) == rounds and not isinstance(target, FakeTarget):
                assert not deadline.expired
            target.interrupt()
            target.wait(Deadline(LIMIT_SEC))
            if target.instruction_pointers() != [at("f_location")]:
                go(target)
            assert target.instruction_pointers() == [at("f_location")]
            target.write_registers(0, {"ip": at("f_location") + 5})
            target.remove_breakpoint(at("f_location"), SW)
            target.insert_breakpoint(at("g"), SW)
            assert go(target).kind is StopKind.BREAKPOINT
            assert target.instruction_pointers() == [at("g")]
            target.write_registers(0, {"ip": at("g") + 5})
            target.remove_breakpoint(at("g"), SW)

    def test_the_monitor_answers(self, rig: Rig) -> None:
        assert "VM status: paused" in rig.target.monitor("info status")
        assert "unknown command" in rig.target.monitor('nonsense "quoted\\')
        assert rig.target.registers(0)["ip"] == at("main")

    def test_detach_leaves_the_guest_running(self, rig: Rig) -> None:
        rig.target.insert_breakpoint(at("f"), SW)
        rig.target.insert_breakpoint(at("g"), HW)
        go(rig.target)
        rig.target.detach()
        run_past(rig, 3)
        assert rig.target.state is TargetState.DETACHED
        with pytest.raises(StateError):
            rig.target.registers(0)
        rig.target.close()
        assert rig.target.state is TargetState.DETACHED

    def test_detach_from_a_running_guest(self, rig: Rig) -> None:
        rig.target.insert_breakpoint(at("main"), SW)
        rig.target.write_registers(0, {"ip": at("loop"), "r14": COUNTERS})
        rig.target.resume()
        rig.target.detach()
        run_past(rig, 3)

    def test_states_are_checked(self, rig: Rig) -> None:
        target = rig.target
        with pytest.raises(StateError):
            target.wait(Deadline(1))
        with pytest.raises(StateError):
            target.interrupt()
        target.resume()
        for operation in (
            lambda: target.registers(0),
            target.instruction_pointers,
            lambda: target.write_registers(0, {"ax": 1}),
            lambda: target.read_memory(SCRATCH, 1),
            lambda: target.read_many([(SCRATCH, 1)]),
            lambda: target.write_memory(SCRATCH, b"x"),
            lambda: target.read_physical(SCRATCH, 1),
            lambda: target.insert_breakpoint(at("f"), SW),
            lambda: target.remove_breakpoint(at("f"), SW),
            target.resume,
            lambda: target.step(0, Deadline(1)),
            lambda: target.monitor("info status"),
        ):
            with pytest.raises(StateError, match="stopped"):
                operation()
        assert target.state is TargetState.RUNNING

    def test_close_twice(self, rig: Rig) -> None:
        rig.target.close()
        rig.target.close()
        assert rig.target.state is TargetState.LOST
        with pytest.raises(TargetLost):
            rig.target.registers(0)

    def test_qemu_killed_while_stopped(self, rig: Rig) -> None:
        rig.kill()
        with pytest.raises(TargetLost):
            rig.target.read_memory(SCRATCH, 8)
        assert rig.target.state is TargetState.LOST
        with pytest.raises(TargetLost):
            rig.target.resume()

    def test_qemu_killed_while_running(self, rig: Rig) -> None:
        rig.target.resume()
        rig.kill()
        with pytest.raises(TargetLost):
            rig.target.wait(Deadline(LIMIT_SEC))
        assert rig.target.state is TargetState.LOST
        with pytest.raises(TargetLost):
            rig.target.wait(Deadline(LIMIT_SEC))


class TestTwoVcpus:
    def test_registers_are_each_vcpus_own(self, smp_rig: Rig) -> None:
        target = smp_rig.target
        assert list(target.vcpus) == [0, 1]
        assert target.instruction_pointers() == [at("main", 0), at("main", 1)]
        assert [target.registers(vcpu)["gs_base"] for vcpu in (0, 1)] == list(GS_BASES)
        target.write_registers(1, {"ax": 11})
        target.write_registers(0, {"ax": 10})
        assert [target.registers(vcpu)["ax"] for vcpu in (0, 1)] == [10, 11]
        assert target.read_memory(at("g", 1), 5, vcpu=1) == bytes.fromhex("0f1f440000")

    def test_every_hit_of_both_is_seen(self, smp_rig: Rig) -> None:
        target = smp_rig.target
        places = {vcpu: at("f_location", vcpu) for vcpu in (0, 1)}
        for place in places.values():
            target.insert_breakpoint(place, SW)
        hits: dict[int, list[int]] = {0: [], 1: []}
        while len(hits[0]) + len(hits[1]) < 20:
            go(target)
            for vcpu, ip in enumerate(target.instruction_pointers()):
                if ip == places[vcpu]:
                    hits[vcpu].append(target.registers(vcpu)["di"])
                    target.write_registers(vcpu, {"ip": ip + 5})
        for vcpu in (0, 1):
            assert hits[vcpu] == list(range(1, len(hits[vcpu]) + 1))
            assert hits[vcpu]

    @pytest.mark.parametrize("held", [0, 1])
    def test_a_held_vcpu_stands_still(self, smp_rig: Rig, held: int) -> None:
        target, other = smp_rig.target, 1 - held
        target.insert_breakpoint(at("f_location", other), SW)
        for _ in range(3):
            target.resume(hold=[held])
            assert target.wait(Deadline(LIMIT_SEC)) == Stop(StopKind.BREAKPOINT, other)
            assert target.instruction_pointers()[held] == at("main", held)
            target.write_registers(other, {"ip": at("f_location", other) + 5})
        assert smp_rig.rounds(held) == 0
        assert smp_rig.rounds(other) == 3
        # And runs again when nobody holds it.
        target.remove_breakpoint(at("f_location", other), SW)
        target.insert_breakpoint(at("f_location", held), SW)
        assert go(target) == Stop(StopKind.BREAKPOINT, held)

    def test_holding_everybody_lets_one_run(self, smp_rig: Rig) -> None:
        target = smp_rig.target
        for vcpu in (0, 1):
            target.insert_breakpoint(at("g", vcpu), SW)
        target.resume(hold=[0, 1])
        assert target.wait(Deadline(LIMIT_SEC)) is not None

    def test_a_step_moves_one_vcpu(self, smp_rig: Rig) -> None:
        target = smp_rig.target
        target.insert_breakpoint(at("main", 1), SW)
        target.step(1, Deadline(LIMIT_SEC))
        assert target.instruction_pointers() == [at("main", 0), at("main", 1) + 10]
        target.step(0, Deadline(LIMIT_SEC))
        assert target.instruction_pointers() == [at("main", 0) + 10, at("main", 1) + 10]

    def test_detach_leaves_both_running(self, smp_rig: Rig) -> None:
        smp_rig.target.step(1, Deadline(LIMIT_SEC))
        smp_rig.target.resume(hold=[1])
        smp_rig.target.detach()
        run_past(smp_rig, 2)
        deadline = Deadline(LIMIT_SEC)
        while smp_rig.rounds(1) < 2:
            assert not deadline.expired
            smp_rig.let_run()
