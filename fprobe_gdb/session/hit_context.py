"""What can be told of any hit, whoever's handler asks: task, flags of the CPU, kernel stack."""

from __future__ import annotations

from fprobe_gdb.errors import BtfError, MemoryFault, TypeLookupError
from fprobe_gdb.events import CpuFlags
from fprobe_gdb.output.ftrace import UNKNOWN_COMM
from fprobe_gdb.probe.regs import PtRegs
from fprobe_gdb.session.view import GuestView, Task

__all__ = ["FlagsReader", "stack_lines", "task_of"]

# The interrupt flag: interrupts are on.
_EFLAGS_IF = 1 << 9


def task_of(k: GuestView) -> Task:
    """The running task; without a name where the kernel has no types."""
    return k.current if k.has_types else Task(k.task, UNKNOWN_COMM, 0, 0)


def stack_lines(k: GuestView, limit: int) -> tuple[str, ...]:
    """The kernel stack of the hit as symbol+offset, innermost first. One to three reads.

    As the guest's own ``stacktrace`` prints it. A trace that breaks off ends with the reason, in parentheses.

    :param limit: at most so many frames.
    """
    trace = k.stack(limit)
    broke_off = not trace.complete and len(trace) < limit
    return (*(k.symbolize(frame.ip) for frame in trace), *([f"({trace.why})"] if broke_off else []))


class FlagsReader:
    """Reads :class:`~fprobe_gdb.events.CpuFlags`; two reads a hit."""

    def __init__(self, k: GuestView) -> None:
        self._k = k
        # Offset and size by member.
        self._task_fields: dict[str, tuple[int, int]] = {}

    def read(self, regs: PtRegs) -> CpuFlags:
        """The flags at the hit that is being handled.

        :param regs: its registers.
        """
        has_count = self._k.knowledge.percpu.preempt_count is not None
        return CpuFlags(
            irqs_off=not regs.flags & _EFLAGS_IF,
            preempt_count=self._k._dispatch.current.preempt_count if has_count else None,
            thread_flags=self._task_field("thread_info.flags"),
            migration_disabled=self._task_field("migration_disabled"),
        )

    # An integer of struct task_struct; 0 where the kernel has no such member, or no types.
    def _task_field(self, path: str) -> int:
        k = self._k
        if path not in self._task_fields:
            try:
                member = k.btf.struct("task_struct").find_member(path)
                self._task_fields[path] = (member.byte_offset, member.type.size_bytes)
            except (BtfError, TypeLookupError):
                self._task_fields[path] = (0, 0)
        offset, size_bytes = self._task_fields[path]
        try:
            return int.from_bytes(k.read_memory(k.task + offset, size_bytes), "little") if size_bytes else 0
        except MemoryFault:
            return 0
