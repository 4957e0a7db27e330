"""Where events go: a file or standard output, as text or JSON lines."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from fprobe_gdb.errors import UsageError
from fprobe_gdb.output.base import EventSink
from fprobe_gdb.output.color import use_color
from fprobe_gdb.output.jsonl import JsonlSink
from fprobe_gdb.output.text import TextSink

__all__ = ["FORMATS", "open_sink"]

FORMATS = ("text", "jsonl")


@contextlib.contextmanager
def open_sink(format_: str, path: str | None) -> Iterator[EventSink]:
    """A sink that is closed at the end of the block.

    :param path: None or ``"-"`` is standard output.
    :raise UsageError: when the file cannot be made.
    """
    with contextlib.ExitStack() as stack:
        stream = sys.stdout
        if path not in (None, "-"):
            assert path is not None
            try:
                stream = stack.enter_context(open(path, "w", encoding="utf-8"))
            except OSError as error:
                raise UsageError(f"-o {path}: {error.strerror or error}; give a file that can be written") from error
        color = use_color(stream, os.environ)
        sink: EventSink = JsonlSink(stream) if format_ == "jsonl" else TextSink(stream, color=color)
        try:
            yield sink
        finally:
            sink.close()
