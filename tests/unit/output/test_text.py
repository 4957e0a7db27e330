"""TextSink: the form of each line, what is shown of a value, and that nothing of the guest reaches the terminal raw."""

import io
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fprobe_gdb.errors import UsageError
from fprobe_gdb.events import ConsoleEvent, MissReason
from fprobe_gdb.output.text import TextSink
from tests.unit.output.made_up_events import ALL, CONSOLE, ENTRY, EXIT, FIELDS, LOST, MISSED, as_text, hostile
from tests.unit.output.properties import PROPERTY

SGR = re.compile("\x1b\\[[0-9;]*m")


def test_entry():
    # 1,234,567,890 ns rounds to 568 us; one probed call around it is two columns; three of six arguments.
    assert as_text(ENTRY) == [
        "    1.234568 [001] ffff888003a4b100    "
        "→ vfs_read(di=0xffff888003a4b900, si=0x7ffc12345678, dx=0x400) <- ksys_read+0x75"
    ]


def test_an_entry_of_usual_size_fits_into_120_columns():
    assert len(as_text(ENTRY)[0]) <= 120


def test_exit():
    assert as_text(EXIT) == ["    1.234581 [000] ffff888003a4b100    ← vfs_read = 0x1 12.9us"]


def test_typed_entry_and_exit():
    # Name and pid instead of the task's address; all arguments by name; what the guest names is escaped.
    params = (("file", '0xffff888005cf9a80 "mo\x1btd"'), ("buf", "0x7f"), ("count", "4096"), ("pos", "0x0"))
    who = {"comm": "cat", "pid": 71}
    assert as_text(replace(ENTRY, **who, params=params), replace(EXIT, **who, result="-5 (-EIO)")) == [
        "    1.234568 [001] cat-71              "
        '→ vfs_read(file=0xffff888005cf9a80 "mo\\x1btd", buf=0x7f, count=4096, pos=0x0) <- ksys_read+0x75',
        "    1.234581 [000] cat-71              ← vfs_read = -5 (-EIO) 12.9us",
    ]


def test_probe_events_and_stacks():
    who = {"comm": "cat", "pid": 71, "depth": 0, "probe_event": "grp/my"}
    stack = ("vfs_read+0x4", "a\x1bb")
    lines = as_text(replace(ENTRY, **who, fields=FIELDS[:2], stack=stack), replace(EXIT, **who, fields=FIELDS[2:]))
    assert "\n".join(lines).split("\n") == [
        '    1.234568 [001] cat-71            → my: vfs_read(name="mo"td" count=4096) <- ksys_read+0x75',
        "                                         => vfs_read+0x4",
        "                                         => a\\x1bb",
        "    1.234581 [000] cat-71            ← my: vfs_read(bad=(fault) two={1,(fault)}) 12.9us",
    ]
    assert as_text(replace(MISSED, probe_event="grp/my"))[0].endswith("× my: vfs_read missed (pool)")  # noqa: RUF001


def test_a_void_function_has_no_value():
    assert as_text(replace(EXIT, result=""))[0].endswith("← vfs_read 12.9us")


def test_marks_of_an_entry_and_its_exit_stand_in_one_column():
    entry, exit_ = as_text(ENTRY, EXIT)
    assert entry.index("→") == exit_.index("←")


def test_exit_with_an_error_code_names_it():
    line = as_text(replace(EXIT, retval=0xFFFF_FFFF_FFFF_FFFE))[0]
    assert line.endswith("vfs_read = 0xfffffffffffffffe (-2 -ENOENT) 12.9us")


def test_missed():
    assert as_text(MISSED)[0].endswith("ffff888003a4b100  × vfs_read missed (pool)")  # noqa: RUF001


def test_a_refused_exit_handler_does_not_read_like_a_missed_call():
    line = as_text(replace(MISSED, reason=MissReason.EXIT_RECURSION))[0]
    assert line.endswith("vfs_read exit missed (exit-recursion)")


def test_lost_says_how_often():
    assert as_text(LOST)[0].endswith("      × vfs_read lost 3 times (list-recursion)")  # noqa: RUF001
    assert as_text(replace(LOST, count=1))[0].endswith("vfs_read lost (list-recursion)")


