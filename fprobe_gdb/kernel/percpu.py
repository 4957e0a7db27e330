"""Where the per-CPU variables are that tell of a stopped vCPU which task it runs and in what context.

A variable of a vCPU is at ``gs_base + offset`` (modulo 2^64) on every x86_64 SMP kernel. Up to 6.14 per-CPU symbols are
linked from address 0 and gs_base is the CPU's area; from 6.15 they are linked at kernel addresses and gs_base is the
distance between the two. Which one holds need not be known, but for KASLR, which moves the latter: with symbols where
KASLR has put them (:meth:`.SymbolTable.slid`) both are right.
"""

from __future__ import annotations

from dataclasses import dataclass

from fprobe_gdb.errors import ImageError
from fprobe_gdb.kernel.image import KernelImage
from fprobe_gdb.kernel.symbols import SymbolTable

__all__ = ["PerCpuLayout"]

_MASK64 = (1 << 64) - 1
# struct pcpu_hot, arch/x86/include/asm/current.h, 6.2 to 6.14
_PCPU_HOT = {"current_task": 0, "__preempt_count": 8, "cpu_number": 12}


@dataclass(frozen=True, slots=True)
class PerCpuLayout:
    """Offsets from ``gs_base`` in bytes; None where the kernel has no such variable."""

    #: ``struct task_struct *``: current.
    current_task: int
    #: ``int``: the raw preempt count, bit 31 is PREEMPT_NEED_RESCHED inverted.
    preempt_count: int | None
    #: ``int``: the CPU's number; None on a uniprocessor kernel.
    cpu_number: int | None
    #: ``struct kprobe *``: not NULL while a kprobe handler runs; None without CONFIG_KPROBES.
    current_kprobe: int | None

    @classmethod
    def from_symbols(cls, symbols: SymbolTable, image: KernelImage) -> PerCpuLayout:
        """Find the layout by which symbols there are.

        :raise ImageError: neither ``current_task`` nor ``pcpu_hot`` is known (symbols without CONFIG_KALLSYMS_ALL).
        """
        base = _gs_base_when_up(symbols, image)

        def offset(name: str) -> int | None:
            found = symbols.addresses(name)
            if found:
                return (found[0] - base) & _MASK64
            hot = symbols.addresses("pcpu_hot")
            return (hot[0] + _PCPU_HOT[name] - base) & _MASK64 if hot and name in _PCPU_HOT else None

        current_task = offset("current_task")
        if current_task is None:
            raise ImageError(
                image.path,
                f"its {symbols.source} know neither current_task nor pcpu_hot (CONFIG_KALLSYMS_ALL is off?), so tasks "
                "cannot be told apart; give its System.map",
            )
        return cls(current_task, offset("__preempt_count"), offset("cpu_number"), offset("current_kprobe"))

    @staticmethod
    def address(offset: int, gs_base: int) -> int:
        """Where a variable is on the vCPU with this ``gs_base``, in kernel mode."""
        return (gs_base + offset) & _MASK64


# A uniprocessor kernel has no .data..percpu section: its "per-CPU" variables are plain ones, read without gs. Its
# gs_base is the address of fixed_percpu_data all the same (arch/x86/kernel/head_64.S, initial_gs, up to 6.14), so that
# is taken off here.
def _gs_base_when_up(symbols: SymbolTable, image: KernelImage) -> int:
    if image.section(".data..percpu") is not None or not image.sections:
        return 0
    return next(iter(symbols.addresses("fixed_percpu_data")), 0)
