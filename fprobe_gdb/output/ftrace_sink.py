"""Events as tracefs' ``trace`` file has them, for readers of ftrace text.

============================ ======================================================================================
entry of a function          ``vfs_read <-ksys_read``, as of the function tracer
its return                   ``vfs_read__exit: (ksys_read+0x6f/0xf0 <- vfs_read) retval=0x24``, as of a probe event
                             ``f vfs_read%return retval=$retval:x64``
hit of a probe event         ``NAME: (vfs_read+0x4/0x370) a=v``, ``NAME: (ksys_read+0x6f/0xf0 <- vfs_read) a=v``
stack, where asked for       ``<stack trace>`` with the task and time of its event, then `` => symbol`` lines
console, misses, summary     comments, which begin with ``#`` and are no entries
============================ ======================================================================================

Lines come as things happen. The header has the number of entries in it, which is known at the end: a file has a line
of blanks there until then (readers take it for any other comment), anything that cannot seek goes without.

Of the readers in Debian 12, traceshark 0.9.14 opens such a file and the ``trace`` file of a 6.12 guest alike, without a
complaint; trace-cmd 3.1.6 reads ``trace.dat`` alone and refuses both ("error reading header").

Calls as pictures: :mod:`~fprobe_gdb.output.ftrace_graph_sink`.
"""

from __future__ import annotations

import fcntl
import os
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
from fprobe_gdb.output.ftrace import (
    COUNTS_CHARS,
    UNKNOWN_COMM,
    TraceContext,
    counts_line,
    header,
    trace_line,
    without_offset,
)
from fprobe_gdb.output.quantities import guest_time
from fprobe_gdb.output.table import summary_lines
from fprobe_gdb.output.time_order import TimeOrder

__all__ = ["FtraceSink", "event_text", "note_text", "stack_text", "summary_notes", "who"]

_STACK = "<stack trace>"


class FtraceSink:
    """An :class:`~fprobe_gdb.output.base.EventSink` that writes each line at once.

    :param functions: whether functions are traced, and not probe events alone.
    :param ordered: whether events come in the order of their times. Else lines are held until the summary comes: an
        entry may wait for its return.
    """

    def __init__(self, stream: TextIO, *, functions: bool = True, ordered: bool = True) -> None:
        self._out = LineWriter(stream)
        self._tracer = "function" if functions else "nop"
        self._has_room = _can_go_back(stream)
        # Where the counts go in, once the header is written.
        self._counts_at: int | None = None
        self._begun = False
        self._entries = 0
        self._late: TimeOrder[str] | None = None if ordered else TimeOrder()

    def write(self, event: AnyEvent) -> None:
        """Take one event. See :meth:`EventSink.write <fprobe_gdb.output.base.EventSink.write>`."""
        match event:
            case EntryEvent() | ExitEvent():
                context = TraceContext(*who(event), event.cpu, event.time_ns, event.flags or CpuFlags())
                self._entry(event.time_ns, trace_line(context, event_text(event)))
                if event.stack is not None:
                    self._entry(event.time_ns, trace_line(context, stack_text(event.stack)))
            case MissedEvent() | LostEvent() | ConsoleEvent():
                self._line(event.time_ns, note_text(event))
            case SummaryEvent():
                self._end(event)
            case _:
                assert_never(event)

    def close(self) -> None:
        """Make all lines visible; the stream stays open."""
        if self._late:
            self._late.close()
        self._out.flush()

    def _entry(self, time_ns: int, text: str) -> None:
        self._entries += 1
        self._line(time_ns, text)

    def _line(self, time_ns: int, text: str) -> None:
        if self._late is None:
            self._begin()
            self._out.line(text)
        else:
            self._late.add(time_ns, text)

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        before, after = header(self._tracer)
        self._out.line(before)
        if self._has_room:
            self._counts_at = self._out.position()
            self._out.line("#".ljust(COUNTS_CHARS))
            self._out.line("#")
        self._out.line(after)

    def _end(self, summary: SummaryEvent) -> None:
        self._begin()
        for text in self._late.release() if self._late else ():
            self._out.line(text)
        for line in summary_notes(summary):
            self._out.line(line)
        if self._counts_at is not None:
            self._out.overwrite(self._counts_at, counts_line(self._entries, self._entries, summary.cpus))


def who(event: EntryEvent | ExitEvent) -> tuple[str, int]:
    """Name and pid of an event's task."""
    if event.comm is None or event.pid is None:
        return UNKNOWN_COMM, 0
    return printable(event.comm) if event.pid else "<idle>", event.pid


def event_text(event: EntryEvent | ExitEvent) -> str:
    """What stands behind the time."""
    return printable(event.func if event.text is None else event.text)


def stack_text(stack: tuple[str, ...]) -> str:
    """A stack as an entry of its own; without offsets, as tracefs shows stacks by default."""
    return "\n".join([_STACK, *(f" => {printable(without_offset(symbol))}" for symbol in stack)])


def note_text(event: MissedEvent | LostEvent | ConsoleEvent) -> str:
    """What is no entry, as a comment."""
    if isinstance(event, ConsoleEvent):
        return f"# {printable(event.source)} | {printable(event.line)}"
    name = printable(event.probe_event or event.func)
    what = f"lost {event.count} times" if isinstance(event, LostEvent) else "missed"
    return f"# {guest_time(event.time_ns)}: {name} {what} ({event.reason.value})"


def summary_notes(summary: SummaryEvent) -> Iterator[str]:
    """The summary as comments."""
    for line in summary_lines(summary, PLAIN):
        yield f"# {line}".rstrip()


# Not a pipe or a terminal, and not a file in which all is written to the end, wherever one has gone.
def _can_go_back(stream: TextIO) -> bool:
    try:
        return stream.seekable() and not fcntl.fcntl(stream.fileno(), fcntl.F_GETFL) & os.O_APPEND
    except OSError:  # io.UnsupportedOperation: in memory, without a descriptor
        return stream.seekable()
