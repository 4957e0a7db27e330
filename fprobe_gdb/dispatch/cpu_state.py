"""What a stopped vCPU is doing, in Linux's terms: one pipelined read at each hit."""

from __future__ import annotations

from dataclasses import dataclass

from fprobe_gdb.errors import MemoryFault
from fprobe_gdb.registers import MASK64, Registers
from fprobe_gdb.target.base import Target

__all__ = ["CpuState", "PerCpuOffsets", "read_cpu_state"]

# Bytes read at ip: the 5-byte fentry instruction.
_SITE_BYTES = 5
# Kernel addresses are the upper half; a gs_base below is user space's (interrupt entry before SWAPGS).
_KERNEL_HALF = 1 << 63


@dataclass(frozen=True, slots=True)
class PerCpuOffsets:
    """Where the per-CPU variables that a hit needs lie, as offsets from ``gs_base``; None where a kernel has none."""

    current_task: int | None
    preempt_count: int | None
    current_kprobe: int | None


@dataclass(frozen=True, slots=True)
class CpuState:
    """A vCPU at a stop. Valid until the guest resumes."""

    vcpu: int
    registers: Registers
    #: ``struct task_struct *``, 0 where it cannot be read.
    task: int
    #: The raw per-CPU preempt count.
    preempt_count: int
    kprobe_running: bool
    #: The word at [sp], None where the stack is not mapped.
    stack_word: int | None
    #: The five bytes at ip.
    code: bytes

    @property
    def ip(self) -> int:
        """The instruction pointer."""
        return self.registers["ip"]

    @property
    def sp(self) -> int:
        """The stack pointer."""
        return self.registers["sp"]


def read_cpu_state(target: Target, vcpu: int, offsets: PerCpuOffsets) -> CpuState:
    """Read a vCPU of the stopped guest: two exchanges."""
    registers = target.registers(vcpu)
    gs_base = registers["gs_base"]
    wanted = [(registers["ip"], _SITE_BYTES), (registers["sp"], 8)]
    sizes = ((offsets.current_task, 8), (offsets.preempt_count, 4), (offsets.current_kprobe, 8))
    per_cpu = [offset is not None and gs_base >= _KERNEL_HALF for offset, _ in sizes]
    wanted += [((gs_base + (o or 0)) & MASK64, size) for (o, size), use in zip(sizes, per_cpu, strict=True) if use]
    answers = iter(target.read_many(wanted, vcpu=vcpu))
    code = next(answers)
    stack_word = _integer(next(answers))
    task, preempt_count, kprobe = (_integer(next(answers)) if use else None for use in per_cpu)
    return CpuState(
        vcpu=vcpu,
        registers=registers,
        task=task or 0,
        preempt_count=preempt_count or 0,
        kprobe_running=bool(kprobe),
        stack_word=stack_word,
        code=b"" if isinstance(code, MemoryFault) else code,
    )


def _integer(data: bytes | MemoryFault) -> int | None:
    return None if isinstance(data, MemoryFault) else int.from_bytes(data, "little")
