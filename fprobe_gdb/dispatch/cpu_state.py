"""What a stopped vCPU is doing, in Linux's terms: one pipelined read at each hit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fprobe_gdb.errors import MemoryFault
from fprobe_gdb.registers import MASK64
from fprobe_gdb.target.base import Target

__all__ = ["CpuState", "PerCpuOffsets", "read_cpu_state"]

# Bytes read at ip: the 5-byte fentry instruction.
_SITE_BYTES = 5
# Kernel addresses are the upper half; a gs_base below is user space's (interrupt entry before SWAPGS).
_KERNEL_HALF = 1 << 63
# On 6.1 the three variables lie within 600 bytes; on 6.12 two of them share a cache line.
_NEAR_BYTES = 1024


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
    registers: Mapping[str, int]
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
    variables = ((offsets.current_task, 8), (offsets.preempt_count, 4), (offsets.current_kprobe, 8))
    pieces = _pieces([(offset, size) for offset, size in variables if offset is not None])
    if gs_base < _KERNEL_HALF:
        pieces = []
    wanted = [(registers["ip"], _SITE_BYTES), (registers["sp"], 8)]
    wanted += [((gs_base + begin) & MASK64, end - begin) for begin, end in pieces]
    code, stack_word, *areas = target.read_many(wanted, vcpu=vcpu)

    def variable(offset: int | None, size: int) -> int:
        for (begin, end), area in zip(pieces, areas, strict=True):
            if offset is not None and begin <= offset < end and not isinstance(area, MemoryFault):
                return int.from_bytes(area[offset - begin :][:size], "little")
        return 0

    task, preempt_count, kprobe = (variable(offset, size) for offset, size in variables)
    return CpuState(
        vcpu=vcpu,
        registers=registers,
        task=task,
        preempt_count=preempt_count,
        kprobe_running=bool(kprobe),
        stack_word=None if isinstance(stack_word, MemoryFault) else int.from_bytes(stack_word, "little"),
        code=b"" if isinstance(code, MemoryFault) else code,
    )


# Where variables lie close together, one read is cheaper than two: (begin, end) of what to read.
def _pieces(variables: list[tuple[int, int]]) -> list[tuple[int, int]]:
    pieces: list[tuple[int, int]] = []
    for offset, size in sorted(variables):
        if pieces and offset - pieces[-1][1] <= _NEAR_BYTES:
            pieces[-1] = (pieces[-1][0], max(pieces[-1][1], offset + size))
        else:
            pieces.append((offset, offset + size))
    return pieces
