"""Lines as tracefs' ``trace`` file has them, so that readers of ftrace text take them (trace_output.c, Linux 6.12)::

                  sh-145     [001] ...1.    39.711474: myopen: (vfs_open+0x4/0xf0) mode=0x2

The text behind the time comes from elsewhere. The five flags tell the state of the CPU when the function was entered or
had returned. DIFFERS: in lines of returns the kernel shows its own handler's preempt depth; ours is the guest's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from fprobe_gdb.events import CpuFlags
from fprobe_gdb.output.quantities import guest_time

__all__ = ["COUNTS_CHARS", "UNKNOWN_COMM", "TraceContext", "counts_line", "header", "trace_line", "without_offset"]

#: The kernel's name for a task whose name it does not know.
UNKNOWN_COMM = "<...>"
#: Room for two numbers of 15 digits.
COUNTS_CHARS = 80

# struct thread_info's TIF_NEED_RESCHED (arch/x86/include/asm/thread_info.h, up to 6.12) and TIF_NEED_RESCHED_LAZY.
_TIF_NEED_RESCHED = 1 << 3
# include/linux/preempt.h; bit 31 is clear when the CPU needs to reschedule (arch/x86/include/asm/preempt.h).
_PREEMPT_MASK, _SOFTIRQ_OFFSET, _SOFTIRQ_MASK = 0xFF, 0x100, 0xFF00
_HARDIRQ_MASK, _NMI_MASK, _NO_NEED_RESCHED = 0xF0000, 0xF00000, 1 << 31
_MAX_DEPTH = 15
_OFFSET = re.compile(r"\+0x[0-9a-f]+(?= \[|$)")

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
    flags: CpuFlags = field(default_factory=CpuFlags)


def header(tracer: str) -> tuple[str, str]:
    """The lines before the first event, those before :func:`counts_line` and those behind it and its ``#``.

    :param tracer: ``"nop"`` for events alone, ``"function"`` where there are functions too.
    """
    return f"# tracer: {tracer}\n#", _ART.removesuffix("\n")


def counts_line(entries: int, written: int, cpus: int) -> str:
    """The line of the header that says what follows: at most :data:`COUNTS_CHARS` characters.

    :param entries: events that follow; a stack trace is one.
    :param written: events that there were, lost ones too.
    """
    return f"# entries-in-buffer/entries-written: {entries}/{written}   #P:{cpus}"


def trace_line(context: TraceContext, text: str) -> str:
    """One event, without a newline."""
    comm = context.comm if context.pid or context.comm == UNKNOWN_COMM else "<idle>"
    task = f"{comm:>16}-{context.pid:<7}"
    return f"{task} [{context.cpu:03}] {_flags(context.flags)} {guest_time(context.time_ns)}: {text}"


def without_offset(symbol: str) -> str:
    """``vfs_read+0x75 [mod]`` to ``vfs_read [mod]``: how tracefs shows callers and stacks by default."""
    return _OFFSET.sub("", symbol)


def _flags(flags: CpuFlags) -> str:
    count = flags.preempt_count or 0
    softirqs_off = (count & _SOFTIRQ_MASK) > _SOFTIRQ_OFFSET
    irqs = ("D" if softirqs_off else "d") if flags.irqs_off else "b" if softirqs_off else "."
    depths = (count & _PREEMPT_MASK, flags.migration_disabled)
    return irqs + _need_resched(flags) + _interrupt(count) + "".join(map(_depth, depths))


def _need_resched(flags: CpuFlags) -> str:
    by_task = bool(flags.thread_flags & _TIF_NEED_RESCHED)
    by_cpu = flags.preempt_count is not None and not flags.preempt_count & _NO_NEED_RESCHED
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
