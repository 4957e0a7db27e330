"""What a record has of :class:`~fprobe_gdb.events.CpuFlags`: the word behind the task's pid, and code that fills it.

From below: what the preempt count uses of its bits (24), whether interrupts are on, whether the task's flags say that
it is to be rescheduled, one bit of nothing, ``migration_disabled`` (4, so up to 15, which is what tracefs shows), and
the preempt count's own highest bit.
"""

from __future__ import annotations

from dataclasses import dataclass

from fprobe_gdb.dispatch.trampoline.assembler import Asm, at, gs
from fprobe_gdb.events import CpuFlags

__all__ = ["TaskFlags", "emit_flags", "flags_of"]

# include/linux/preempt.h and arch/x86/include/asm/preempt.h, 5.10 to 6.18: up to NMI_MASK, and PREEMPT_NEED_RESCHED.
_COUNT_MASK = 0x80FFFFFF
# The interrupt flag in the flags register, TIF_NEED_RESCHED in the task's (arch/x86/include/asm/thread_info.h).
_EFLAGS_IF, _IF_SHIFT = 1 << 9, 24 - 9
_TIF_NEED_RESCHED, _TIF_SHIFT = 1 << 3, 25 - 3
_MIGRATION_MASK, _MIGRATION_SHIFT = 15, 27


@dataclass(frozen=True, slots=True)
class TaskFlags:
    """Where ``struct task_struct`` has ``thread_info.flags`` and ``migration_disabled``; None where it has not."""

    thread_flags: int | None
    migration_disabled: int | None


def emit_flags(asm: Asm, fields: TaskFlags, preempt_count: int | None, record: str, at_bytes: int) -> None:
    """Fill the upper half of a word whose lower half is there already. ``dx`` is the task; clobbers ``ax``.

    :param preempt_count: its per-CPU offset; the pad has added 1.
    :param record: register with the record's address, in which the word is ``at_bytes`` behind.
    """
    word = at(record, at_bytes)

    def add(mask: int, shift: int) -> None:
        asm.andl_imm("ax", mask)
        asm.shl_imm("ax", 32 + shift)
        asm.add(word, "ax")

    if fields.thread_flags is not None:
        asm.movl("ax", at("dx", fields.thread_flags))
        add(_TIF_NEED_RESCHED, _TIF_SHIFT)
    if fields.migration_disabled is not None:
        asm.movzwl("ax", at("dx", fields.migration_disabled))
        add(_MIGRATION_MASK, _MIGRATION_SHIFT)
    if preempt_count is not None:
        asm.movl("ax", gs(preempt_count))
        asm.decl("ax")
        add(_COUNT_MASK, 0)
    asm.pushfq()
    asm.pop("ax")
    add(_EFLAGS_IF, _IF_SHIFT)


def flags_of(word: int, *, has_count: bool = True) -> CpuFlags:
    """Take the word apart.

    :param has_count: whether the kernel has a preempt count.
    """
    return CpuFlags(
        irqs_off=not word >> _IF_SHIFT & _EFLAGS_IF,
        preempt_count=word & _COUNT_MASK if has_count else None,
        thread_flags=word >> _TIF_SHIFT & _TIF_NEED_RESCHED,
        migration_disabled=word >> _MIGRATION_SHIFT & _MIGRATION_MASK,
    )
