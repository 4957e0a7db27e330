"""Streams that end, and streams that cannot be written to."""

import errno
import io
import os

import pytest

from fprobe_gdb.errors import FprobeGdbError, OutputClosed, OutputError
from fprobe_gdb.output.base import LineWriter, discard_output
from fprobe_gdb.output.jsonl import JsonlSink
from fprobe_gdb.output.text import TextSink
from tests.unit.output.made_up_events import ENTRY


@pytest.fixture
def pipe():
    """A text stream into a pipe, and the function that closes its reading end."""
    read_fd, write_fd = os.pipe()
    stream = open(write_fd, "w", encoding="utf-8")  # noqa: SIM115
    readers = [read_fd]

    def hang_up():
        os.close(readers.pop())

    yield stream, hang_up
    if readers:
        hang_up()
    discard_output(stream)
    stream.close()


class Full(io.StringIO):
    name = "trace.jsonl"

    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("make", [lambda stream: TextSink(stream, color=False), JsonlSink], ids=["text", "jsonl"])
def test_a_reader_that_goes_away_is_a_typed_end(pipe, make):
    stream, hang_up = pipe
    sink = make(stream)
    sink.write(ENTRY)
    hang_up()
    with pytest.raises(OutputClosed, match="its reader has gone"):
        sink.write(ENTRY)
    with pytest.raises(OutputClosed):
        sink.write(ENTRY)
    sink.close()


def test_a_reader_that_goes_away_before_a_block_is_written(pipe):
    stream, hang_up = pipe
    sink = JsonlSink(stream, live=False)
    sink.write(ENTRY)
    hang_up()
    with pytest.raises(OutputClosed):
        sink.close()
    sink.close()


def test_discarded_output_raises_no_more(pipe):
    stream, hang_up = pipe
    hang_up()
    with pytest.raises(OutputClosed):
        LineWriter(stream).line("lost")
    discard_output(stream)
    # What Python does at exit with what is still in the buffer.
    stream.flush()


def test_what_failed_once_does_not_go_on_in_silence(pipe):
    stream, hang_up = pipe
    sink = JsonlSink(stream)
    hang_up()
    with pytest.raises(OutputClosed):
        sink.write(ENTRY)
    discard_output(stream)  # from here on the stream would take everything
    with pytest.raises(OutputClosed):
        sink.write(ENTRY)


def test_discarding_a_stream_without_descriptor_does_nothing():
    stream = io.StringIO()
    discard_output(stream)
    stream.write("still works")
    assert stream.getvalue() == "still works"


def test_a_full_disk_is_an_error_that_names_the_file():
    writer = LineWriter(Full())
    with pytest.raises(OutputError, match=r"cannot write events to trace\.jsonl: No space left on device") as caught:
        writer.line("x")
    assert not isinstance(caught.value, OutputClosed)
    assert isinstance(caught.value, FprobeGdbError)
    assert isinstance(caught.value.__cause__, OSError)


def test_close_leaves_the_stream_open():
    stream = io.StringIO()
    sink = JsonlSink(stream)
    sink.close()
    sink.close()
    assert not stream.closed
