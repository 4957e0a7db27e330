"""Calls as the kernel's function_graph tracer draws them (kernel/trace/trace_functions_graph.c, Linux 6.12)::

    # CPU  DURATION                  FUNCTION CALLS
    # |     |   |                     |   |   |   |
     0)               |  ksys_read() {
     0) + 69.491 us   |    fdget_pos();
     0)               |    /* re: (vfs_read+0x4/0x370) count=64 */
     0) ! 120.160 us  |  }

A call is one line where its return is what its CPU records next, so a record is held until that is known; but not more
than :data:`MOST_HELD` of them: then the call gets its brace, as in the kernel when its reader is ahead of the return. A
brace without its own call above, on the same CPU, names the function.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

__all__ = ["GRAPH_HEADER", "MOST_HELD", "GraphPicture", "GraphRecord", "RecordKind"]

GRAPH_HEADER = """\
# tracer: function_graph
#
# CPU  DURATION                  FUNCTION CALLS
# |     |   |                     |   |   |   |
"""
#: Records of other CPUs behind a call of which nothing more is known; 3 MB or so.
MOST_HELD = 10_000
_INDENT = 2
_NO_DURATION = " " * 14 + "|  "
_SWITCH_RULE = " " + "-" * 42
# TRACE_GRAPH_PROCINFO_LENGTH, and what of a task's name is shown.
_TASK_CHARS, _COMM_CHARS = 14, 7
# trace_find_mark(): each stands for more than so many nanoseconds.
_MARKS = ((10**9, "$"), (10**8, "@"), (10**7, "*"), (10**6, "#"), (10**5, "!"), (10**4, "+"))
# A duration's number has so many digits at most, if microseconds do not need more, and a column of so many characters.
_DURATION_DIGITS, _DURATION_CHARS = 7, 8


class RecordKind(Enum):
    """What happened."""

    CALL = "call"
    RETURN = "return"
    #: Something else, drawn as a comment of C.
    EVENT = "event"
    #: Text of ours for people, a comment of the file.
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class GraphRecord:
    """One record. Tasks are told apart by ``pid`` too: the next task may get the ``task_struct`` of the last one."""

    kind: RecordKind
    time_ns: int
    #: The function's name, or the text of an event or a note.
    text: str
    cpu: int = 0
    #: Address of its ``task_struct``.
    task: int = 0
    comm: str = ""
    pid: int = 0
    #: ftrace location: tells functions apart.
    entry_ip: int = 0
    depth: int = 0
    duration_ns: int = 0

    @property
    def who(self) -> tuple[int, int]:
        """The task, apart from all others."""
        return self.task, self.pid


# struct fgraph_cpu_data.
@dataclass(slots=True)
class _Cpu:
    last: GraphRecord | None = None
    depth: int = 0
    # By depth, the function whose brace is open.
    entered: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Held:
    record: GraphRecord
    # Of a call: whether nothing has come yet on its CPU.
    waits: bool
    # Of a call: the return that is drawn with it.
    leaf: GraphRecord | None = None
    # Of a return: whether it is drawn with its call.
    drawn: bool = False


class GraphPicture:
    """Draws records as they come, in the order of their times.

    :param cpus: of the guest; says how wide the first column is.
    """

    def __init__(self, cpus: int, most_held: int = MOST_HELD) -> None:
        self._cpu_chars = len(str(cpus - 1))
        self._most_held = most_held
        self._cpus: dict[int, _Cpu] = defaultdict(_Cpu)
        self._held: deque[_Held] = deque()
        # By CPU, the call for which nothing has come yet.
        self._waiting: dict[int, _Held] = {}

    # get_return_for_leaf(): of a call, the return that its CPU has recorded next.
    def add(self, record: GraphRecord) -> list[str]:
        """Take one record; the lines that can be drawn now, without the header."""
        held = _Held(record, waits=record.kind is RecordKind.CALL)
        if record.kind is not RecordKind.NOTE:
            if (call := self._waiting.pop(record.cpu, None)) is not None:
                call.waits = False
                if record.kind is RecordKind.RETURN and _is_same(call.record, record):
                    call.leaf, held.drawn = record, True
            if held.waits:
                self._waiting[record.cpu] = held
        self._held.append(held)
        return [*self._lines(self._most_held)]

    def finish(self) -> list[str]:
        """The rest of the lines."""
        return [*self._lines(0)]

    def _lines(self, most_held: int) -> Iterator[str]:
        while self._held and (not self._held[0].waits or len(self._held) > most_held):
            held = self._held.popleft()
            if held.waits:
                del self._waiting[held.record.cpu]
            if held.record.kind is RecordKind.NOTE:
                yield held.record.text
            elif not held.drawn:
                yield from self._switch(held.record)
                yield self._prologue(held.record.cpu) + self._body(held.record, held.leaf)

    # verif_pid()
    def _switch(self, record: GraphRecord) -> Iterator[str]:
        cpu = self._cpus[record.cpu]
        last, cpu.last = cpu.last, record
        if last is not None and last.who != record.who:
            yield _SWITCH_RULE
            yield f"{self._prologue(record.cpu)}{_task(last)} => {_task(record)}"
            yield _SWITCH_RULE
            yield ""

    def _prologue(self, cpu: int) -> str:
        return f" {cpu:>{self._cpu_chars}}) "

    def _body(self, record: GraphRecord, leaf: GraphRecord | None) -> str:
        cpu = self._cpus[record.cpu]
        indent = " " * (_INDENT * record.depth)
        match record.kind:
            case RecordKind.CALL if leaf is not None:
                cpu.depth = record.depth - 1
                cpu.entered.pop(record.depth, None)
                return f"{_duration(leaf.duration_ns)}{indent}{record.text}();"
            case RecordKind.CALL:
                cpu.depth = record.depth
                cpu.entered[record.depth] = record.entry_ip
                return f"{_NO_DURATION}{indent}{record.text}() {{"
            case RecordKind.RETURN:
                cpu.depth = record.depth - 1
                is_known = cpu.entered.pop(record.depth, None) == record.entry_ip
                name = "" if is_known else f" /* {record.text} */"
                return f"{_duration(record.duration_ns)}{indent}}}{name}"
        indent = " " * (_INDENT * (cpu.depth + 1) if cpu.depth > 0 else 0)
        return f"{_NO_DURATION}{indent}/* {record.text} */"


def _is_same(call: GraphRecord, back: GraphRecord) -> bool:
    return (call.who, call.entry_ip) == (back.who, back.entry_ip)


# print_graph_proc()
def _task(record: GraphRecord) -> str:
    text = f"{record.comm[:_COMM_CHARS]}-{record.pid}"
    spaces = max(_TASK_CHARS - len(text), 0)
    # str.center() would have the odd space on the other side now and then.
    return " " * (spaces // 2) + text + " " * (spaces - spaces // 2)


# print_graph_duration() and trace_print_graph_duration()
def _duration(duration_ns: int) -> str:
    mark = next((mark for more_than_ns, mark in _MARKS if duration_ns > more_than_ns), " ")
    usec, rest_ns = divmod(duration_ns, 1000)
    number = str(usec)
    if len(number) < _DURATION_DIGITS:
        number = f"{number}.{rest_ns:03}"[:_DURATION_CHARS]
    return f"{mark} {number} us {' ' * (_DURATION_CHARS - len(number))}|  "
