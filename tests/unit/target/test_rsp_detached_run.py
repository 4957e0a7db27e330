"""Running with nobody attached: what is sent to the stub, and which report is made of the stop."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from emu.deadline import Deadline
from fprobe_gdb.errors import ProtocolError, TargetError, TargetLost, WaitTimeout
from fprobe_gdb.target.base import BreakpointKind, Stop, StopKind
from fprobe_gdb.target.rsp import RspTarget
from fprobe_gdb.transport.rsp import frame
from fprobe_gdb.transport.rsp_session import RspSession
from tests.unit.target.scripted_stub import ScriptedStub

SW, HW = BreakpointKind.SOFTWARE, BreakpointKind.HARDWARE
ADDR = 0xFFFFFFFF81000010
STOP: dict[str, object] = {"event": "STOP"}
RESUME: dict[str, object] = {"event": "RESUME"}


class Guest:
    """A stub with two vCPUs and a monitor, whose messages are said by the test."""

    def __init__(self, version: tuple[int, int] = (7, 2)) -> None:
        self.stub = ScriptedStub()
        self.monitor, self._sock = socket.socketpair()
        self.ips = [0, 0]
        self._selected = 0
        self._commands = 1
        self.stub.answers = {
            b"D;1": b"OK",
            b"vAttach;1": b"T05thread:01;",
            b"Hg": self._select,
            b"p10": lambda _packet: self.ips[self._selected].to_bytes(8, "little").hex().encode(),
            **self.stub.answers,
            b"qfThreadInfo": b"m01,02",
        }
        major, minor = version
        self.tell({"QMP": {"version": {"qemu": {"major": major, "minor": minor}}}}, {"return": {}, "id": 1})

    def _select(self, packet: bytes) -> bytes:
        self._selected = int(packet[2:], 16) - 1
        return b"OK"

    def tell(self, *messages: dict[str, object]) -> None:
        self._sock.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    def tell_status(self, status: str) -> None:
        self._commands += 1
        self.tell({"return": {"status": status}, "id": self._commands})

    def sent_since(self, packet: bytes) -> list[bytes]:
        seen = self.stub.seen
        return seen[len(seen) - seen[::-1].index(packet) - 1 :]

    def close(self) -> None:
        self.stub.close()
        self._sock.close()
        self.monitor.close()


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest()
    yield guest
    guest.close()


def target_of(guest: Guest) -> RspTarget:
    return RspTarget(guest.stub.client, monitor=guest.monitor)


def hit(guest: Guest, target: RspTarget, *ips: int) -> Stop | None:
    guest.ips[:] = ips
    guest.tell(RESUME, STOP, RESUME, STOP)
    return target.wait(Deadline(5))


def test_breakpoints_are_planted_again_behind_the_detach(guest: Guest) -> None:
    target = target_of(guest)
    target.insert_breakpoint(ADDR, SW)
    target.insert_breakpoint(ADDR + 16, HW)
    target.insert_breakpoint(ADDR + 32, SW)
    target.remove_breakpoint(ADDR + 32, SW)
    guest.tell_status("paused")
    target.resume()
    assert hit(guest, target, 0, ADDR) == Stop(StopKind.BREAKPOINT, 1)
    sent = guest.sent_since(b"D;1")
    planted = [b"Z0,%x,1" % ADDR, b"Z1,%x,1" % (ADDR + 16)]
    assert sent == [b"D;1", *planted, b"c", b"vAttach;1", b"Hg01", b"p10", b"Hg02", b"p10"]


def test_the_vcpu_at_a_breakpoint_is_selected(guest: Guest) -> None:
    target = target_of(guest)
    target.insert_breakpoint(ADDR, SW)
    guest.tell_status("paused")
    target.resume()
    assert hit(guest, target, ADDR, 0) == Stop(StopKind.BREAKPOINT, 0)
    assert guest.stub.seen[-1] == b"Hg01"
    target.registers(0)
    assert guest.stub.seen[-1] == b"g"


def test_stops_of_earlier_runs_do_not_count(guest: Guest) -> None:
    target = target_of(guest)
    target.insert_breakpoint(ADDR, SW)
    guest.tell(STOP, STOP, STOP)
    guest.tell_status("paused")
    target.resume()
    with pytest.raises(WaitTimeout):
        target.wait(Deadline(0.01))
    assert hit(guest, target, ADDR, 0) == Stop(StopKind.BREAKPOINT, 0)
    target.resume()  # in step now: no question to the monitor
    assert hit(guest, target, ADDR, 0) == Stop(StopKind.BREAKPOINT, 0)


def test_a_wait_that_was_cut_short_goes_on(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    target = target_of(guest)
    target.insert_breakpoint(ADDR, SW)
    guest.tell_status("paused")
    target.resume()
    with monkeypatch.context() as patch:
        patch.setattr(RspSession, "collect", _ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            hit(guest, target, 0, ADDR)
    assert target.wait(Deadline(5)) == Stop(StopKind.BREAKPOINT, 1)


def _ctrl_c(*_args: object) -> None:
    raise KeyboardInterrupt


def test_without_breakpoints_the_guest_runs_attached(guest: Guest) -> None:
    target = target_of(guest)
    target.resume()
    guest.stub.on_interrupt = frame(b"T02thread:01;")
    target.interrupt()
    assert target.wait(Deadline(5)) == Stop(StopKind.INTERRUPT, 0)
    assert b"D;1" not in guest.stub.seen


def test_held_vcpus_are_no_detached_run(guest: Guest) -> None:
    target = target_of(guest)
    target.insert_breakpoint(ADDR, SW)
    guest.stub.raw[b"vCont;c:1"] = frame(b"T05thread:01;")
    target.resume(hold=[1])
    assert target.wait(Deadline(5)) == Stop(StopKind.BREAKPOINT, 0)
    assert b"D;1" not in guest.stub.seen


def test_an_emulator_that_does_not_flush_is_left_alone() -> None:
    guest = Guest((10, 2))
    target = target_of(guest)
    target.insert_breakpoint(ADDR, SW)
    guest.stub.raw[b"vCont;c"] = frame(b"T05thread:01;")
    target.resume()
    assert target.wait(Deadline(5)) == Stop(StopKind.BREAKPOINT, 0)
    assert b"D;1" not in guest.stub.seen
    guest.close()


def test_an_interrupt_between_breakpoints(guest: Guest) -> None:
    target = target_of(guest)
    target.insert_breakpoint(ADDR, SW)
    guest.tell_status("running")
    target.resume()
    target.interrupt()
    guest.ips[:] = [ADDR + 1, ADDR + 2]
    guest.tell(STOP, STOP)
    guest.tell_status("paused")
    assert target.wait(Deadline(5)) == Stop(StopKind.INTERRUPT, 0)


@pytest.mark.parametrize(
    ("status", "error"), [("shutdown", TargetLost), ("guest-panicked", TargetError), ("io-error", TargetError)]
)
def test_other_stops_are_told_apart_even_at_a_breakpoint(guest: Guest, status: str, error: type[Exception]) -> None:
    target = target_of(guest)
    target.insert_breakpoint(ADDR, SW)
    guest.tell_status("paused")
    target.resume()
    guest.ips[:] = [ADDR, 0]
    guest.tell(STOP, {"event": "SOMETHING"}, STOP)
    guest.tell_status(status)
    with pytest.raises(error):
        target.wait(Deadline(5))


def test_a_stub_that_refuses_is_not_trusted_any_more(guest: Guest) -> None:
    target = target_of(guest)
    target.insert_breakpoint(ADDR, SW)
    guest.stub.answers[b"D;1"] = b"E22"
    guest.tell_status("paused")
    target.resume()
    with pytest.raises(ProtocolError, match="refused D;1"):
        hit(guest, target, ADDR, 0)
    with pytest.raises(TargetLost):
        target.registers(0)


def test_qemu_ends_while_detached(guest: Guest) -> None:
    target = target_of(guest)
    target.insert_breakpoint(ADDR, SW)
    guest.tell_status("paused")
    target.resume()
    guest.close()
    with pytest.raises(TargetLost):
        target.wait(Deadline(5))
