"""The agent's protocol, against a guest that the test plays itself at the other end of a socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.agent import CHUNK_BYTES, PREFIX, Agent
from emu.deadline import Deadline
from emu.errors import AgentBusy, AgentError, AgentLost, AgentNotReady, CommandTimeout, GuestLostError

READY = PREFIX + b"READY 1 6.1.0-test\n"


class Guest:
    """The guest's end."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.sock = theirs
        self.sock.setblocking(False)
        self.agent = Agent(ours)

    def says(self, data: bytes) -> None:
        self.sock.sendall(data)
        self.agent.pump()

    def hears(self) -> bytes:
        try:
            return self.sock.recv(1 << 20)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        self.sock.close()
        self.agent.close()


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest()
    yield guest
    guest.close()


@pytest.fixture
def ready(guest: Guest) -> Guest:
    guest.says(READY)
    return guest


def begin(token: str) -> bytes:
    return PREFIX + f"BEGIN {token}\n".encode()


def end(token: str, status: int) -> bytes:
    return PREFIX + f"END {token} {status}\n".encode()


def test_ready_is_found_behind_noise(guest: Guest) -> None:
    guest.says(b"noise\x00\x01em\nmore" + READY[:9])
    assert not guest.agent.ready
    guest.says(READY[9:])
    assert guest.agent.release == "6.1.0-test"


def test_not_ready(guest: Guest) -> None:
    with pytest.raises(AgentNotReady):
        guest.agent.start("true")


def test_other_version(guest: Guest) -> None:
    with pytest.raises(AgentError, match="version 2"):
        guest.says(PREFIX + b"READY 2 6.1.0\n")


def test_request_on_the_wire(ready: Guest) -> None:
    command = ready.agent.start("echo 'ä'; exit 3")
    assert ready.hears() == f"RUN {command.token} 17\necho 'ä'; exit 3".encode()
    assert command.poll() is None


def test_result_byte_by_byte(ready: Guest) -> None:
    command = ready.agent.start("x")
    for byte in begin(command.token) + b"out\x00\xff" + PREFIX + b"no message\n" + end(command.token, 3):
        ready.says(bytes([byte]))
    result = command.poll()
    assert result is not None
    assert (result.status, result.output) == (3, b"out\x00\xff" + PREFIX + b"no message\n")


@given(
    output=st.lists(
        st.one_of(st.binary(max_size=20), st.just(PREFIX), st.just(PREFIX + b"END 0123 0\n"), st.just(b"\0\1em"))
    ).map(b"".join),
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=20),
)
def test_any_output_in_any_pieces(output: bytes, cuts: list[int]) -> None:
    guest = Guest()
    try:
        guest.says(READY)
        command = guest.agent.start("x")
        wire = b"stray" + begin(command.token) + output + end(command.token, 0) + b"stray"
        live = b""
        for size in cuts * len(wire):
            if not wire:
                break
            guest.says(wire[:size])
            wire = wire[size:]
            live += command.take_output()
        result = command.poll()
        assert result is not None
        assert result.output == live + command.take_output() == output
    finally:
        guest.close()


def test_output_is_not_held_back(ready: Guest) -> None:
    command = ready.agent.start("x")
    ready.says(begin(command.token) + b"prompt> ")
    assert command.take_output() == b"prompt> "
    assert command.take_output() == b""


def test_endless_output_is_not_kept(ready: Guest) -> None:
    command = ready.agent.start("x", keep_output=False)
    ready.says(begin(command.token) + b"abc" + end(command.token, 0))
    assert command.take_output() == b"abc"
    result = command.poll()
    assert result is not None
    assert result.output == b""


def test_long_commands_wait_for_go(ready: Guest) -> None:
    text = "".join(chr(65 + i % 26) for i in range(CHUNK_BYTES * 2 + 5))
    command = ready.agent.start(text)
    header, _, got = ready.hears().partition(b"\n")
    assert header.split()[-1] == str(len(text)).encode()
    assert len(got) == CHUNK_BYTES
    for size in (CHUNK_BYTES, 5):
        assert ready.hears() == b""
        ready.says(PREFIX + f"GO {command.token}\n".encode())
        more = ready.hears()
        assert len(more) == size
        got += more
    assert got.decode() == text


