"""What the fake does beyond the contract: its schedule, its limits, its interpreter's refusals."""

from __future__ import annotations

import pytest

from emu.deadline import Deadline
from fprobe_gdb.errors import BreakpointRefused, MemoryFault, TargetLost, UsageError, WaitTimeout
from fprobe_gdb.target.base import BreakpointKind, Stop, StopKind
from fprobe_gdb.target.fake import FakeTarget
from fprobe_gdb.target.fake_asm import Assembler
from fprobe_gdb.target.fake_cpu import UnknownInstruction

LIMIT = Deadline(1)
STACK = 0x8000


def guest(asm: Assembler, vcpus: int = 1, **options: object) -> FakeTarget:
    fake = FakeTarget(vcpus=vcpus, **options)  # type: ignore[arg-type]
    fake.load(asm.origin, asm.assemble())
    fake.memory.map(STACK - 0x1000, 0x1000)
    for vcpu in range(vcpus):
        fake.set_registers(vcpu, ip=asm.origin, sp=STACK - 0x100 * vcpu)
    return fake


def run_to_halt(asm: Assembler) -> FakeTarget:
    fake = guest(asm.hlt())
    fake.resume()
    with pytest.raises(WaitTimeout):
        fake.wait(LIMIT)
    assert fake.halted(0)
    fake.interrupt()
    assert fake.wait(LIMIT) == Stop(StopKind.INTERRUPT, 0)
    return fake


def test_a_schedule_decides_whose_turn_it_is() -> None:
    asm = Assembler(0x1000).label("loop").inc("ax").jmp("loop")
    fake = guest(asm, vcpus=2, schedule=[0, 0, 0, 1], quantum=2)
    fake.interrupt_after(80)
    fake.resume()
    assert fake.wait(LIMIT) == Stop(StopKind.INTERRUPT, 0)
    assert [fake.registers(vcpu)["ax"] for vcpu in (0, 1)] == [30, 10]


def test_arithmetic_and_flags_decide_jumps() -> None:
    asm = Assembler(0x1000).mov("cx", 5).mov("r9", 0)
    asm.label("again").add("r9", "cx").dec("cx").jnz("again").cmp("r9", 15).jz("good").mov("r9", 0).label("good")
    assert run_to_halt(asm).registers(0)["r9"] == 15


def test_stack_and_memory() -> None:
    asm = (
        Assembler(0x1000)
        .mov("r12", -2)
        .push("r12")
        .pop("r8")
        .mov("bp", 0x7800)
        .store("bp", 8, "r8")
        .load("r13", "bp", 8)
    )
    asm.sub("r13", -3).test("r13", "r13")
    registers = run_to_halt(asm).registers(0)
    assert (registers["r8"], registers["r13"], registers["sp"]) == ((1 << 64) - 2, 1, STACK)


@pytest.mark.parametrize(
    "nop",
    ["90", "6690", "0f1f00", "0f1f4000", "0f1f440000", "660f1f440000", "0f1f8000000000", "0f1f840000000000",
     "660f1f840000000000", "662e0f1f840000000000", "f30f1efa", "660f1f00", "0f1f40d6", "f390"],
)  # fmt: skip
def test_nops_of_all_lengths(nop: str) -> None:
    fake = guest(Assembler(0x1000).raw(bytes.fromhex(nop)).hlt())
    before = fake.registers(0)
    fake.step(0, LIMIT)
    assert fake.registers(0) == before | {"ip": 0x1000 + len(nop) // 2}


@pytest.mark.parametrize("code", ["0f0b", "cc", "f3a4", "66b80100", "0f05", "d1e0", "ff38", "c7c8", "06"])
def test_unknown_instructions_are_refused(code: str) -> None:
    fake = guest(Assembler(0x1000).raw(bytes.fromhex(code)).raw(bytes(16)))
    before = fake.registers(0)
    with pytest.raises(UnknownInstruction, match="0x1000"):
        fake.step(0, LIMIT)
    assert fake.registers(0) == before


def test_code_that_is_not_there() -> None:
    fake = FakeTarget()
    fake.set_registers(0, ip=0x1000)
    with pytest.raises(MemoryFault):
        fake.step(0, LIMIT)


def test_hardware_breakpoints_can_run_out() -> None:
    fake = FakeTarget(hardware_breakpoints=1)
    fake.insert_breakpoint(1, BreakpointKind.HARDWARE)
    with pytest.raises(BreakpointRefused):
        fake.insert_breakpoint(2, BreakpointKind.HARDWARE)
    with pytest.raises(UsageError):
        fake.insert_breakpoint(1, BreakpointKind.HARDWARE)
    with pytest.raises(UsageError):
        fake.remove_breakpoint(2, BreakpointKind.HARDWARE)


def test_devices_answer_physical_reads_only() -> None:
    fake = FakeTarget()
    fake.memory.add_device(0xFED000F0, 8, lambda offset, size: bytes(range(offset, offset + size)))
    assert fake.read_physical(0xFED000F2, 4) == bytes((2, 3, 4, 5))
    with pytest.raises(MemoryFault):
        fake.read_memory(0xFED000F0, 8)
    with pytest.raises(MemoryFault):
        fake.read_physical(0xFED000F6, 4)


def test_it_can_die_in_the_middle() -> None:
    fake = guest(Assembler(0x1000).label("loop").jmp("loop"))
    fake.after(10, FakeTarget.lose)
    fake.resume()
    with pytest.raises(TargetLost):
        fake.wait(LIMIT)
    assert fake.instructions == 10


@pytest.mark.parametrize("options", [{"schedule": [2]}, {"schedule": []}, {"quantum": 0}])
def test_schedules_that_make_no_sense(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        FakeTarget(vcpus=2, **options)  # type: ignore[arg-type]
