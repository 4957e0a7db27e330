"""The console: whole lines out of any pieces, patterns, panics."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from emu.console import Console
from emu.deadline import Deadline
from emu.errors import ConsoleTimeout, GuestLostError, GuestPanicError

PANIC = b"[ 1.0] Kernel panic - not syncing: sysrq triggered crash\r\n"


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, Console]]:
    ours, guest = socket.socketpair()
    console = Console(ours, keep_lines=5)
    yield guest, console
    console.close()
    guest.close()


Pair = tuple[socket.socket, Console]


def test_lines_are_whole(pair: Pair) -> None:
    guest, console = pair
    guest.sendall(b"first\r\nsec")
    assert console.pump() == ["first"]
    assert console.tail() == ["first", "sec"]
    guest.sendall(b"ond\nthird\n")
    assert console.pump() == ["second", "third"]
    assert console.pump() == []


def test_a_panic_is_told_from_the_line_that_says_why() -> None:
    ours, guest = socket.socketpair()
    console = Console(ours)
    guest.sendall(b"before\n" * 30 + PANIC + b"a register\n" * 60)
    console.pump()
    assert console.tail() == [PANIC.decode().strip(), *["a register"] * 60]
    assert len(console.tail(70)) == 70
    console.close()
    guest.close()


def test_bytes_that_are_no_text(pair: Pair) -> None:
    guest, console = pair
    guest.sendall(b"\xff\x00\x1b[31m\xc3\n\xc3")
    assert console.pump() == ["\ufffd\x00\x1b[31m\ufffd"]
    guest.sendall(b"\xa4\n")
    assert console.pump() == ["ä"]


def test_only_the_last_lines_are_kept(pair: Pair) -> None:
    guest, console = pair
    guest.sendall(b"".join(b"%d\n" % i for i in range(9)))
    assert len(console.pump()) == 9
    assert console.tail() == ["4", "5", "6", "7", "8"]
    assert console.tail(2) == ["7", "8"]


def test_a_line_without_end(pair: Pair) -> None:
    guest, console = pair
    guest.sendall(b"x" * 10_000)
    assert "".join(console.pump() + console.tail(1)) == "x" * 10_000


def test_receive_leaves_the_lines_for_pump(pair: Pair) -> None:
    guest, console = pair
    guest.sendall(b"line\n")
    console.receive()
    assert console.pump() == ["line"]


def test_expect_sees_what_was_pumped_and_lines_stay(pair: Pair) -> None:
    guest, console = pair
    guest.sendall(b"login: root\n# ")
    assert console.pump() == ["login: root"]
    assert console.expect(r"login: (\w+)", Deadline(1)).group(1) == b"root"
    console.expect("# ", Deadline(1))
    guest.sendall(b"uid=0\n")
    assert console.expect(r"uid=(\d)", Deadline(1)).group(1) == b"0"
    assert console.pump() == ["# uid=0"]


def test_expect_does_not_match_twice(pair: Pair) -> None:
    guest, console = pair
    guest.sendall(b"once\n")
    console.expect("once", Deadline(1))
    with pytest.raises(ConsoleTimeout) as caught:
        console.expect("once", Deadline(0.01))
    assert caught.value.last_lines == ("once",)


def test_expect_and_panic(pair: Pair) -> None:
    guest, console = pair
    guest.sendall(PANIC)
    with pytest.raises(GuestPanicError, match="sysrq triggered crash"):
        console.expect("never", Deadline(1))


def test_expect_and_end(pair: Pair) -> None:
    guest, console = pair
    guest.sendall(b"last")
    guest.shutdown(socket.SHUT_WR)
    with pytest.raises(GuestLostError, match="last"):
        console.expect("never", Deadline(1))
    assert console.eof


def test_panic_is_noticed(pair: Pair) -> None:
    guest, console = pair
    guest.sendall(PANIC[:30])
    console.pump()
    assert not console.panicked
    guest.sendall(PANIC[30:])
    console.pump()
    assert console.panicked


def test_end_of_file_completes_the_line(pair: Pair) -> None:
    guest, console = pair
    guest.sendall(b"cut of")
    guest.close()
    assert console.pump() == ["cut of"]
    assert console.eof
    assert console.pump() == []


def test_end_with_unread_bytes(pair: Pair) -> None:
    guest, console = pair
    console.send("nobody reads this\n")  # the kernel then reports a reset
    guest.close()
    assert console.pump() == []
    assert console.eof


def test_send_and_tap(pair: Pair) -> None:
    guest, console = pair
    seen: list[bytes] = []
    console.tap = seen.append
    console.send("dmesg\n")
    assert guest.recv(100) == b"dmesg\n"
    guest.sendall(b"\x1b[1mraw\r\n")
    console.pump()
    assert b"".join(seen) == b"\x1b[1mraw\r\n"


def test_close_twice_and_tail_after(pair: Pair) -> None:
    guest, console = pair
    guest.sendall(b"bye\n")
    console.pump()
    console.close()
    console.close()
    assert console.tail() == ["bye"]
    assert console.pump() == []
