"""Calls drawn as the function_graph tracer does. The expected text is the kernel's where it says so."""

from __future__ import annotations

import pytest

from fprobe_gdb.output.ftrace_graph import GraphPicture, GraphRecord, RecordKind

CALL, RETURN, EVENT, NOTE = RecordKind.CALL, RecordKind.RETURN, RecordKind.EVENT, RecordKind.NOTE
SH, CAT = (0x1000, "sh", 145), (0x2000, "kworker/0:1", 9)


def record(
    kind: RecordKind,
    text: str,
    depth: int = 0,
    duration_ns: int = 0,
    cpu: int = 0,
    task: tuple[int, str, int] = SH,
) -> GraphRecord:
    return GraphRecord(kind, 0, text, cpu, *task, entry_ip=hash(text), depth=depth, duration_ns=duration_ns)


def drawn(*records: GraphRecord, cpus: int = 2) -> list[str]:
    picture = GraphPicture(cpus)
    return [*(line for one in records for line in picture.add(one)), *picture.finish()]


def test_nested_calls_and_leaves() -> None:
    assert drawn(
        record(CALL, "ksys_read"),
        record(CALL, "fdget_pos", 1),
        record(RETURN, "fdget_pos", 1, 69_491),
        record(EVENT, "re: (vfs_read+0x4/0x370) count=64"),
        record(CALL, "vfs_read", 1),
        record(EVENT, "re: (vfs_read+0x4/0x370) count=64"),
        record(RETURN, "vfs_read", 1, 8_736),
        record(RETURN, "ksys_read", 0, 120_160),
    ) == [
        " 0)               |  ksys_read() {",
        " 0) + 69.491 us   |    fdget_pos();",
        " 0)               |  /* re: (vfs_read+0x4/0x370) count=64 */",
        " 0)               |    vfs_read() {",
        " 0)               |      /* re: (vfs_read+0x4/0x370) count=64 */",
        " 0)   8.736 us    |    }",
        " 0) ! 120.160 us  |  }",
    ]


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [
        (0, "  0.000 us    "),
        (999, "  0.999 us    "),
        (10_000, "  10.000 us   "),
        (10_001, "+ 10.001 us   "),
        (100_001, "! 100.001 us  "),
        (1_000_001, "# 1000.001 us "),
        (23_459_196, "* 23459.19 us "),
        (110_726_678, "@ 110726.6 us "),
        (1_000_000_001, "$ 1000000 us  "),
        (123_456_789_012, "$ 123456789 us |"),
    ],
)
def test_durations(duration_ns: int, text: str) -> None:
    """Seven digits, or as many as the microseconds need; marks stand for more than the tens."""
    (line,) = drawn(record(CALL, "f"), record(RETURN, "f", 0, duration_ns))
    assert line[4:].startswith(text)
    assert line.endswith("|  f();")


def test_a_change_of_task_is_announced() -> None:
    """Where the CPU has shown another task before; names are cut to seven characters, and stand in the middle."""
    assert drawn(
        record(CALL, "f"),
        record(CALL, "g", cpu=1, task=CAT),
        record(RETURN, "g", cpu=1, task=CAT),
        record(CALL, "g", task=CAT),
        record(RETURN, "f", cpu=1),
        cpus=16,
    ) == [
        "  0)               |  f() {",
        "  1)   0.000 us    |  g();",
        " ------------------------------------------",
        "  0)     sh-145     =>   kworker-9   ",
        " ------------------------------------------",
        "",
        "  0)               |  g() {",
        " ------------------------------------------",
        "  1)   kworker-9    =>     sh-145    ",
        " ------------------------------------------",
        "",
        # It has come here from another CPU, where its brace was opened.
        "  1)   0.000 us    |  } /* f */",
    ]


def test_the_same_function_in_another_task_is_no_leaf() -> None:
    lines = drawn(record(CALL, "f"), record(RETURN, "f", task=CAT), record(RETURN, "f"))
    assert [line for line in lines if "|" in line] == [
        " 0)               |  f() {",
        " 0)   0.000 us    |  }",
        " 0)   0.000 us    |  } /* f */",
    ]


def test_notes_are_nothing_to_the_picture() -> None:
    note = GraphRecord(NOTE, 0, "# hello")
    assert drawn(note, record(CALL, "f"), note, record(RETURN, "f")) == [
        "# hello",
        " 0)   0.000 us    |  f();",
        "# hello",
    ]


def test_lines_come_as_soon_as_they_are_known() -> None:
    picture = GraphPicture(2)
    assert picture.add(record(CALL, "f")) == []
    assert picture.add(record(CALL, "g", cpu=1)) == []
    # Of f nothing is known yet.
    assert picture.add(record(RETURN, "g", cpu=1)) == []
    assert picture.add(record(CALL, "h", 1)) == [" 0)               |  f() {", " 1)   0.000 us    |  g();"]
    assert picture.add(record(RETURN, "h", 1)) == [" 0)   0.000 us    |    h();"]
    assert picture.add(record(RETURN, "f")) == [" 0)   0.000 us    |  }"]
    assert picture.finish() == []


def test_a_call_that_has_waited_for_too_long_gets_its_brace() -> None:
    """Here with room for three records."""
    picture = GraphPicture(2, most_held=3)
    others = [record(kind, "g", cpu=1) for kind in (CALL, RETURN)]
    assert [picture.add(one) for one in (record(CALL, "f"), *others)] == [[], [], []]
    g = " 1)   0.000 us    |  g();"
    assert picture.add(others[0]) == [" 0)               |  f() {", g]
    assert picture.add(record(RETURN, "f")) == []
    assert picture.add(others[1]) == [g, " 0)   0.000 us    |  }"]
