"""ftrace text: lines as they come, or at the end in the order of time, with the right counts."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from fprobe_gdb.events import ConsoleEvent, CpuFlags
from fprobe_gdb.output.base import AnyEvent
from fprobe_gdb.output.ftrace_graph_sink import FtraceGraphSink
from fprobe_gdb.output.ftrace_sink import FtraceSink
from tests.unit.output.made_up_events import ALL, ENTRY, EXIT, LOST, MISSED, SUMMARY, hostile

WHO = {"comm": "cat", "pid": 71, "flags": CpuFlags(preempt_count=1 << 31)}
IN = replace(ENTRY, text="vfs_read <-ksys_read", **WHO)
OUT = replace(EXIT, text="vfs_read__exit: (ksys_read+0x75/0xf0 <- f) retval=0x1", cpu=1, **WHO)
PROBED = replace(IN, probe_event="grp/op", text='op: (vfs_read+0x4/0x370) name="motd"', time_ns=IN.time_ns + 100)


class Pipe(io.StringIO):
    def seekable(self) -> bool:
        return False


def written(*events: AnyEvent, graph: bool = False, ordered: bool = True, functions: bool = True) -> list[str]:
    stream = io.StringIO()
    sink = (
        FtraceGraphSink(stream, lambda: 1, ordered=ordered)
        if graph
        else FtraceSink(stream, functions=functions, ordered=ordered)
    )
    for event in events:
        sink.write(event)
    sink.close()
    return stream.getvalue().splitlines()


def body(*events: AnyEvent, graph: bool = False, ordered: bool = True) -> list[str]:
    lines = written(*events, SUMMARY, graph=graph, ordered=ordered)
    return [line for line in lines if not line.startswith("#")]


def test_lines_of_functions_and_events() -> None:
    assert body(IN, PROBED, OUT) == [
        "             cat-71      [001] .....     1.234568: vfs_read <-ksys_read",
        '             cat-71      [001] .....     1.234568: op: (vfs_read+0x4/0x370) name="motd"',
        "             cat-71      [001] .....     1.234581: vfs_read__exit: (ksys_read+0x75/0xf0 <- f) retval=0x1",
    ]


def test_the_header_says_what_follows() -> None:
    lines = written(IN, replace(OUT, stack=("ksys_read+0x75",)), PROBED, replace(SUMMARY, cpus=4))
    assert [line.rstrip() for line in lines[:5]] == [
        "# tracer: function",
        "#",
        "# entries-in-buffer/entries-written: 4/4   #P:4",
        "#",
        "#                                _-----=> irqs-off/BH-disabled",
    ]
    assert written(PROBED, SUMMARY, functions=False)[0] == "# tracer: nop"
    assert written(IN, SUMMARY, graph=True)[:4] == [
        "# tracer: function_graph",
        "#",
        "# CPU  DURATION                  FUNCTION CALLS",
        "# |     |   |                     |   |   |   |",
    ]


def test_stacks_are_entries_of_their_own_without_offsets() -> None:
    stack = ("vfs_read+0x4", "nf_hook+0x1c [netfilter]", "0xffffffffc0000000", "(no way on)")
    lines = [
        "             cat-71      [001] .....     1.234568: vfs_read <-ksys_read",
        "             cat-71      [001] .....     1.234568: <stack trace>",
        " => vfs_read",
        " => nf_hook [netfilter]",
        " => 0xffffffffc0000000",
        " => (no way on)",
    ]
    assert body(replace(IN, stack=stack)) == lines
    assert body(replace(IN, stack=stack), OUT, graph=True) == [
        " 1)               |    vfs_read() {",
        " 1)               |      /* <stack trace>",
        *lines[2:5],
        " => (no way on) */",
        " 1) + 12.900 us   |    }",
    ]


def test_the_order_is_that_of_time() -> None:
    """An entry that waited for its return comes late."""
    late = replace(IN, time_ns=1_000, text="a <-b")
    assert body(PROBED, late, ordered=False)[0][-5:] == "a <-b"
    first = replace(ENTRY, func="before", time_ns=1_000, **WHO)
    lines = body(IN, OUT, first, graph=True, ordered=False)
    assert [line.partition("|")[2].strip() for line in lines] == ["before() {", "vfs_read();"]


def test_each_line_comes_at_once() -> None:
    stream = Pipe()
    sink = FtraceSink(stream)
    for count, event in enumerate((IN, MISSED, OUT), start=1):
        sink.write(event)
        assert len([line for line in stream.getvalue().splitlines() if "vfs_read" in line]) == count
    sink.write(SUMMARY)
    # What cannot seek has no counts, and no room for them.
    assert stream.getvalue().splitlines()[2] == "#                                _-----=> irqs-off/BH-disabled"
    assert "entries" not in stream.getvalue()


@pytest.mark.parametrize(("mode", "counts"), [("w", 1), ("a", 0)])
def test_counts_go_to_the_beginning_of_a_file_that_is_not_appended_to(tmp_path: Path, mode: str, counts: int) -> None:
    path = tmp_path / "trace"
    with path.open(mode) as stream:
        stream.write("what was there before\n")
        sink = FtraceSink(stream)
        for event in (IN, OUT):
            sink.write(event)
        begun = path.read_text().splitlines()
        sink.write(SUMMARY)
    lines = path.read_text().splitlines()
    assert lines[0] == begun[0] == "what was there before"
    assert sum("entries-in-buffer/entries-written: 2/2" in line for line in lines) == counts
    # Nothing but the counts has changed, and the summary has come behind.
    differ = [old for old, new in zip(begun, lines, strict=False) if old != new]
    assert differ == ["#".ljust(80)] * counts
    assert any(line.startswith("# ended: ") for line in lines[len(begun) :])


def test_what_is_no_entry_is_a_comment() -> None:
    lines = written(IN, MISSED, LOST, ConsoleEvent("two\nlines", 0, "command"), SUMMARY)
    assert "# entries-in-buffer/entries-written: 1/1   #P:1" in map(str.rstrip, lines)
    assert "#     0.000000: vfs_read missed (pool)" in lines
    assert "#     0.000000: vfs_read lost 3 times (list-recursion)" in lines
    assert "# command | two\\nlines" in lines
    assert "# calls: 1,036 = 1,031 hits + 2 missed + 3 lost" in lines


def test_tasks_without_a_name() -> None:
    assert body(ENTRY)[0].startswith("           <...>-0       [001] ..... ")
    assert body(replace(IN, comm="swapper/0", pid=0))[0].startswith("          <idle>-0       [001] ..... ")


def test_nothing_of_the_guest_breaks_a_line() -> None:
    for graph in (False, True):
        for text in ("\n", "\x1b[31m", "a\r\nb", "\u2028"):
            events = [event for event in hostile(text) if type(event) is not type(SUMMARY)]
            plain = written(*events, SUMMARY, graph=graph)
            assert len(plain) == len(written(*(hostile("x")[: len(events)]), SUMMARY, graph=graph))
            assert all(line.isprintable() for line in plain)


def test_a_picture_is_drawn_as_things_happen() -> None:
    stream = Pipe()
    sink = FtraceGraphSink(stream, lambda: 1)
    for event, lines in ((IN, 0), (PROBED, 2), (OUT, 3)):
        sink.write(event)
        assert len([line for line in stream.getvalue().splitlines() if "vfs_read" in line or "}" in line]) == lines


@pytest.mark.parametrize("how", [{"graph": True, "ordered": False}, {"ordered": False}])
def test_what_waits_for_the_end_is_not_written_without(how: dict[str, bool]) -> None:
    assert written(*ALL[:-1], **how) == []
