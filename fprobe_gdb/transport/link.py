"""Bytes to and from the outside world: with :mod:`.process` the only file here that touches file descriptors.

Knows nothing of packets or records. Reading goes on while writing waits for room, so that a peer which must write
before it can read on (QEMU's gdbstub answers each pipelined packet at once) cannot deadlock us.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Sequence

from emu.deadline import Deadline
from fprobe_gdb.errors import ConnectionClosed

__all__ = ["Link", "SocketLink"]

_READ_BYTES = 1 << 16
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL


class Link:
    """A two-way stream over file descriptors, with an unbounded queue of bytes to write.

    :param read_fd: where the peer's bytes come from; made non-blocking.
    :param write_fd: where ours go; may be the same.
    :param peer: who is at the other end, for error messages.
    """

    def __init__(self, read_fd: int, write_fd: int, peer: str) -> None:
        self.peer = peer
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._outgoing = bytearray()
        self._closed = False
        for fd in {read_fd, write_fd}:
            os.set_blocking(fd, False)

    def send(self, data: bytes) -> None:
        """Queue bytes and write as many as go without waiting.

        :raise ConnectionClosed: when the peer is gone.
        """
        self._outgoing += data
        self._write_some()

    def receive(self, deadline: Deadline, wake: Sequence[int] = ()) -> bytes | None:
        """Wait for bytes from the peer, writing queued ones meanwhile.

        :param wake: file descriptors that end the wait when they become readable.
        :return: at least one byte; ``b""`` when the time is up; None when only a ``wake`` descriptor is readable.
        :raise ConnectionClosed: when the peer is gone and all that it sent has been read.
        """
        if self._closed:
            raise ConnectionClosed(f"the connection to {self.peer} is closed")
        while True:
            ready = self._poll(deadline, wake)
            if self._write_fd in ready and self._outgoing:
                self._write_some()
            if self._read_fd in ready and (data := self._read_some()):
                return data
            if any(fd in ready for fd in wake):
                return None
            if deadline.expired:
                return b""

    def fileno(self) -> int:
        """For ``select``: readable when :meth:`receive` would not wait."""
        return self._read_fd

    def close(self) -> None:
        """Close the descriptors. May be called twice."""
        if not self._closed:
            self._closed = True
            self._close_fds()

    def _close_fds(self) -> None:
        for fd in {self._read_fd, self._write_fd}:
            os.close(fd)

    def _poll(self, deadline: Deadline, wake: Sequence[int]) -> set[int]:
        poll = select.poll()
        poll.register(self._read_fd, select.POLLIN)
        if self._outgoing:
            both = self._write_fd == self._read_fd
            poll.register(self._write_fd, select.POLLOUT | (select.POLLIN if both else 0))
        for fd in wake:
            poll.register(fd, select.POLLIN)
        timeout_sec = deadline.timeout_sec()
        # Rounded up, so that a wait never ends just before its deadline and spins.
        timeout_ms = None if timeout_sec is None else min(int(timeout_sec * 1000) + 1, 1 << 30)
        return {fd for fd, _events in poll.poll(timeout_ms if not deadline.expired else 0)}

    def _read_some(self) -> bytes:
        try:
            data = os.read(self._read_fd, _READ_BYTES)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise ConnectionClosed(f"the connection to {self.peer} broke: {error.strerror}") from error
        if not data:
            raise ConnectionClosed(f"{self.peer} closed the connection")
        return data

    def _write_some(self) -> None:
        if self._closed:
            raise ConnectionClosed(f"the connection to {self.peer} is closed")
        while self._outgoing:
            try:
                written = os.write(self._write_fd, self._outgoing)
            except BlockingIOError:
                return
            except OSError as error:
                raise ConnectionClosed(f"the connection to {self.peer} broke: {error.strerror}") from error
            del self._outgoing[:written]


class SocketLink(Link):
    """A connected stream socket, which it owns from now on."""

    def __init__(self, sock: socket.socket, peer: str) -> None:
        super().__init__(sock.fileno(), sock.fileno(), peer)
        self._sock = sock

    def _close_fds(self) -> None:
        self._sock.close()
