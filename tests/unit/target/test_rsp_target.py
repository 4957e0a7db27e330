"""RspTarget against a scripted stub: what no well-behaved QEMU does, and what only some versions do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from emu.deadline import Deadline
from fprobe_gdb.errors import BreakpointRefused, ProtocolError, TargetError, TargetLost, TransportTimeout, WaitTimeout
from fprobe_gdb.registers import REGISTERS
from fprobe_gdb.target.base import BreakpointKind, Stop, StopKind, TargetState
from fprobe_gdb.target.rsp import RspTarget
from fprobe_gdb.transport.rsp import frame
from tests.unit.target.scripted_stub import ScriptedStub

SW = BreakpointKind.SOFTWARE
HIT, INTERRUPTED = frame(b"T05thread:01;"), frame(b"T02thread:01;")


@pytest.fixture
def stub() -> Iterator[ScriptedStub]:
    stub = ScriptedStub()
    yield stub
    stub.close()


def test_a_report_that_comes_unasked_at_the_connection_is_no_answer(stub: ScriptedStub) -> None:
    # QEMU up to 8.0, when the guest was running.
    stub.on_interrupt = INTERRUPTED
    target = RspTarget(stub.client)
    assert target.state is TargetState.STOPPED
    assert target.instruction_pointers() == [0]


def test_a_second_report_of_a_crossed_interrupt_is_no_stop(stub: ScriptedStub) -> None:
    target = RspTarget(stub.client)
    stub.on_interrupt = HIT + INTERRUPTED
    target.resume()
    target.interrupt()
    assert target.wait(Deadline(5)) == Stop(StopKind.BREAKPOINT, 0)
    assert target.registers(0)["ip"] == 0
    stub.on_interrupt = b""
    target.resume()
    with pytest.raises(WaitTimeout):
        target.wait(Deadline(0.01))


def test_the_interrupt_byte_is_sent_once(stub: ScriptedStub) -> None:
    target = RspTarget(stub.client)
    stub.on_interrupt = INTERRUPTED
    before = stub.seen.count(b"\x03")
    target.resume()
    target.interrupt()
    target.interrupt()
    assert target.wait(Deadline(5)) == Stop(StopKind.INTERRUPT, 0)
    assert stub.seen.count(b"\x03") == before + 1


def test_writes_leave_with_the_resume_and_nothing_after_it(stub: ScriptedStub) -> None:
    target = RspTarget(stub.client)
    before = len(stub.seen)
    target.insert_breakpoint(0x1000, SW)
    target.write_registers(0, {"ip": 0x1005})
    stub.raw[b"vCont"] = HIT
    target.resume()
    assert target.wait(Deadline(5)) == Stop(StopKind.BREAKPOINT, 0)
    assert stub.seen[before:] == [b"Z0,1000,1", b"Hg1", b"P10=0510000000000000", b"vCont;c"]


@pytest.mark.parametrize(
    ("isolated", "root", "lent"), [(True, 0x12345801, 0x12344001), (True, 0x12344001, 0), (False, 0x12345000, 0)]
)
def test_memory_is_seen_with_the_kernels_page_tables(stub: ScriptedStub, isolated: bool, root: int, lent: int) -> None:
    """And the vCPU has its own again before anything else is asked."""
    number = REGISTERS.index("cr3")
    values = [root if name == "cr3" else 0 for name in REGISTERS]
    stub.answers[b"g"] = b"".join(value.to_bytes(8, "little") for value in values).hex().encode()
    stub.answers[b"M"] = b"OK"
    target = RspTarget(stub.client)
    target.isolated = isolated

    def of_root(value: int) -> list[bytes]:
        return [b"P%x=%b" % (number, value.to_bytes(8, "little").hex().encode())] if lent else []

    target.registers(0)
    before = len(stub.seen)
    assert target.read_many([(0x1000, 1), (0x2000, 1)]) == [b"\0", b"\0"]
    target.write_memory(0x1000, b"\1")
    target.write_many([(0x1000, b"\2")])
    wanted = [[b"m1000,1", b"m2000,1"], [b"M1000,1:01"], [b"M1000,1:02"]]
    assert stub.seen[before:] == [word for words in wanted for word in (*of_root(lent), *words, *of_root(root))]


def test_a_refused_breakpoint_that_left_with_the_resume_stops_the_guest(stub: ScriptedStub) -> None:
    target = RspTarget(stub.client)
    stub.answers[b"Z"] = b"E22"
    stub.on_interrupt = INTERRUPTED
    target.insert_breakpoint(0x1000, SW)
    target.resume()
    with pytest.raises(BreakpointRefused, match="0x1000"):
        target.wait(Deadline(5))
    assert target.state is TargetState.STOPPED


@pytest.mark.parametrize("wire", [b"garbage", b"$OK#00", b"-", b"%x#78", frame(b"xyz"), frame(b"00")])
def test_garbage_instead_of_registers(stub: ScriptedStub, wire: bytes) -> None:
    target = RspTarget(stub.client)
    stub.raw[b"g"] = wire
    with pytest.raises(ProtocolError):
        target.registers(0)
    assert target.state is TargetState.LOST
    with pytest.raises(TargetLost):
        target.registers(0)


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        (b"qSupported", b""),
        (b"qSupported", b"PacketSize=x"),
        (b"qXfer:features:read:target.xml", b""),
        (b"qXfer:features:read:core.xml", b"l<not xml"),
        (b"qXfer:features:read:core.xml", b"l<feature/>"),
        (b"qXfer:features:read:target.xml", b'l<target><xi:include href="target.xml"/></target>'),
        (b"qfThreadInfo", b""),
        (b"qfThreadInfo", b"m-1"),
    ],
)
def test_peers_that_are_no_gdbstub_of_x86_64(stub: ScriptedStub, query: bytes, answer: bytes) -> None:
    stub.answers[query] = answer
    with pytest.raises(ProtocolError):
        RspTarget(stub.client)


def test_silence_is_a_timeout(stub: ScriptedStub) -> None:
    target = RspTarget(stub.client, answer_sec=0.02)
    stub.raw[b"g"] = b""
    with pytest.raises(TransportTimeout):
        target.registers(0)


@pytest.mark.parametrize("report", [b"W00", b"X09", b"T03thread:01;"])
def test_the_guests_end_is_reported_as_such(stub: ScriptedStub, report: bytes) -> None:
    target = RspTarget(stub.client)
    stub.raw[b"vCont"] = frame(report)
    target.resume()
    with pytest.raises(TargetLost):
        target.wait(Deadline(5))
    assert target.state is TargetState.LOST


def test_a_stop_for_another_reason_is_an_error_and_leaves_it_stopped(stub: ScriptedStub) -> None:
    target = RspTarget(stub.client)
    stub.raw[b"vCont"] = frame(b"T06thread:01;")
    target.resume()
    with pytest.raises(TargetError, match="panic"):
        target.wait(Deadline(5))
    assert target.state is TargetState.STOPPED


def test_last_words_explain_a_closed_connection(stub: ScriptedStub) -> None:
    target = RspTarget(stub.client)
    stub.say(frame(b"W2a"))
    stub.raw[b"g"] = b""
    with pytest.raises(TargetLost, match="status 42"):
        target.registers(0)
