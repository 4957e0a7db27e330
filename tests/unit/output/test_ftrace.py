"""Lines in the form of tracefs' trace file."""

from __future__ import annotations

import pytest

from fprobe_gdb.events import CpuFlags
from fprobe_gdb.output.ftrace import TraceContext, counts_line, header, trace_line

#: PREEMPT_NEED_RESCHED is kept inverted.
NO_NEED = 1 << 31


def context(**more: int | bool | None) -> TraceContext:
    values: dict[str, object] = {"preempt_count": NO_NEED} | more
    return TraceContext("sh", 145, 1, 39_711_473_900, CpuFlags(**values))  # type: ignore[arg-type]


def test_line_and_header_as_a_kernel_wrote_them() -> None:
    line = "              sh-145     [001] ...1.    39.711474: e1: (vfs_open+0x4/0xf0) mode=0x2 ino=0x0"
    text = "e1: (vfs_open+0x4/0xf0) mode=0x2 ino=0x0"
    assert trace_line(context(preempt_count=NO_NEED + 1), text) == line
    before, after = header("nop")
    top = [*before.splitlines(), counts_line(29, 30, 2), "#", *after.splitlines()]
    assert top[0] == "# tracer: nop"
    assert top[2] == "# entries-in-buffer/entries-written: 29/30   #P:2"
    # The columns' marks stand over what they name.
    assert top[10].index("CPU#") == line.index("[")
    assert top[10].index("|||||") == line.index("...1.")


@pytest.mark.parametrize(
    ("values", "flags"),
    [
        ({}, "....."),
        ({"irqs_off": True}, "d...."),
        ({"irqs_off": True, "preempt_count": NO_NEED | 0x201}, "D..1."),
        ({"preempt_count": NO_NEED | 0x200}, "b...."),
        ({"preempt_count": NO_NEED | 0x100}, "..s.."),
        ({"preempt_count": NO_NEED | 0x10000}, "..h.."),
        ({"preempt_count": NO_NEED | 0x10100}, "..H.."),
        ({"preempt_count": NO_NEED | 0x100000}, "..z.."),
        ({"preempt_count": NO_NEED | 0x110000}, "..Z.."),
        ({"preempt_count": NO_NEED | 0x0F}, "...f."),
        ({"preempt_count": NO_NEED | 0x7F, "migration_disabled": 20}, "...ff"),
        ({"preempt_count": 0, "thread_flags": 8}, ".N..."),
        ({"thread_flags": 8}, ".n..."),
        ({"preempt_count": 0}, ".p..."),
        ({"preempt_count": None, "thread_flags": 4, "migration_disabled": 1}, "....1"),
    ],
)
def test_flags(values: dict[str, int | bool | None], flags: str) -> None:
    assert trace_line(context(**values), "x").split()[2] == flags


def test_the_idle_task_has_its_own_name() -> None:
    assert trace_line(TraceContext("swapper/0", 0, 0, 0), "x").startswith("          <idle>-0       [000] ")