def test_one_at_a_time(ready: Guest) -> None:
    first = ready.agent.start("sleep 9")
    with pytest.raises(AgentBusy, match="sleep 9"):
        ready.agent.start("true")
    ready.says(begin(first.token) + end(first.token, 0))
    ready.agent.start("true")


def test_interrupt_waits_for_the_command_to_begin(ready: Guest) -> None:
    command = ready.agent.start("x")
    ready.hears()
    ready.agent.interrupt()
    assert ready.hears() == b""
    ready.says(begin(command.token))
    assert ready.hears() == f"SIGNAL {command.token} INT\n".encode()
    ready.agent.interrupt("KILL")
    assert ready.hears() == f"SIGNAL {command.token} KILL\n".encode()
    ready.says(end(command.token, 130))
    ready.agent.interrupt()
    assert ready.hears() == b""


def test_interrupt_with_nonsense(ready: Guest) -> None:
    with pytest.raises(AgentError, match="none of"):
        ready.agent.interrupt("INT; reboot")


def test_messages_for_another_command_are_ignored(ready: Guest) -> None:
    command = ready.agent.start("x")
    ready.says(begin("00ff") + b"old" + end("00ff", 1) + begin(command.token) + b"new" + end(command.token, 0))
    result = command.poll()
    assert result is not None
    assert (result.status, result.output) == (0, b"new")


def test_restarted_agent_loses_the_command(ready: Guest) -> None:
    command = ready.agent.start("kill the agent")
    ready.says(begin(command.token) + b"some")
    ready.says(READY)
    with pytest.raises(AgentLost, match="kill the agent"):
        command.poll()
    assert ready.agent.start("true").poll() is None


def test_closed_port(ready: Guest) -> None:
    command = ready.agent.start("poweroff")
    ready.sock.close()
    with pytest.raises(AgentLost):
        command.wait(Deadline(5))
    with pytest.raises(AgentLost):
        ready.agent.start("true")


@pytest.mark.parametrize("seen", ["before the command", "while it runs", "while it is waited for"])
def test_whoever_knows_why_the_port_is_closed_is_asked(ready: Guest, seen: str) -> None:
    """One error for one end, wherever the end of file turns up first."""

    def explain() -> None:
        raise GuestLostError("QEMU has ended", -9, [])

    ready.agent.explain_eof = explain
    if seen == "before the command":
        ready.sock.close()
    else:
        command = ready.agent.start("sleep 9")
        if seen == "while it runs":
            ready.sock.close()
        else:
            ready.agent.wait_for_bytes = lambda _: ready.sock.close()
        with pytest.raises(GuestLostError, match="signal 9"):
            command.wait(Deadline(5))
        with pytest.raises(GuestLostError, match="signal 9"):
            command.poll()
    for _ in range(2):
        with pytest.raises(GuestLostError, match="signal 9"):
            ready.agent.run("true", Deadline(5))


def test_a_port_that_we_have_closed_needs_no_reason(ready: Guest) -> None:
    command = ready.agent.start("sleep 9")
    ready.agent.explain_eof = lambda: pytest.fail("asked why")
    ready.agent.close()
    with pytest.raises(AgentLost, match="was closed"):
        command.poll()
    with pytest.raises(AgentLost, match="is closed"):
        ready.agent.start("true")


def test_deadline(ready: Guest) -> None:
    command = ready.agent.start("sleep 9")
    ready.says(begin(command.token) + b"so far\n")
    with pytest.raises(CommandTimeout, match="so far") as caught:
        command.wait(Deadline(0.01))
    assert caught.value.output == b"so far\n"
    ready.says(end(command.token, 0))
    assert command.wait(Deadline(1)).status == 0


def test_nul_in_a_command(ready: Guest) -> None:
    with pytest.raises(AgentError, match="NUL"):
        ready.agent.start("a\0b")
