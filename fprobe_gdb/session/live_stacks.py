"""What the tasks of a stopped guest will return to: the live parts of all its kernel stacks.

A word below a stack pointer is dead, and nobody returns to it. So it takes each stack's pointer to tell whether
somebody is inside a piece of code: that of a task that waits is in its ``struct task_struct``, that of a running one is
a CPU's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set

from fprobe_gdb.dispatch.cpu_state import PerCpuOffsets, read_cpu_state
from fprobe_gdb.errors import MemoryFault, TypeLookupError
from fprobe_gdb.kernel.btf import Btf
from fprobe_gdb.target.base import Target

__all__ = ["LiveStacks"]

_PAGE_BYTES = 4096
# THREAD_SIZE and IRQ_STACK_SIZE without KASAN (arch/x86/include/asm/page_64_types.h).
_STACK_BYTES = 4 * _PAGE_BYTES
_KERNEL_HALF = 1 << 63
# More than any guest has.
_MOST_TASKS = 1 << 20

Read = Callable[[int, int], bytes]


class LiveStacks:
    """The stacks of one guest.

    :param init_task: address of the first task.
    :param read: reads kernel memory.
    """

    def __init__(self, btf: Btf, init_task: int, target: Target, offsets: PerCpuOffsets, read: Read) -> None:
        task = btf.struct("task_struct")
        self._tasks, self._node, self._signal, self._stack, self._sp = (
            task.find_member(name).byte_offset for name in ("tasks", "thread_node", "signal", "stack", "thread.sp")
        )
        self._head = btf.struct("signal_struct").find_member("thread_head").byte_offset
        self._stack_bytes = _stack_bytes(btf)
        self._init_task = init_task
        self._target = target
        self._offsets = offsets
        self._read = read

    def somebody_in(self, begin: int, end: int) -> str:
        """Who is inside a piece of code, or may be: for people. Empty when nobody is.

        :param begin, end: addresses.
        """
        try:
            for who, words in self._all():
                if any(begin <= word < end for word in words):
                    return f"{who} is"
        except MemoryFault as fault:
            return f"a stack cannot be read ({fault}), so somebody may be"
        return ""

    def standing_at(self, wanted: Set[int]) -> set[int]:
        """At which of these addresses somebody goes on, or may."""
        found: set[int] = set()
        try:
            for _, words in self._all():
                found.update(wanted & set(words))
        except MemoryFault:
            return set(wanted)
        return found

    # Everybody, and what he will return to.
    def _all(self) -> Iterator[tuple[str, list[int]]]:
        running = set()
        for vcpu in self._target.vcpus:
            task, words = self._cpu(vcpu)
            running.add(task)
            yield f"CPU {vcpu}", words
        for task in self._all_tasks():
            if task not in running:
                yield f"the task at {task:#x}", self._waiting(task)

    # The task that a vCPU runs, and what it will return to: nothing in user mode.
    def _cpu(self, vcpu: int) -> tuple[int, list[int]]:
        state = read_cpu_state(self._target, vcpu, self._offsets)
        if state.ip < _KERNEL_HALF:
            return state.task, []
        if not state.task:
            raise MemoryFault(state.sp, 8)
        bottom = self._word(state.task + self._stack)
        if bottom <= state.sp < bottom + self._stack_bytes:
            return state.task, [state.ip, *self._words(state.sp, bottom + self._stack_bytes)]
        # On the interrupts' stack; its topmost word is where the task's begins
        # (arch/x86/include/asm/irq_stack.h, call_on_stack()).
        above = list(self._up_from(state.sp))
        entered = [word for word in above if bottom <= word < bottom + self._stack_bytes]
        below = self._words(min(entered, default=bottom) & -8, bottom + self._stack_bytes)
        return state.task, [state.ip, *above, *below]

    def _waiting(self, task: int) -> list[int]:
        bottom, sp = self._word(task + self._stack), self._word(task + self._sp)
        if not bottom:
            # It is dead, and its stack is gone.
            return []
        return self._words(sp if bottom <= sp < bottom + self._stack_bytes else bottom, bottom + self._stack_bytes)

    # All threads of all processes.
    def _all_tasks(self) -> Iterator[int]:
        for leader in self._list(self._init_task + self._tasks, self._tasks):
            head = self._word(leader + self._signal) + self._head
            yield leader
            yield from (thread for thread in self._list(head, self._node) if thread != leader)

    # What a struct list_head links, but for what it is in itself.
    def _list(self, head: int, offset: int) -> Iterator[int]:
        at = head
        for _ in range(_MOST_TASKS):
            at = self._word(at)
            if at == head:
                return
            yield at - offset
        raise MemoryFault(head, 8)

    def _word(self, addr: int) -> int:
        return int.from_bytes(self._read(addr, 8), "little")

    def _words(self, begin: int, end: int) -> list[int]:
        return memoryview(self._read(begin & -8, end - (begin & -8))).cast("Q").tolist()

    # The words from an address up to where its mapping ends, on a stack.
    def _up_from(self, sp: int) -> Iterator[int]:
        at = sp & -8
        while at < sp + _STACK_BYTES:
            end = (at | _PAGE_BYTES - 1) + 1
            try:
                words = self._words(at, end)
            except MemoryFault:
                if at == sp & -8:
                    raise
                return
            yield from words
            at = end


# THREAD_SIZE.
def _stack_bytes(btf: Btf) -> int:
    try:
        return btf.union("thread_union").size_bytes
    except TypeLookupError:
        return _STACK_BYTES
