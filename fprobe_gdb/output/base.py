"""What every output is, and the one place where outputs write to a stream.

Outputs see events only. They do not own their stream: whoever opened it closes it.

When the reader of the stream goes away (``fprobe-gdb trace ... | head``), ``write()`` raises
:class:`~fprobe_gdb.errors.OutputClosed`. That is a clean end: stop tracing, leave the guest as it was, exit 0. Python
flushes standard output once more while it exits, and would complain on standard error; so call
:func:`discard_output`::

    try:
        trace_until_the_end(sink)
    except OutputClosed:
        discard_output(sys.stdout)

Any other :class:`~fprobe_gdb.errors.OutputError` (disk full, ...) is a failure, to be shown.
"""

from __future__ import annotations

import os
from typing import Protocol, TextIO

from fprobe_gdb.errors import OutputClosed, OutputError
from fprobe_gdb.events import ConsoleEvent, EntryEvent, ExitEvent, LostEvent, MissedEvent, SummaryEvent

__all__ = ["AnyEvent", "EventSink", "LineWriter", "discard_output"]

#: All events there are; a type checker proves that an output handles each of them.
AnyEvent = EntryEvent | ExitEvent | MissedEvent | LostEvent | ConsoleEvent | SummaryEvent


class EventSink(Protocol):
    """Where events go."""

    def write(self, event: AnyEvent) -> None:
        """Take one event.

        :raise OutputClosed: the reader went away; so do all later calls.
        :raise OutputError: the stream cannot be written to.
        """
        ...

    def close(self) -> None:
        """Write out what is held back. The stream stays open. May be called twice, and after an error.

        :raise OutputError: as :meth:`write`, unless that has been raised before.
        """
        ...


class LineWriter:
    """Lines to a text stream, with typed errors.

    :param live: make every line visible at once. Without it lines come in blocks, several times as fast, and at
        :meth:`flush`.
    """

    def __init__(self, stream: TextIO, *, live: bool = True) -> None:
        self._stream = stream
        self._live = live
        self._error: OutputError | None = None

    def line(self, text: str) -> None:
        """Write one line, or several, without the last newline.

        :raise OutputClosed: the reader went away.
        :raise OutputError: the stream cannot be written to.
        """
        if self._error is not None:
            raise self._error
        try:
            self._stream.write(text + "\n")
            if self._live:
                self._stream.flush()
        except OSError as exc:
            raise self._failed(exc) from exc

    def position(self) -> int:
        """Where the next line begins, for :meth:`overwrite`. The stream has to be seekable."""
        return self._stream.tell()

    def overwrite(self, position: int, text: str) -> None:
        """Write a text over what is there, and go on at the end. Raises as :meth:`line`."""
        if self._error is not None:
            raise self._error
        try:
            end = self._stream.tell()
            self._stream.seek(position)
            self._stream.write(text)
            self._stream.seek(end)
        except OSError as exc:
            raise self._failed(exc) from exc

    def flush(self) -> None:
        """Make all lines visible. Raises as :meth:`line`; silent once an error has been raised."""
        if self._error is not None:
            return
        try:
            self._stream.flush()
        except OSError as exc:
            raise self._failed(exc) from exc

    def _failed(self, exc: OSError) -> OutputError:
        where = str(getattr(self._stream, "name", "the output"))
        gone = isinstance(exc, BrokenPipeError)
        self._error = OutputClosed(where) if gone else OutputError(where, exc.strerror or str(exc))
        return self._error


def discard_output(stream: TextIO) -> None:
    """Send what is left in a stream's buffer, and all that is written later, to nowhere.

    Replaces the stream's file descriptor by the null device. A stream without a descriptor is left alone.
    """
    try:
        stream_fd = stream.fileno()
    except (OSError, ValueError):  # io.UnsupportedOperation is both; ValueError: closed
        return
    null_fd = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null_fd, stream_fd)
    finally:
        os.close(null_fd)
