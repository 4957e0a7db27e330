"""When to colour."""

import io

import pytest

from fprobe_gdb.output.color import use_color


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("environ", "colored"),
    [
        ({}, True),
        ({"TERM": "xterm-256color"}, True),
        ({"TERM": "dumb"}, False),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": "0"}, False),  # any value that is not empty
        ({"NO_COLOR": ""}, True),
    ],
)
def test_terminal(environ, colored):
    assert use_color(Terminal(), environ) is colored


def test_no_terminal():
    assert use_color(io.StringIO(), {}) is False


def test_closed_stream():
    stream = io.StringIO()
    stream.close()
    assert use_color(stream, {}) is False
