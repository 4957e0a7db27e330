"""QMP events of stops, against a monitor of a few lines."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from fprobe_gdb.errors import ProtocolError, TransportTimeout
from fprobe_gdb.transport.stop_events import StopEvents

GREETING = {"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}
OK: dict[str, object] = {"return": {}, "id": 1}


def status(name: str, number: int = 2) -> dict[str, object]:
    return {"return": {"status": name, "running": False}, "id": number}


def event(name: str) -> dict[str, object]:
    return {"timestamp": {"seconds": 1, "microseconds": 2}, "event": name}


class Monitor:
    def __init__(self) -> None:
        self.client, self.sock = socket.socketpair()

    def say(self, *messages: dict[str, object]) -> None:
        self.sock.sendall(b"".join(json.dumps(message).encode() + b"\r\n" for message in messages))


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    monitor = Monitor()
    yield monitor
    monitor.sock.close()
    monitor.client.close()


def test_nothing_is_sent_before_it_is_needed(monitor: Monitor) -> None:
    StopEvents(monitor.client)
    monitor.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        monitor.sock.recv(1)


def test_status_negotiates_first_and_forgets_what_came_before(monitor: Monitor) -> None:
    events = StopEvents(monitor.client)
    monitor.say(GREETING, OK, event("STOP"), event("SHUTDOWN"), status("paused"))
    assert events.version() == (7, 2)
    assert events.status() == "paused"
    assert (events.stops, events.others) == (0, False)
    sent = [json.loads(line)["execute"] for line in monitor.sock.recv(4096).splitlines()]
    assert sent == ["qmp_capabilities", "query-status"]


def test_an_answer_that_nobody_waited_for_is_dropped(monitor: Monitor) -> None:
    events = StopEvents(monitor.client, answer_sec=0.01)
    monitor.say(GREETING, OK)
    with pytest.raises(TransportTimeout, match="query-status"):
        events.status()
    monitor.say(status("running"), event("STOP"), status("debug", 3))
    assert events.status() == "debug"


def test_stops_are_counted_and_what_is_no_stop_is_told_apart(monitor: Monitor) -> None:
    events = StopEvents(monitor.client)
    monitor.say(event("RESUME"), event("STOP"), event("RTC_CHANGE"), event("STOP"))
    assert events.pump()
    assert (events.stops, events.others) == (2, False)
    monitor.say(event("GUEST_PANICKED"))
    assert events.pump()
    assert events.others
    assert not events.pump()


def test_messages_may_come_in_pieces(monitor: Monitor) -> None:
    events = StopEvents(monitor.client)
    for byte in json.dumps(event("STOP")).encode():
        monitor.sock.sendall(bytes((byte,)))
        assert events.pump()
        assert events.stops == 0
    monitor.sock.sendall(b"\r\n")
    assert events.pump()
    assert events.stops == 1


def test_a_closed_connection_is_told_once(monitor: Monitor) -> None:
    events = StopEvents(monitor.client)
    monitor.sock.close()
    assert events.pump()
    assert events.closed


@pytest.mark.parametrize("wire", [b"nonsense\n", b"[1]\n", b'{"QMP": {}}\n'])
def test_nonsense_is_a_protocol_error(monitor: Monitor, wire: bytes) -> None:
    monitor.sock.sendall(wire)
    with pytest.raises(ProtocolError):
        StopEvents(monitor.client).version()


def test_a_refused_command_is_a_protocol_error(monitor: Monitor) -> None:
    monitor.say(GREETING, {"error": {"class": "GenericError", "desc": "no"}, "id": 1})
    with pytest.raises(ProtocolError, match="refuses qmp_capabilities"):
        StopEvents(monitor.client).status()


def test_a_silent_monitor_is_a_timeout(monitor: Monitor) -> None:
    with pytest.raises(TransportTimeout, match="greeting"):
        StopEvents(monitor.client, answer_sec=0.01).version()
