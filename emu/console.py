"""The guest's console (ttyS0): complete lines as they come, the last ones kept, and pexpect for waiting on a pattern.

The only file that knows pexpect. Rules:

1. Whoever lets a guest run pumps its console: an emulated UART that nobody reads makes every printk wait 10 ms per
   byte (Linux, drivers/tty/serial/8250/8250_port.c, ``wait_for_lsr``).
2. A guest may print anything. Bytes that are not UTF-8 become U+FFFD; control characters stay.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections import deque
from collections.abc import Callable

import pexpect
from pexpect.fdpexpect import fdspawn

from emu.deadline import Deadline
from emu.errors import ConsoleTimeout, GuestLostError, GuestPanicError

__all__ = ["PANIC", "Console"]

#: What the kernel prints when it gives up (Linux, kernel/panic.c, ``panic``).
PANIC = "Kernel panic - not syncing"

# How much of the unmatched past a later expect() can still see.
_EXPECT_BYTES = 1 << 16
# At most this much in one pump(), so that a guest that prints without end cannot keep its caller from other work.
_PUMP_BYTES = 1 << 18
_LINE_BYTES = 4096
# Lines that wait for a pump() whose caller may never come.
_NEW_LINES = 10_000


class Console:
    """The host's end of the guest's console.

    :param sock: the connected socket; the console owns it from now on.
    :param keep_lines: how many of the last lines :meth:`tail` remembers.
    """

    def __init__(self, sock: socket.socket, keep_lines: int = 200) -> None:
        self._fd = sock.detach()
        self._spawn = fdspawn(self._fd, timeout=None, maxread=1 << 16)
        # What pexpect reads inside expect() passes through here too.
        self._spawn.logfile_read = self
        self._lines: deque[str] = deque(maxlen=keep_lines)
        self._new: deque[str] = deque(maxlen=_NEW_LINES)
        self._partial = b""
        #: Gets the console's bytes as they come, raw, for a live view.
        self.tap: Callable[[bytes], object] | None = None
        #: Whether the guest's end is closed (QEMU has ended).
        self.eof = False
        #: Whether the kernel has said that it panicked.
        self.panicked = False

    def fileno(self) -> int:
        """For ``select``: readable when :meth:`pump` has something to do. At the end of file it stays readable."""
        return self._fd

    def pump(self) -> list[str]:
        """Read what is there, without waiting, and return the lines completed since the last call."""
        self.receive()
        new = list(self._new)
        self._new.clear()
        return new

    def receive(self) -> None:
        """Read what is there, without waiting; the lines stay for the next :meth:`pump`."""
        left = _PUMP_BYTES
        while left > 0 and not self.eof:
            try:
                data = self._spawn.read_nonblocking(1 << 16, timeout=0)
            except pexpect.TIMEOUT:
                break
            except (pexpect.EOF, ConnectionResetError):
                self._end()
                break
            left -= len(data)
            self._spawn.buffer = (self._spawn.buffer + data)[-_EXPECT_BYTES:]

    def tail(self, count: int = 20) -> list[str]:
        """The last lines, oldest first, including one that is not complete yet.

        After a panic there are more: they begin no later than the line that says why. How many registers and callers
        the kernel prints below it differs from one kernel, and from one stack, to the next.
        """
        lines = [*self._lines, *([_text(self._partial)] if self._partial else [])]
        panic = next((index for index, line in enumerate(lines) if PANIC in line), len(lines))
        return lines[max(0, min(len(lines) - count, panic)) :]

    def expect(self, pattern: str, deadline: Deadline) -> re.Match[bytes]:
        """Wait until the console has said something that matches, and return the match.

        Everything up to the end of the match is then behind us: the next call looks at what comes later. The lines
        read here are still returned by the next :meth:`pump`.

        :param pattern: regular expression, matched against bytes (UTF-8) with ``re.DOTALL``.
        :raise ConsoleTimeout: at the deadline.
        :raise GuestPanicError: when the kernel panics first.
        :raise GuestLostError: when QEMU ends first.
        """
        self.receive()
        wanted = [re.compile(pattern.encode(), re.DOTALL), re.compile(PANIC.encode()), pexpect.EOF, pexpect.TIMEOUT]
        try:
            which = self._spawn.expect(wanted, timeout=deadline.timeout_sec())
        except ConnectionResetError:
            which = 2
        if which == 0:
            match: re.Match[bytes] = self._spawn.match
            return match
        if which == 1:
            raise GuestPanicError(self.tail())
        if which == 2:
            self._end()
            raise GuestLostError(f"the guest ended while {pattern!r} was expected on its console", None, self.tail())
        raise ConsoleTimeout(pattern, deadline.seconds, self.tail())

    def send(self, text: str | bytes) -> None:
        """Type on the console. No newline is added. To a guest that has ended it is typed in vain."""
        data = text.encode() if isinstance(text, str) else text
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the end of file will tell
            while data:
                data = data[os.write(self._fd, data) :]

    def close(self) -> None:
        """Close our end. May be called twice; :meth:`tail` still works."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            # pexpect would close the number again when it is collected.
            self._spawn.child_fd = -1
            self._spawn.closed = True
            self.eof = True

    # The two methods of a log file, for pexpect.

    def write(self, data: bytes) -> None:
        """Take in bytes of the console (called by pexpect for everything that it reads)."""
        if self.tap is not None:
            self.tap(data)
        *complete, partial = (self._partial + data).split(b"\n")
        # A guest that never ends its line must not fill the host's memory.
        while len(partial) > _LINE_BYTES:
            complete.append(partial[:_LINE_BYTES])
            partial = partial[_LINE_BYTES:]
        self._partial = partial
        for raw in complete:
            self._add(_text(raw))

    def flush(self) -> None:
        """Nothing to do (called by pexpect)."""

    def _add(self, line: str) -> None:
        self._lines.append(line)
        self._new.append(line)
        self.panicked = self.panicked or PANIC in line

    def _end(self) -> None:
        self.eof = True
        if self._partial:
            self._add(_text(self._partial))
            self._partial = b""


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\r").decode(errors="replace")
