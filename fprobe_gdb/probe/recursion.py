"""The recursion guard of ftrace: ``trace_test_and_set_recursion()`` (include/linux/trace_recursion.h, Linux 6.12).

Each task has, for each group, one bit a context (normal, softirq, hardirq, NMI) and one TRANSITION bit. Entering a
context whose bit is taken takes TRANSITION instead and succeeds; when that is taken too, the attempt fails. So a
handler that runs into its own probe is let in once more, and not a third time.

Outside the kernel a handler can only run into a probe when it calls a guest function: the guest stands still otherwise.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["IN_INTERRUPT_MASK", "Context", "RecursionGuard", "context_of"]

# The TRANSITION bit, above the four context bits.
_TRANSITION = 1 << 4

_NMI_MASK = 0xF00000
_HARDIRQ_MASK = 0xF0000
_SERVING_SOFTIRQ = 0x100
#: Bits of a preempt count that are all clear in :attr:`Context.NORMAL`.
IN_INTERRUPT_MASK = _NMI_MASK | _HARDIRQ_MASK | _SERVING_SOFTIRQ


class Context(IntEnum):
    """``interrupt_context_level()`` of include/linux/preempt.h."""

    NORMAL = 0
    SOFTIRQ = 1
    HARDIRQ = 2
    NMI = 3


def context_of(preempt_count: int) -> Context:
    """The context that a per-CPU preempt count tells (include/linux/preempt.h; same masks in 5.10 to 6.12)."""
    if not preempt_count & IN_INTERRUPT_MASK:
        return Context.NORMAL
    if preempt_count & _NMI_MASK:
        return Context.NMI
    if preempt_count & _HARDIRQ_MASK:
        return Context.HARDIRQ
    return Context.SOFTIRQ


class RecursionGuard:
    """One group of bits in ``current->trace_recursion``, of all tasks: ``TRACE_FTRACE_START`` for callbacks, or
    ``TRACE_LIST_START`` for the list function.
    """

    def __init__(self) -> None:
        #: The bits of each task that has any.
        self.taken: dict[int, int] = {}

    def trylock(self, task: int, context: Context) -> int | None:
        """``ftrace_test_recursion_trylock()``: the bit to give back to :meth:`unlock`, None when refused."""
        bit = 1 << context
        taken = self.taken.get(task)
        if taken is None:
            self.taken[task] = bit
            return bit
        if taken & bit:
            bit = _TRANSITION
            if taken & bit:
                return None
        self.taken[task] = taken | bit
        return bit

    def unlock(self, task: int, bit: int) -> None:
        """``ftrace_test_recursion_unlock()``."""
        taken = self.taken
        if taken[task] == bit:
            del taken[task]
        else:
            taken[task] &= ~bit
