"""The recursion guard of ftrace: ``trace_test_and_set_recursion()`` (include/linux/trace_recursion.h, Linux 6.12).

Each task has, for each group, one bit a context (normal, softirq, hardirq, NMI) and one TRANSITION bit. Entering a
context whose bit is taken takes TRANSITION instead and succeeds; when that is taken too, the attempt fails. So a
handler that runs into its own probe is let in once more, and not a third time.

Outside the kernel a handler can only run into a probe when it calls a guest function: the guest stands still otherwise.
"""

from __future__ import annotations

from enum import Enum, IntEnum

__all__ = ["Context", "Group", "RecursionGuard", "context_of"]

# The TRANSITION bit, above the four context bits.
_TRANSITION = 4

_NMI_MASK = 0xF00000
_HARDIRQ_MASK = 0xF0000
_SERVING_SOFTIRQ = 0x100


class Context(IntEnum):
    """``interrupt_context_level()`` of include/linux/preempt.h."""

    NORMAL = 0
    SOFTIRQ = 1
    HARDIRQ = 2
    NMI = 3


class Group(Enum):
    """The two groups of bits: ``TRACE_FTRACE_START`` (callbacks) and ``TRACE_LIST_START`` (the list function)."""

    FTRACE = 0
    LIST = 1


def context_of(preempt_count: int) -> Context:
    """The context that a per-CPU preempt count tells (include/linux/preempt.h; same masks in 5.10 to 6.12)."""
    if preempt_count & _NMI_MASK:
        return Context.NMI
    if preempt_count & _HARDIRQ_MASK:
        return Context.HARDIRQ
    return Context.SOFTIRQ if preempt_count & _SERVING_SOFTIRQ else Context.NORMAL


class RecursionGuard:
    """``current->trace_recursion`` of all tasks."""

    def __init__(self) -> None:
        self._taken: set[tuple[int, Group, int]] = set()

    def trylock(self, task: int, context: Context, group: Group = Group.FTRACE) -> int | None:
        """``ftrace_test_recursion_trylock()``: the bit to give back to :meth:`unlock`, None when refused."""
        for bit in (int(context), _TRANSITION):
            key = (task, group, bit)
            if key not in self._taken:
                self._taken.add(key)
                return bit
        return None

    def unlock(self, task: int, bit: int, group: Group = Group.FTRACE) -> None:
        """``ftrace_test_recursion_unlock()``."""
        self._taken.discard((task, group, bit))
