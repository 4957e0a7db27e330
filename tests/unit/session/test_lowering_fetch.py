"""Fetch arguments as pads fetch them, and back: room in a record, what pads cannot do, and values of what they bring.

That they bring what handlers read is for tests with a CPU (tests/integration/test_recorded_events.py).
"""

from __future__ import annotations

import pytest

from fprobe_gdb.dispatch.trampoline.pad_expr import Caller, Compute, Entered, Imm, Left, Peek
from fprobe_gdb.dispatch.trampoline.payload import Items, Number, Text, Value
from fprobe_gdb.errors import NotCompiled
from fprobe_gdb.probe_events import EventDefinition, ProbeEvents, arguments_text, slot_texts
from fprobe_gdb.session.lowering_fetch import TEXT_BYTES, FetchPlan, plan_fetch
from tests.unit.probe_events.made_up_kernel import MadeUpKernel
from tests.unit.probe_events.test_fetch import SYMBOLS

ROOM = 900
NAME = "file->f_path.dentry->d_name.name:string"


def definition(arguments: str) -> EventDefinition:
    made = ProbeEvents(MadeUpKernel()).add(f"f vfs_read {arguments}")
    assert made is not None
    return made


def plan(arguments: str, room_bytes: int = ROOM, *, reaches_memory: bool = True) -> FetchPlan:
    return plan_fetch(definition(arguments), room_bytes, reaches_memory)


def test_what_is_fetched() -> None:
    fetched = plan(f"count {NAME} $comm +4(buf):x8[6] $stack0:symbol \\5").payload.fields
    dentry = Peek(Entered("di"), 56, 8)
    assert fetched == (
        Number(Entered("dx")),
        Text(Peek(dentry, 40, 8), TEXT_BYTES),
        Items(Compute("+", Entered("si"), Imm(4)), 1, 6),
        Number(Caller()),
        Number(Imm(5)),
    )
    assert plan("$retval count").payload.fields == (Number(Left("ax")), Number(Entered("dx")))


def test_offsets_of_any_size() -> None:
    far, near = plan("+0x123456789(buf) -8(buf)").payload.fields
    assert far == Number(Peek(Compute("+", Entered("si"), Imm(0x123456789)), 0, 8))
    assert near == Number(Peek(Entered("si"), -8, 8))


@pytest.mark.parametrize(("texts", "limit_bytes"), [(1, 256), (3, 256), (4, 216), (13, 64)])
def test_texts_share_the_room(texts: int, limit_bytes: int) -> None:
    payload = plan(" ".join(f"a{number}={NAME}" for number in range(texts))).payload
    assert {field.room_bytes for field in payload.fields} == {limit_bytes}
    assert payload.size_bytes <= ROOM


@pytest.mark.parametrize(
    ("arguments", "room_bytes", "reaches_memory", "why"),
    [
        (" ".join(f"a{number}={NAME}" for number in range(14)), ROOM, True, "do not fit"),
        ("a=+0(buf):x64[64] b=+0(buf):x64[64]", ROOM, True, "do not fit"),
        ("count pos", 16, True, "do not fit"),
        ("$retval a=$arg7", ROOM, True, "on the stack would have to be kept"),
        (NAME, ROOM, False, "follows pointers"),
        ("+0(buf):x8[4]", ROOM, False, "follows pointers"),
        ("$stack1", ROOM, False, "follows pointers"),
    ],
)
def test_what_pads_cannot_fetch(arguments: str, room_bytes: int, reaches_memory: bool, why: str) -> None:
    with pytest.raises(NotCompiled, match=why):
        plan(arguments, room_bytes, reaches_memory=reaches_memory)


def test_without_a_window_registers_are_fetched() -> None:
    assert plan(r'count $stack0 $stack \1 \"text" $comm', reaches_memory=False).payload.size_bytes == 40


# As a pad would leave it.
def written(made: FetchPlan, values: list[Value]) -> bytes:
    data, waiting = bytearray(made.payload.size_bytes), iter(values)
    for place in made.payload.places():
        size_bytes = getattr(place.field, "size_bytes", 8)
        for number in range(place.field.values):
            value = next(waiting)
            data[place.flags + number] = value is None
            raw = value if isinstance(value, bytes) else (value or 0).to_bytes(size_bytes, "little")
            at = place.values + number * size_bytes
            data[at : at + len(raw)] = raw
    return bytes(data)


@pytest.mark.parametrize(
    ("arguments", "values", "text", "slots"),
    [
        ("count:u8", [0x1234], "count=52", ("52",)),
        ("a=pos:s32", [(1 << 64) - 2], "a=-2", ("-2",)),
        ("+0(\\16):u32", [None], "arg1=0", ("0",)),
        ("file->f_mode:b3@2/8", [0x1D], "arg1=7", ("7",)),
        ("+0(file):b4@0/8[2]", [0x1D, 0xF0], "arg1={13,0}", ("13", "0")),
        ("+0(file):x8[3]", [1, None, 3], "arg1={0x1,0x0,0x3}", ("0x1", "0x0", "0x3")),
        (NAME, [b"motd\0rest"], 'arg1="motd"', ("motd",)),
        (NAME, [None], "arg1=(fault)", (None,)),
        (NAME, [b"x" * 256], 'arg1="' + "x" * 256 + '"...', ("x" * 256 + "...",)),
        (NAME, [b"x" * 255], 'arg1="' + "x" * 255 + '"', ("x" * 255,)),
        ("+8(buf):string[2]", [b"a\0", None], 'arg1={"a",(fault)}', ("a", None)),
        ("\\16:string[2]", [None], "arg1={(fault),(fault)}", (None, None)),
        ("$stack0:symstr", [0xFFFFFFFF81000155], 'arg1="sym"', ("sym",)),
        ("$stack0:symbol", [0xFFFFFFFF81000155], "arg1=ksys_read+0x55/0xff00", ("ksys_read+0x55/0xff00",)),
        ("$comm", [], 'arg1="dd"', ("dd",)),
        (r'\"hi"', [], 'arg1="hi"', ("hi",)),
    ],
)
def test_values_of_what_was_fetched(
    arguments: str, values: list[Value], text: str, slots: tuple[str | None, ...]
) -> None:
    made = plan(arguments)
    found = made.values(written(made, values), "dd", lambda addr: "sym")
    assert arguments_text(found, SYMBOLS) == " " + text
    assert slot_texts(found[0], SYMBOLS) == slots
    assert found[0].is_fault is (None in values)
