"""The table at the end of a text trace."""

from dataclasses import replace

from fprobe_gdb.events import FunctionSummary
from tests.unit.output.made_up_events import SUMMARY, as_text


def test_the_whole_table():
    # No exit was refused, so that column is not there; no write returned, so it has no durations; a function that was
    # never called is not a row; 1031 + 2 + 3 = 1036.
    assert as_text(SUMMARY) == [
        "",
        "function    hits  missed  lost  exits    min    mean    max",
        "vfs_read   1,024       2     0  1,023  2.1us  12.9us  1.2ms",
        "vfs_write      7       0     3      0      -       -      -",
        "total      1,031       2     3  1,023",
        "not called: vfs_llseek",
        "calls: 1,036 = 1,031 hits + 2 missed + 3 lost",
        "host cost: 4.6ms for each entry and each exit",
        "ended: command finished, status 0",
        "dispatch: breakpoint, rsp, sw",
    ]


def test_refused_exits_have_a_column_of_their_own():
    row = FunctionSummary("vfs_read", 5, 0, 0, 3, 1, 2, 3, exits_missed=2)
    lines = as_text(replace(SUMMARY, functions=(row,), hits=5, missed=0, lost=0, exits=3, exits_missed=2))
    assert lines[1].split("  ")[-4:-3] == ["exit missed"]
    assert lines[2].split() == ["vfs_read", "5", "0", "0", "3", "2", "1ns", "2ns", "3ns"]
    assert "calls: 5 = 5 hits + 0 missed + 0 lost" in lines


def test_one_function_needs_no_totals():
    assert not any(line.startswith("total") for line in as_text(replace(SUMMARY, functions=SUMMARY.functions[:1])))


def test_nothing_was_called():
    nothing = replace(SUMMARY, functions=(), hits=0, missed=0, lost=0, exits=0, host_ns_per_hit=None)
    assert as_text(replace(nothing, ended="timeout", command_status=None)) == [
        "",
        "calls: 0 = 0 hits + 0 missed + 0 lost",
        "ended: timeout",
        "dispatch: breakpoint, rsp, sw",
    ]


def test_many_functions_that_were_not_called_are_counted_not_listed():
    idle = tuple(FunctionSummary(f"f{number}", 0, 0, 0, 0, None, None, None) for number in range(1205))
    assert "not called: f0, f1, f2, f3, f4 and 1,200 more" in as_text(replace(SUMMARY, functions=idle))


def test_a_failed_command_shows_its_status():
    assert "ended: command finished, status 127" in as_text(replace(SUMMARY, command_status=127))
