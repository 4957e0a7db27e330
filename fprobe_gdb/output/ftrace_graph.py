"""Calls as the kernel's function_graph tracer draws them (kernel/trace/trace_functions_graph.c, Linux 6.12)::

    # CPU  DURATION                  FUNCTION CALLS
    # |     |   |                     |   |   |   |
     0)               |  ksys_read() {
     0) + 69.491 us   |    fdget_pos();
     0)               |    /* re: (vfs_read+0x4/0x370) count=64 */
     0) ! 120.160 us  |  }

A call is one line where its return is what its CPU records next. A brace without its own call above, on the same CPU,
names the function.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

__all__ = ["GRAPH_HEADER", "GraphRecord", "RecordKind", "graph_lines"]

GRAPH_HEADER = """\
# tracer: function_graph
#
# CPU  DURATION                  FUNCTION CALLS
# |     |   |                     |   |   |   |
"""
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


def graph_lines(records: Sequence[GraphRecord], cpus: int) -> Iterator[str]:
    """The lines of the picture, without the header.

    :param records: in the order of their times.
    :param cpus: of the guest; says how wide the first column is.
    """
    yield from _Picture(records, len(str(cpus - 1))).lines()


class _Picture:
    def __init__(self, records: Sequence[GraphRecord], cpu_chars: int) -> None:
        self._records = records
        self._cpu_chars = cpu_chars
        self._cpus: dict[int, _Cpu] = defaultdict(_Cpu)
        # Returns that were drawn with their calls.
        self._drawn: set[int] = set()

    def lines(self) -> Iterator[str]:
        returns = self._leaf_returns()
        for index, record in enumerate(self._records):
            if record.kind is RecordKind.NOTE:
                yield record.text
            elif index not in self._drawn:
                yield from self._switch(record)
                self._drawn.add(returns.get(index, index))
                yield self._prologue(record.cpu) + self._body(record, returns.get(index))

    # get_return_for_leaf(): of a call, the return that its CPU has recorded next.
    def _leaf_returns(self) -> dict[int, int]:
        found: dict[int, int] = {}
        calls: dict[int, int] = {}
        for index, record in enumerate(self._records):
            if record.kind is RecordKind.NOTE:
                continue
            call = calls.pop(record.cpu, None)
            if record.kind is RecordKind.CALL:
                calls[record.cpu] = index
            elif call is not None and record.kind is RecordKind.RETURN and _is_same(self._records[call], record):
                found[call] = index
        return found

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

    def _body(self, record: GraphRecord, leaf: int | None) -> str:
        cpu = self._cpus[record.cpu]
        indent = " " * (_INDENT * record.depth)
        match record.kind:
            case RecordKind.CALL if leaf is not None:
                cpu.depth = record.depth - 1
                cpu.entered.pop(record.depth, None)
                return f"{_duration(self._records[leaf].duration_ns)}{indent}{record.text}();"
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
