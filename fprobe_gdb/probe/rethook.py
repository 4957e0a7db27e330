"""The rethook node pool and the per-task stacks of calls in flight (kernel/trace/rethook.c, Linux 6.12).

A node stands for one call of a probed function that has not returned. It is found again by task, frame and return
address, never by return address alone or by CPU: many calls share a return address, and tasks migrate.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fprobe_gdb.probe.fprobe import Fprobe

__all__ = ["EntryData", "Rethook", "RethookNode", "ShadowStacks"]

# Kernel stacks are THREAD_SIZE big and THREAD_SIZE aligned (arch/x86/include/asm/page_64_types.h: 16 KiB without
# KASAN). Interrupt stacks are only page aligned, but never share an aligned block with a task's stack.
_THREAD_SHIFT = 14


class EntryData(bytearray):
    """``fprobe_rethook_node.data``: ``entry_data_size`` bytes that travel from the entry to the exit handler.

    It is a bytearray, for layouts as C has them; attributes may be set too (``entry_data.t0 = k.time_ns``). As in the
    kernel, nothing clears it between two uses of the same node.
    """

    def __getattr__(self, name: str) -> object:
        raise AttributeError(f"entry_data has no {name!r} yet; set it in the entry handler")

    # Declared so that type checkers accept the attributes that handlers invent.
    if TYPE_CHECKING:

        def __setattr__(self, name: str, value: object) -> None: ...


class RethookNode:
    """One call in flight of one fprobe (``struct fprobe_rethook_node``)."""

    __slots__ = ("data", "entry_ip", "exiting", "frame", "ret_addr", "rethook", "task")

    def __init__(self, rethook: Rethook, entry_data_size: int) -> None:
        self.rethook = rethook
        self.data = EntryData(entry_data_size)
        self.entry_ip = 0
        #: Where the call returns to.
        self.ret_addr = 0
        #: Address of the return slot: the stack pointer when the function was entered.
        self.frame = 0
        self.task = 0
        #: Its exit handler is running; the node is still taken, as in the kernel.
        self.exiting = False


class Rethook:
    """``struct rethook``: the pool of one fprobe, fixed at registration (see :meth:`.ProbeCore.grow`).

    :param size: number of nodes, at least 1; it may be raised.
    """

    def __init__(self, fprobe: Fprobe, size: int, entry_data_size: int) -> None:
        self.fprobe = fprobe
        self.size = size
        #: ``rethook_stop()``: no more nodes, no more exit handlers.
        self.stopped = False
        self._entry_data_size = entry_data_size
        self._free: list[RethookNode] = []
        # Nodes are made when first needed: the default pool of a glob has thousands that are never used.
        self._made = 0

    @property
    def in_flight(self) -> int:
        """Nodes that are taken."""
        return self._made - len(self._free)

    def try_get(self) -> RethookNode | None:
        """``rethook_try_get()``: a node, or None when all are taken or the rethook is stopped."""
        if self.stopped:
            return None
        if self._free:
            return self._free.pop()
        if self._made < self.size:
            self._made += 1
            return RethookNode(self, self._entry_data_size)
        return None

    def recycle(self, node: RethookNode) -> None:
        """``rethook_recycle()``."""
        node.exiting = False
        self._free.append(node)


class ShadowStacks:
    """``current->rethooks`` of all tasks: for each task its calls in flight, newest last."""

    def __init__(self) -> None:
        #: The stacks of tasks that have any; to be looked at only.
        self.by_task: dict[int, list[RethookNode]] = {}

    def __iter__(self) -> Iterator[RethookNode]:
        for stack in self.by_task.values():
            yield from stack

    def __len__(self) -> int:
        return sum(len(stack) for stack in self.by_task.values())

    def push(self, node: RethookNode) -> None:
        """Put a hooked node on its task's stack."""
        stack = self.by_task.get(node.task)
        if stack is None:
            self.by_task[node.task] = [node]
        else:
            stack.append(node)

    def depth(self, task: int, frame: int = 0, entry_ip: int = 0) -> int:
        """Distinct calls of a task in flight (several fprobes and tail calls share one frame, and count once).

        :param frame, entry_ip: a call that does not count.
        """
        nodes = self.by_task.get(task, ())
        return len({node.frame for node in nodes if (node.frame, node.entry_ip) != (frame, entry_ip)})

    def at_frame(self, task: int, frame: int, ret_addr: int) -> list[RethookNode]:
        """The nodes that one physical return of a task ends, in the order in which their exit handlers run."""
        stack = self.by_task.get(task)
        if not stack:
            return []
        if len(stack) == 1:
            # Most often; a comprehension costs as much again.
            (n,) = stack
            return [n] if n.frame == frame and n.ret_addr == ret_addr and not n.exiting else []
        return [n for n in reversed(stack) if n.frame == frame and n.ret_addr == ret_addr and not n.exiting]

    def any_at_frame(self, task: int, frame: int, ret_addr: int) -> bool:
        """Whether :meth:`at_frame` gives any."""
        # Not any(...): a generator would cost three times as much.
        for n in self.by_task.get(task, ()):  # noqa: SIM110
            if n.frame == frame and n.ret_addr == ret_addr and not n.exiting:
                return True
        return False

    def take_below(self, task: int, sp: int) -> list[RethookNode]:
        """Unlink the nodes whose return slot lies below the stack pointer on the same stack.

        Their functions never return: the stack was cut back over them (``rewind_stack_and_make_dead()`` and the like).
        """
        below = None
        for n in self.by_task.get(task, ()):
            if n.frame < sp and (n.frame ^ sp) >> _THREAD_SHIFT == 0 and not n.exiting:
                below = [n] if below is None else [*below, n]
        return self._take(task, below) if below else []

    def take_task(self, task: int) -> list[RethookNode]:
        """Unlink all nodes of a dead task (``rethook_flush_task()``) that are not in their exit handler just now."""
        return self._take(task, [node for node in self.by_task.get(task, ()) if not node.exiting])

    def take_of(self, fprobe: Fprobe) -> list[RethookNode]:
        """Unlink all nodes of one fprobe that are not in their exit handler just now."""
        taken = []
        for task in list(self.by_task):
            mine = [node for node in self.by_task[task] if node.rethook.fprobe is fprobe and not node.exiting]
            taken += self._take(task, mine)
        return taken

    def take_within(self, text: range) -> list[RethookNode]:
        """Unlink the nodes of functions in a stretch of code, or that return to it, as :meth:`take_of`."""
        taken = []
        for task in list(self.by_task):
            within = [n for n in self.by_task[task] if (n.entry_ip in text or n.ret_addr in text) and not n.exiting]
            taken += self._take(task, within)
        return taken

    def unlink(self, task: int, nodes: list[RethookNode]) -> None:
        """Unlink nodes that have returned. Nodes that are gone already (their task died meanwhile) are passed over."""
        self._take(task, nodes)

    def _take(self, task: int, nodes: list[RethookNode]) -> list[RethookNode]:
        stack = self.by_task.get(task)
        if nodes and stack:
            if len(nodes) == 1 and stack[-1] is nodes[0]:
                # Calls return in this order.
                stack.pop()
                if not stack:
                    del self.by_task[task]
                return nodes
            gone = set(map(id, nodes))
            left = [node for node in stack if id(node) not in gone]
            if left:
                self.by_task[task] = left
            else:
                del self.by_task[task]
        return nodes
