"""Where events go: a file or standard output, as text, JSON lines or ftrace's text."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

from fprobe_gdb.errors import UsageError
from fprobe_gdb.output.base import EventSink
from fprobe_gdb.output.color import use_color
from fprobe_gdb.output.ftrace_graph_sink import FtraceGraphSink
from fprobe_gdb.output.ftrace_sink import FtraceSink
from fprobe_gdb.output.jsonl import JsonlSink
from fprobe_gdb.output.quiet import Quiet
from fprobe_gdb.output.text import TextSink

__all__ = ["FORMATS", "open_sink"]

FORMATS = ("text", "jsonl", "ftrace", "summary")


@contextlib.contextmanager
def open_sink(
    format_: str,
    path: str | None,
    cpus: Callable[[], int],
    *,
    graph: bool = False,
    functions: bool = True,
    ordered: bool = True,
) -> Iterator[EventSink]:
    """A sink that is closed at the end of the block.

    :param format_: one of :data:`FORMATS`.
    :param cpus: tells how many CPUs the guest has, once there are events.
    :param graph: of ftrace's text, the form with calls and durations.
    :param functions, ordered: see :class:`.FtraceSink`.
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
        sink: EventSink
        match format_:
            case "jsonl":
                sink = JsonlSink(stream)
            case "ftrace" if graph:
                sink = FtraceGraphSink(stream, cpus, ordered=ordered)
            case "ftrace":
                sink = FtraceSink(stream, functions=functions, ordered=ordered)
            case "summary":
                sink = Quiet(TextSink(stream, color=use_color(stream, os.environ), header=False))
            case _:
                sink = TextSink(stream, color=use_color(stream, os.environ))
        try:
            yield sink
        finally:
            sink.close()
