"""GDB/MI: answers are matched by token, whatever comes between and in whatever pieces."""

from __future__ import annotations

import pytest

from fprobe_gdb.errors import ProtocolError
from fprobe_gdb.transport.mi import MiConversation, c_string

# gdb 13.1 on QEMU 7.2, a hit.
STOPPED = (
    b'=breakpoint-modified,bkpt={number="1",type="breakpoint",times="1"}\n~"\\n"\n'
    b'*stopped,reason="breakpoint-hit",disp="keep",bkptno="1",frame={addr="0xffffffff8134cc50",func="??",args=[],'
    b'arch="i386:x86-64"},thread-id="2",stopped-threads="all"\n'
)


@pytest.mark.parametrize("piece_bytes", [1, 7, 10_000])
def test_answers_find_their_commands(piece_bytes: int) -> None:
    mi = MiConversation()
    first, first_wire = mi.command("-one")
    second, second_wire = mi.command("-two")
    assert (first_wire, second_wire) == (b"1-one\n", b"2-two\n")
    wire = (
        b'(gdb) \n~"said \\"this\\"\\n"\n&"complained\\n"\n1^error,msg="no \\"luck\\"",code="x"\n(gdb) \r\n'
        + STOPPED
        + b'2^done,register-values=[{number="0",value="0x10"},{number="16",value="0xffffffff81000000"}]\n'
    )
    for at in range(0, len(wire), piece_bytes):
        mi.feed(wire[at : at + piece_bytes])
    assert (first.status, first.error) == ("error", 'no "luck"')
    assert (first.output, first.log) == ('said "this"\n', "complained\n")
    assert (second.status, second.error) == ("done", None)
    assert second.register_values == {0: 0x10, 16: 0xFFFFFFFF81000000}
    assert second.payload["register-values"][1] == {"number": "16", "value": "0xffffffff81000000"}
    (event,) = mi.events
    assert (event.name, event.get("reason"), event.get("thread-id")) == ("stopped", "breakpoint-hit", "2")
    assert event.get("signal-name") is None
    assert event.payload["frame"]["addr"] == "0xffffffff8134cc50"


def test_an_error_that_nobody_waits_for_is_an_event() -> None:
    mi = MiConversation()
    answer, _wire = mi.command("-exec-continue")
    mi.feed(b'1^running\n*running,thread-id="all"\n(gdb)\n1^error,msg="Remote connection closed"\n')
    assert answer.status == "running"
    assert [(event.name, event.get("msg")) for event in mi.events] == [("error", "Remote connection closed")]


@pytest.mark.parametrize("line", [b"garbage\n", b"7^done\n", b"^done\n", b"\xff\n", b"1\n"])
def test_garbage_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        MiConversation().feed(line)


def test_an_endless_line_is_refused() -> None:
    mi = MiConversation()
    mi.feed(b"x" * (1 << 22))
    with pytest.raises(ProtocolError, match="a line of more than"):
        mi.feed(b"x")


def test_text_for_gdb_cannot_become_a_second_command() -> None:
    assert c_string('say "\\"') == '"say \\"\\\\\\""'
    with pytest.raises(ProtocolError):
        c_string("info status\n-gdb-exit")
