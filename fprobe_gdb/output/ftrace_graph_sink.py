"""Calls as the function_graph tracer draws them, with probe events as comments in the picture.

Lines come as soon as it is known what they are; see :mod:`.ftrace_graph`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TextIO, assert_never

from fprobe_gdb.events import ConsoleEvent, EntryEvent, ExitEvent, LostEvent, MissedEvent, SummaryEvent
from fprobe_gdb.output.base import AnyEvent, LineWriter
from fprobe_gdb.output.escape import printable
from fprobe_gdb.output.ftrace_graph import GRAPH_HEADER, GraphPicture, GraphRecord, RecordKind
from fprobe_gdb.output.ftrace_sink import event_text, note_text, stack_text, summary_notes, who
from fprobe_gdb.output.time_order import TimeOrder

__all__ = ["FtraceGraphSink"]


class FtraceGraphSink:
    """An :class:`~fprobe_gdb.output.base.EventSink` that draws.

    :param cpus: tells how many CPUs the guest has, when the first event comes.
    :param ordered: as of :class:`.FtraceSink`.
    """

    def __init__(self, stream: TextIO, cpus: Callable[[], int], *, ordered: bool = True) -> None:
        self._out = LineWriter(stream)
        self._cpus = cpus
        self._picture: GraphPicture | None = None
        self._late: TimeOrder[GraphRecord] | None = None if ordered else TimeOrder()

    def write(self, event: AnyEvent) -> None:
        """Take one event. See :meth:`EventSink.write <fprobe_gdb.output.base.EventSink.write>`."""
        match event:
            case EntryEvent() | ExitEvent():
                self._draw(event)
            case MissedEvent() | LostEvent() | ConsoleEvent():
                self._take(GraphRecord(RecordKind.NOTE, event.time_ns, note_text(event)))
            case SummaryEvent():
                self._end(event)
            case _:
                assert_never(event)

    def close(self) -> None:
        """Make all lines visible; the stream stays open."""
        if self._late:
            self._late.close()
        self._out.flush()

    def _draw(self, event: EntryEvent | ExitEvent) -> None:
        if event.probe_event is not None:
            kind, text = RecordKind.EVENT, event_text(event)
        else:
            kind = RecordKind.CALL if isinstance(event, EntryEvent) else RecordKind.RETURN
            text = printable(event.func)
        duration_ns = event.duration_ns if isinstance(event, ExitEvent) else 0
        where = (event.cpu, event.task, *who(event), event.entry_ip, event.depth, duration_ns)
        self._take(GraphRecord(kind, event.time_ns, text, *where))
        if event.stack is not None:
            self._take(GraphRecord(RecordKind.EVENT, event.time_ns, stack_text(event.stack), *where))

    def _take(self, record: GraphRecord) -> None:
        if self._late is None:
            self._lines(self._begun().add(record))
        else:
            self._late.add(record.time_ns, record)

    def _begun(self) -> GraphPicture:
        if self._picture is None:
            self._out.line(GRAPH_HEADER.removesuffix("\n"))
            self._picture = GraphPicture(self._cpus())
        return self._picture

    def _lines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._out.line(line)

    def _end(self, summary: SummaryEvent) -> None:
        picture = self._begun()
        for record in self._late.release() if self._late else ():
            self._lines(picture.add(record))
        self._lines(picture.finish())
        self._lines(summary_notes(summary))
