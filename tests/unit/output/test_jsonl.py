"""JsonlSink: the documented form, valid JSON whatever the guest says."""

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fprobe_gdb.events import ConsoleEvent, MissReason
from fprobe_gdb.output import jsonl
from tests.unit.output.made_up_events import ALL, ENTRY, EXIT, FIELDS, LOST, MISSED, SUMMARY, as_jsonl, hostile
from tests.unit.output.properties import PROPERTY


def test_entry():
    assert as_jsonl(ENTRY) == [
        '{"type":"entry","func":"vfs_read","entry_ip":"0xffffffff812f1a40","ret_ip":"0xffffffff812f2095","cpu":1,'
        '"task":"0xffff888003a4b100","time_ns":1234567890,"args":{"di":"0xffff888003a4b900","si":"0x7ffc12345678",'
        '"dx":"0x400","cx":"0xffffc90000137ef8","r8":"0x0","r9":"0x1"},"caller":"ksys_read+0x75","depth":1,'
        '"comm":null,"pid":null,"params":null}'
    ]
    typed = replace(ENTRY, comm='a"b', pid=71, params=(("file", '0x1 "motd"'), ("count", "4096")))
    (line,) = as_jsonl(typed)
    assert line.endswith(r'"comm":"a\"b","pid":71,"params":{"file":"0x1 \"motd\"","count":"4096"}}')


def test_exit():
    assert as_jsonl(EXIT) == [
        '{"type":"exit","func":"vfs_read","entry_ip":"0xffffffff812f1a40","ret_ip":"0xffffffff812f2095","cpu":0,'
        '"task":"0xffff888003a4b100","time_ns":1234580790,"retval":"0x1","duration_ns":12900,'
        '"caller":"ksys_read+0x75","depth":1,"comm":null,"pid":null,"result":null}'
    ]
    assert as_jsonl(replace(EXIT, comm="cat", pid=71, result="-2 (-ENOENT)"))[0].endswith(
        '"comm":"cat","pid":71,"result":"-2 (-ENOENT)"}'
    )


def test_missed_and_lost():
    missed, lost = map(json.loads, as_jsonl(MISSED, LOST))
    assert (missed["type"], missed["reason"], missed["depth"]) == ("missed", "pool", 0)
    assert (lost["type"], lost["reason"], lost["count"], lost["depth"]) == ("lost", "list-recursion", 3, 2)


def test_console():
    # NUL, ESC, quotes, a line end, a character outside ASCII, and the byte 0xff as surrogateescape keeps it.
    assert as_jsonl(ConsoleEvent('\0\x1b["\n\\→\udcff', 7, "command")) == [
        r'{"type":"console","source":"command","line":"\u0000\u001b[\"\n\\\u2192\\xff","time_ns":7}'
    ]


def test_summary():
    (line,) = as_jsonl(SUMMARY)
    summary = json.loads(line)
    assert line.startswith('{"type":"summary","functions":[{"func":"vfs_read","hits":1024,')
    assert [row["func"] for row in summary["functions"]] == ["vfs_read", "vfs_write", "vfs_llseek"]
    assert summary["functions"][1]["mean_ns"] is None
    assert (summary["hits"], summary["missed"], summary["lost"]) == (1031, 2, 3)
    assert (summary["host_ns_per_hit"], summary["ended"], summary["command_status"]) == (4570000, "command finished", 0)


def test_an_entry_without_arguments():
    assert json.loads(as_jsonl(replace(ENTRY, args={}))[0])["args"] == {}


@PROPERTY
@given(
    st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**63), st.integers(0, 2**63), st.text("ab_.")
)
def test_round_trip_of_an_exit(addr, value, time_ns, duration_ns, func):
    event = replace(EXIT, func=func, entry_ip=addr, retval=value, time_ns=time_ns, duration_ns=duration_ns)
    read = json.loads(as_jsonl(event)[0])
    assert (read["func"], int(read["entry_ip"], 16), int(read["retval"], 16)) == (func, addr, value)
    assert (read["time_ns"], read["duration_ns"]) == (time_ns, duration_ns)


@PROPERTY
@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers(0, 2**64 - 1), max_size=6))
def test_round_trip_of_arguments(args):
    read = json.loads(as_jsonl(replace(ENTRY, args=args))[0])["args"]
    assert {name: int(value, 16) for name, value in read.items()} == args


@PROPERTY
@given(st.text() | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")))
def test_any_text_makes_one_line_of_strict_json(text):
    for event in hostile(text):
        (line,) = as_jsonl(event)
        assert line.isascii()
        assert line.isprintable()
        assert json.loads(line)["type"]
        # Strict readers refuse escapes of surrogates that are no pair; pairs decode to what UTF-8 can encode.
        json.dumps(json.loads(line), ensure_ascii=False).encode("utf-8")


@PROPERTY
@given(st.text(st.characters(codec="utf-8")))
def test_proper_text_comes_back_unchanged(text):
    assert json.loads(as_jsonl(ConsoleEvent(text, 0))[0])["line"] == text


@pytest.mark.parametrize("event", ALL, ids=lambda event: type(event).__name__)
def test_every_field_is_documented_in_its_place(event):
    section, shared = _documented(), _documented()["entry"][:7]
    fields = json.loads(as_jsonl(event)[0])
    assert next(iter(fields)) == "type"
    documented = section[fields["type"]]
    assert list(fields) == (documented if documented[0] == "type" else shared + documented)


@pytest.mark.parametrize("event", [ENTRY, EXIT, MISSED, LOST], ids=lambda event: type(event).__name__)
def test_more_fields_of_probe_events(event):
    plain = list(json.loads(as_jsonl(event)[0]))
    more = {"probe_event": "grp/myread"}
    if event in (ENTRY, EXIT):
        more |= {"fields": FIELDS, "stack": ("vfs_read+0x4", "ksys_read+0x75")}
    found = json.loads(as_jsonl(replace(event, **more))[0])
    assert list(found) == plain + _documented()["event"][: len(more)]
    assert found["event"] == "grp/myread"
    if "fields" in more:
        assert found["fields"] == {"name": 'mo"td', "count": "4096", "bad": None, "two": ["1", None]}
        assert found["stack"] == ["vfs_read+0x4", "ksys_read+0x75"]


def test_every_reason_is_documented():
    for reason in MissReason:
        assert f'"{reason.value}"' in (jsonl.__doc__ or "")


# The first column of each table of the module's docstring, by the type that its heading names.
def _documented():
    tables = {}
    for line in (jsonl.__doc__ or "").splitlines():
        if heading := re.match(r"``(\w+)``, ", line):
            fields = tables[heading[1]] = []
        elif row := re.match(r"``(\w+)`` +(string|hex|integer|object|array)", line):
            fields.append(row[1])
    return tables
