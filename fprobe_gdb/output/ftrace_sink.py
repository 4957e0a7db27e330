"""Events as tracefs' ``trace`` file has them, for readers of ftrace text.

============================ ======================================================================================
entry of a function          ``vfs_read <-ksys_read``, as of the function tracer
its return                   ``vfs_read__exit: (ksys_read+0x6f/0xf0 <- vfs_read) retval=0x24``, as of a probe event
                             ``f vfs_read%return retval=$retval:x64``
hit of a probe event         ``NAME: (vfs_read+0x4/0x370) a=v``, ``NAME: (ksys_read+0x6f/0xf0 <- vfs_read) a=v``
stack, where asked for       ``<stack trace>`` with the task and time of its event, then `` => symbol`` lines
console, misses, summary     comments, which begin with ``#`` and are no entries
============================ ======================================================================================

With ``graph``, calls are drawn by :mod:`~fprobe_gdb.output.ftrace_graph`, and events are comments in the picture.

The file begins with the number of its entries, which are in the order of their times; so all of it is written when the
trace ends, and held in memory until then (about 300 bytes an entry).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TextIO, assert_never

from fprobe_gdb.events import (
    ConsoleEvent,
    CpuFlags,
    EntryEvent,
    ExitEvent,
    LostEvent,
    MissedEvent,
    SummaryEvent,
)
from fprobe_gdb.output.base import AnyEvent, LineWriter
from fprobe_gdb.output.color import PLAIN
from fprobe_gdb.output.escape import printable
from fprobe_gdb.output.ftrace import UNKNOWN_COMM, TraceContext, header, trace_line, without_offset
from fprobe_gdb.output.ftrace_graph import GRAPH_HEADER, GraphRecord, RecordKind, graph_lines
from fprobe_gdb.output.quantities import guest_time
from fprobe_gdb.output.table import summary_lines

__all__ = ["FtraceSink"]

_STACK = "<stack trace>"


class FtraceSink:
    """An :class:`~fprobe_gdb.output.base.EventSink` that writes once, when the summary comes.

    :param graph: draw calls with their durations; else a line for each entry and each return.
    """

    def __init__(self, stream: TextIO, *, graph: bool = False) -> None:
        self._out = LineWriter(stream, live=False)
        self._graph = graph
        # Time and text of entries and notes; how many are entries. Unused with graph.
        self._lines: list[tuple[int, str]] = []
        self._entries = 0
        self._has_functions = False
        self._records: list[GraphRecord] = []

    def write(self, event: AnyEvent) -> None:
        """Take one event. See :meth:`EventSink.write <fprobe_gdb.output.base.EventSink.write>`."""
        match event:
            case EntryEvent() | ExitEvent():
                self._has_functions |= event.probe_event is None
                (self._draw if self._graph else self._line)(event)
            case MissedEvent() | LostEvent():
                name = printable(event.probe_event or event.func)
                what = f"lost {event.count} times" if isinstance(event, LostEvent) else "missed"
                self._note(event.time_ns, f"{guest_time(event.time_ns)}: {name} {what} ({event.reason.value})")
            case ConsoleEvent():
                self._note(event.time_ns, f"{printable(event.source)} | {printable(event.line)}")
            case SummaryEvent():
                self._write_all(event)
            case _:
                assert_never(event)

    def close(self) -> None:
        """Make all lines visible; the stream stays open."""
        self._out.flush()

    def _note(self, time_ns: int, text: str) -> None:
        if self._graph:
            self._records.append(GraphRecord(RecordKind.NOTE, time_ns, f"# {text}"))
        else:
            self._lines.append((time_ns, f"# {text}"))

    def _line(self, event: EntryEvent | ExitEvent) -> None:
        context = TraceContext(*_who(event), event.cpu, event.time_ns, event.flags or CpuFlags())
        self._lines.append((event.time_ns, trace_line(context, _text(event))))
        self._entries += 1
        if event.stack is not None:
            self._lines.append((event.time_ns, trace_line(context, _stack_text(event.stack))))
            self._entries += 1

    def _draw(self, event: EntryEvent | ExitEvent) -> None:
        if event.probe_event is not None:
            kind, text = RecordKind.EVENT, _text(event)
        else:
            kind = RecordKind.CALL if isinstance(event, EntryEvent) else RecordKind.RETURN
            text = printable(event.func)
        duration_ns = event.duration_ns if isinstance(event, ExitEvent) else 0
        where = (event.cpu, event.task, *_who(event), event.entry_ip, event.depth, duration_ns)
        self._records.append(GraphRecord(kind, event.time_ns, text, *where))
        if event.stack is not None:
            self._records.append(GraphRecord(RecordKind.EVENT, event.time_ns, _stack_text(event.stack), *where))

    def _write_all(self, summary: SummaryEvent) -> None:
        if self._graph:
            top = GRAPH_HEADER
            # Stable: what has the same time stays in the order in which it came.
            lines = graph_lines(sorted(self._records, key=lambda record: record.time_ns), summary.cpus)
        else:
            tracer = "function" if self._has_functions else "nop"
            top = header(self._entries, self._entries, summary.cpus, tracer)
            lines = iter(text for _, text in sorted(self._lines, key=lambda line: line[0]))
        self._out.line(top.removesuffix("\n"))
        for line in (*lines, *_summary(summary)):
            self._out.line(line)


def _who(event: EntryEvent | ExitEvent) -> tuple[str, int]:
    if event.comm is None or event.pid is None:
        return UNKNOWN_COMM, 0
    return printable(event.comm) if event.pid else "<idle>", event.pid


def _text(event: EntryEvent | ExitEvent) -> str:
    return printable(event.func if event.text is None else event.text)


# Without offsets, as tracefs shows stacks by default.
def _stack_text(stack: tuple[str, ...]) -> str:
    return "\n".join([_STACK, *(f" => {printable(without_offset(symbol))}" for symbol in stack)])


def _summary(summary: SummaryEvent) -> Iterator[str]:
    for line in summary_lines(summary, PLAIN):
        yield f"# {line}".rstrip()
