"""Lines as tracefs' ``trace`` file has them, so that readers of ftrace text take them (trace_output.c, Linux 6.12)::

                  sh-145     [001] ...1.    39.711474: myopen: (vfs_open+0x4/0xf0) mode=0x2

The text behind the time comes from elsewhere. The five flags tell the state of the CPU when the function was entered or
had returned. DIFFERS: in lines of returns the kernel shows its own handler's preempt depth; ours is the guest's.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TraceContext", "header", "trace_line"]

# struct thread_info's TIF_NEED_RESCHED (arch/x86/include/asm/thread_info.h, up to 6.12) and TIF_NEED_RESCHED_LAZY.
_TIF_NEED_RESCHED = 1 << 3
# include/linux/preempt.h; bit 31 is clear when the CPU needs to reschedule (arch/x86/include/asm/preempt.h).
_PREEMPT_MASK, _SOFTIRQ_OFFSET, _SOFTIRQ_MASK = 0xFF, 0x100, 0xFF00
_HARDIRQ_MASK, _NMI_MASK, _NO_NEED_RESCHED = 0xF0000, 0xF00000, 1 << 31
_MAX_DEPTH = 15

_ART = """\
#                                _-----=> irqs-off/BH-disabled
#                               / _----=> need-resched
#                              | / _---=> hardirq/softirq
#                              || / _--=> preempt-depth
#                              ||| / _-=> migrate-disable
#                              |||| /     delay
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
"""


@dataclass(frozen=True, slots=True)
class TraceContext:
    """What stands before the text."""

    comm: str
    pid: int
    cpu: int
    time_ns: int
    irqs_off: bool = False
    #: The raw per-CPU count; None where the kernel has none.
    preempt_count: int | None = None
    #: ``thread_info.flags`` of the task.
    thread_flags: int = 0
    #: ``task_struct.migration_disabled``.
    migration_disabled: int = 0


def header(entries: int, written: int, cpus: int) -> str:
    """The lines before the first event, with a last newline.

    :param entries: events that follow.
    :param written: events that there were, lost ones too.
    """
    counts = f"# entries-in-buffer/entries-written: {entries}/{written}   #P:{cpus}"
    return f"# tracer: nop\n#\n{counts}\n#\n{_ART}"


def trace_line(context: TraceContext, text: str) -> str:
    """One event, without a newline."""
    comm = context.comm if context.pid else "<idle>"
    sec, rest_ns = divmod(context.time_ns, 1_000_000_000)
    return (
        f"{comm:>16}-{context.pid:<7} [{context.cpu:03}] {_flags(context)} "
        f"{sec:5}.{rest_ns // 1000:06}: {text}"
    )  # fmt: skip


def _flags(context: TraceContext) -> str:
    count = context.preempt_count or 0
    softirqs_off = (count & _SOFTIRQ_MASK) > _SOFTIRQ_OFFSET
    irqs = ("D" if softirqs_off else "d") if context.irqs_off else "b" if softirqs_off else "."
    depths = (count & _PREEMPT_MASK, context.migration_disabled)
    return irqs + _need_resched(context) + _interrupt(count) + "".join(map(_depth, depths))


def _need_resched(context: TraceContext) -> str:
    by_task = bool(context.thread_flags & _TIF_NEED_RESCHED)
    by_cpu = context.preempt_count is not None and not context.preempt_count & _NO_NEED_RESCHED
    return {(True, True): "N", (True, False): "n", (False, True): "p"}.get((by_task, by_cpu), ".")


def _interrupt(count: int) -> str:
    hardirq, softirq = count & _HARDIRQ_MASK, count & _SOFTIRQ_OFFSET
    if count & _NMI_MASK:
        return "Z" if hardirq else "z"
    if hardirq:
        return "H" if softirq else "h"
    return "s" if softirq else "."


def _depth(depth: int) -> str:
    return f"{min(depth, _MAX_DEPTH):x}" if depth else "."
