"""Events with known contents. The addresses are made up, but of the form that a 6.1 kernel has."""

from __future__ import annotations

import io
from dataclasses import replace

from fprobe_gdb.events import (
    ConsoleEvent,
    EntryEvent,
    EventField,
    ExitEvent,
    FunctionSummary,
    LostEvent,
    MissedEvent,
    MissReason,
    SummaryEvent,
)
from fprobe_gdb.output.base import AnyEvent
from fprobe_gdb.output.jsonl import JsonlSink
from fprobe_gdb.output.text import TextSink

ENTRY = EntryEvent(
    func="vfs_read",
    entry_ip=0xFFFFFFFF812F1A40,
    ret_ip=0xFFFFFFFF812F2095,
    cpu=1,
    task=0xFFFF888003A4B100,
    time_ns=1_234_567_890,
    args={"di": 0xFFFF888003A4B900, "si": 0x7FFC12345678, "dx": 0x400, "cx": 0xFFFFC90000137EF8, "r8": 0, "r9": 0x1},
    caller="ksys_read+0x75",
    depth=1,
)
EXIT = ExitEvent(
    func="vfs_read",
    entry_ip=0xFFFFFFFF812F1A40,
    ret_ip=0xFFFFFFFF812F2095,
    cpu=0,
    task=0xFFFF888003A4B100,
    time_ns=1_234_580_790,
    retval=1,
    duration_ns=12_900,
    caller="ksys_read+0x75",
    depth=1,
)
MISSED = MissedEvent("vfs_read", 0xFFFFFFFF812F1A40, 0xFFFFFFFF812F2095, 0, 0xFFFF888003A4B100, 5, MissReason.POOL)
LOST = LostEvent(
    "vfs_read", 0xFFFFFFFF812F1A40, 0xFFFFFFFF812F2095, 0, 0xFFFF888003A4B100, 5, MissReason.LIST_RECURSION, 3, 2
)
CONSOLE = ConsoleEvent("[    1.2] hello", 2_000_000_000)
SUMMARY = SummaryEvent(
    functions=(
        FunctionSummary("vfs_read", 1024, 2, 0, 1023, 2_100, 12_900, 1_200_000, exits_missed=0),
        FunctionSummary("vfs_write", 7, 0, 3, 0, None, None, None, exits_missed=0),
        FunctionSummary("vfs_llseek", 0, 0, 0, 0, None, None, None, exits_missed=0),
    ),
    hits=1031,
    missed=2,
    lost=3,
    host_ns_per_hit=4_570_000,
    ended="command finished",
    command_status=0,
    dispatch="breakpoint, rsp, sw",
    exits=1023,
)
#: Of a probe event.
FIELDS = (
    EventField("name", '"mo"td"', 'mo"td'),
    EventField("count", "4096", "4096"),
    EventField("bad", "(fault)", None),
    EventField("two", "{1,(fault)}", ("1", None)),
)
ALL = (ENTRY, EXIT, MISSED, LOST, CONSOLE, SUMMARY)


def hostile(text: str) -> list[AnyEvent]:
    """One event of every type, with ``text`` wherever a guest (or its image) may have a say."""
    row = FunctionSummary(text, 1, 0, 0, 0, None, None, None)
    return [
        replace(ENTRY, func=text, caller=text, args={text: 1}),
        replace(EXIT, func=text, caller=text),
        replace(MISSED, func=text),
        replace(LOST, func=text),
        ConsoleEvent(text, 0, source=text),
        replace(SUMMARY, functions=(row, replace(row, func=text, hits=0)), ended=text, dispatch=text),
    ]


def as_text(*events: AnyEvent, color: bool = False, args: int = 3, encoding: str = "utf-8") -> list[str]:
    """The lines that a TextSink without header writes to a stream of this encoding."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, newline="")
    sink = TextSink(stream, color=color, args=args, header=False)
    for event in events:
        sink.write(event)
    sink.close()
    return raw.getvalue().decode(encoding).split("\n")[:-1]


def as_jsonl(*events: AnyEvent) -> list[str]:
    """The lines that a JsonlSink writes."""
    stream = io.StringIO(newline="")
    sink = JsonlSink(stream)
    for event in events:
        sink.write(event)
    sink.close()
    return stream.getvalue().split("\n")[:-1]
