"""How deep calls nest, from records of entries and returns. Pure."""

from __future__ import annotations

from collections import defaultdict

from fprobe_gdb.dispatch.trampoline.record_format import Record

__all__ = ["CallsInFlight"]


class CallsInFlight:
    """Calls whose return is awaited, by task. Each has a node; where a return was lost, the node's next call tells."""

    def __init__(self) -> None:
        self._nodes: dict[int, set[int]] = defaultdict(set)
        self._task_of: dict[int, int] = {}

    def depth(self, task: int) -> int:
        """How many calls of a task are in flight."""
        return len(self._nodes.get(task, ()))

    def entry(self, record: Record) -> int:
        """A function is entered: how many calls of the task are around it. Node 0 stands for none."""
        if not record.node:
            return self.depth(record.task)
        self._forget(record.node)
        depth = self.depth(record.task)
        self._nodes[record.task].add(record.node)
        self._task_of[record.node] = record.task
        return depth

    def exit(self, record: Record) -> int:
        """A call returns: how many calls of the task are around it."""
        task = self._task_of.get(record.node, record.task)
        self._forget(record.node)
        return self.depth(task)

    def task_dead(self, task: int) -> None:
        """The calls of a task will never return."""
        for node in self._nodes.pop(task, set()):
            self._task_of.pop(node, None)

    def _forget(self, node: int) -> None:
        if (task := self._task_of.pop(node, None)) is not None:
            nodes = self._nodes[task]
            nodes.discard(node)
            if not nodes:
                del self._nodes[task]
