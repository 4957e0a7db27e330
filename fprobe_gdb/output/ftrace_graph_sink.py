"""Calls as the function_graph tracer draws them, with probe events as comments in the picture.

A call whose return comes next on its CPU is one line, so nothing can be drawn before its end: all of it is held in
memory (about 300 bytes an event) and written when the summary comes.
"""

from __future__ import annotations

from typing import TextIO, assert_never

from fprobe_gdb.events import ConsoleEvent, EntryEvent, ExitEvent, LostEvent, MissedEvent, SummaryEvent
from fprobe_gdb.output.base import AnyEvent, LineWriter
from fprobe_gdb.output.escape import printable
from fprobe_gdb.output.ftrace_graph import GRAPH_HEADER, GraphRecord, RecordKind, graph_lines
from fprobe_gdb.output.ftrace_sink import event_text, note_text, stack_text, summary_notes, who

__all__ = ["FtraceGraphSink"]


class FtraceGraphSink:
    """An :class:`~fprobe_gdb.output.base.EventSink` that writes once, when the summary comes."""

    def __init__(self, stream: TextIO) -> None:
        self._out = LineWriter(stream, live=False)
        self._records: list[GraphRecord] = []

    def write(self, event: AnyEvent) -> None:
        """Take one event. See :meth:`EventSink.write <fprobe_gdb.output.base.EventSink.write>`."""
        match event:
            case EntryEvent() | ExitEvent():
                self._draw(event)
            case MissedEvent() | LostEvent() | ConsoleEvent():
                self._records.append(GraphRecord(RecordKind.NOTE, event.time_ns, note_text(event)))
            case SummaryEvent():
                self._write_all(event)
            case _:
                assert_never(event)

    def close(self) -> None:
        """Make all lines visible; the stream stays open."""
        self._out.flush()

    def _draw(self, event: EntryEvent | ExitEvent) -> None:
        if event.probe_event is not None:
            kind, text = RecordKind.EVENT, event_text(event)
        else:
            kind = RecordKind.CALL if isinstance(event, EntryEvent) else RecordKind.RETURN
            text = printable(event.func)
        duration_ns = event.duration_ns if isinstance(event, ExitEvent) else 0
        where = (event.cpu, event.task, *who(event), event.entry_ip, event.depth, duration_ns)
        self._records.append(GraphRecord(kind, event.time_ns, text, *where))
        if event.stack is not None:
            self._records.append(GraphRecord(RecordKind.EVENT, event.time_ns, stack_text(event.stack), *where))

    def _write_all(self, summary: SummaryEvent) -> None:
        self._out.line(GRAPH_HEADER.removesuffix("\n"))
        # Stable: what has the same time stays in the order in which it came.
        records = sorted(self._records, key=lambda record: record.time_ns)
        for line in (*graph_lines(records, summary.cpus), *summary_notes(summary)):
            self._out.line(line)