def test_console_and_command_lines():
    assert as_text(CONSOLE, ConsoleEvent("total 4", 0, "command")) == [
        "    2.000000 console | [    1.2] hello",
        "    0.000000 command | total 4",
    ]


def test_a_console_line_that_imitates_an_event_stays_behind_its_mark():
    event_line = as_text(ENTRY)[0]
    lines = as_text(ConsoleEvent(f"\r{event_line}\n{event_line}", 0))
    assert len(lines) == 1
    assert lines[0].startswith("    0.000000 console | \\r")


@pytest.mark.parametrize(("args", "shown"), [(0, "vfs_read()"), (1, "(di=0xffff888003a4b900)"), (6, "r8=0x0, r9=0x1)")])
def test_number_of_arguments(args, shown):
    assert shown in as_text(ENTRY, args=args)[0]


@pytest.mark.parametrize("args", [-1, 7])
def test_arguments_beyond_the_registers_are_refused(args):
    with pytest.raises(UsageError, match="0 to 6"):
        TextSink(io.StringIO(), color=False, args=args)


def test_header_comes_once_and_names_the_columns_where_they_stand():
    stream = io.StringIO()
    sink = TextSink(stream, color=False)
    sink.write(ENTRY)
    sink.write(EXIT)
    header, entry, exit_ = stream.getvalue().splitlines()
    assert header == "#       TIME CPU   TASK              FUNCTION"
    assert header.index("CPU") == entry.index("[001]") == exit_.index("[000]")
    assert header.index("TASK") == entry.index("ffff")
    assert header.index("TIME") + len("TIME") == entry.index(" [001]")


def test_ascii_stream_gets_spelled_arrows_of_one_width():
    entry, exit_, missed = as_text(ENTRY, EXIT, replace(MISSED, depth=1), encoding="ascii")
    assert "    -> vfs_read(" in entry
    assert "    <- vfs_read = 0x1" in exit_
    assert "    x  vfs_read missed" in missed
    assert entry.index("vfs_read(") == exit_.index("vfs_read =") == missed.index("vfs_read missed")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "koi8-r"])
def test_text_that_the_stream_cannot_encode_is_escaped(encoding):
    assert as_text(ConsoleEvent("\u4e2d\U0001f600", 0), encoding=encoding)[0].endswith(r"\u4e2d\U0001f600")


def test_unknown_encoding_is_treated_as_ascii():
    class Odd(io.StringIO):
        encoding = "no-such-codec"

    stream = Odd()
    TextSink(stream, color=False).write(ENTRY)
    assert stream.getvalue().isascii()


def test_colours_add_nothing_but_sgr_sequences():
    for event in ALL:
        colored, plain = as_text(event, color=True), as_text(event)
        assert [SGR.sub("", line) for line in colored] == plain
        assert "\x1b" in "".join(colored)
        assert "\x1b" not in "".join(plain)


def test_colours_end_with_the_line():
    for line in as_text(*ALL, color=True):
        sequences = SGR.findall(line)
        assert not sequences or sequences[-1] == "\x1b[0m"


def test_each_line_is_flushed_when_live():
    class Counting(io.StringIO):
        flushes = 0

        def flush(self):
            self.flushes += 1

    live, blocks = Counting(), Counting()
    TextSink(live, color=False, header=False).write(ENTRY)
    TextSink(blocks, color=False, header=False, live=False).write(ENTRY)
    assert (live.flushes, blocks.flushes) == (1, 0)


@PROPERTY
@given(st.text() | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")))
def test_no_control_character_of_the_guest_reaches_the_stream(text):
    for event in hostile(text):
        lines = as_text(event)
        assert all(line.isprintable() for line in lines)


@PROPERTY
@given(st.text(st.characters(codec="utf-8")), st.sampled_from(["ascii", "cp437", "iso8859-15"]))
def test_any_text_can_be_written_to_a_poor_stream(text, encoding):
    for event in hostile(text)[:-1]:
        assert len(as_text(event, encoding=encoding)) == 1


@PROPERTY
@given(st.text())
def test_with_colours_only_our_own_sequences_reach_the_stream(text):
    for event, harmless in zip(hostile(text), hostile("x"), strict=True):
        ours = "".join(as_text(harmless, color=True)).count("\x1b")
        assert "".join(as_text(event, color=True)).count("\x1b") == ours
