"""QEMU's events of stops, on a QMP connection (QEMU's monitor in JSON) that serves for nothing else.

A monitor sends events only to who has negotiated, and from then on each stop and each resume is one, so nothing
gathers in a connection that is not used. Events come in the order in which they happened.
"""

from __future__ import annotations

import json
import socket
from collections import deque
from typing import Any

from emu.deadline import Deadline
from fprobe_gdb.errors import ConnectionClosed, ProtocolError, TransportTimeout
from fprobe_gdb.transport.link import SocketLink

__all__ = ["StopEvents"]

_MAX_LINE_BYTES = 1 << 20
_NO_STOP = frozenset(("RESUME", "RTC_CHANGE"))


class StopEvents:
    """Counts stops.

    :param sock: a connected QMP socket, owned from now on; nothing is sent or read before it is needed.
    :param answer_sec: seconds within which the monitor must answer.
    """

    def __init__(self, sock: socket.socket, answer_sec: float = 30.0) -> None:
        self._link = SocketLink(sock, "QEMU's monitor")
        self._answer_sec = answer_sec
        self._line = bytearray()
        self._version: tuple[int, int] | None = None
        self._negotiated = False
        self._answers: deque[dict[str, Any]] = deque()
        self._commands = 0
        #: Stops that were told since :meth:`status`.
        self.stops = 0
        #: Whether something else was told since then (a shutdown, a panic, an I/O error): then ask for the status.
        self.others = False
        #: Whether QEMU has closed the connection.
        self.closed = False

    def fileno(self) -> int:
        """For ``select``: what makes :meth:`pump` worth calling."""
        return self._link.fileno()

    def version(self) -> tuple[int, int]:
        """QEMU's version, from its greeting: major and minor number."""
        if self._version is None:
            try:
                qemu = self._await(None, "the greeting")["QMP"]["version"]["qemu"]
                self._version = (int(qemu["major"]), int(qemu["minor"]))
            except (KeyError, TypeError, ValueError) as error:
                raise ProtocolError(f"QEMU's monitor does not greet as QMP does ({error!r})") from error
        return self._version

    def status(self) -> str:
        """What QMP's ``query-status`` says. Events that were told before are forgotten."""
        self.version()
        if not self._negotiated:
            self._execute("qmp_capabilities")
            self._negotiated = True
        answer = self._execute("query-status")
        self.stops, self.others = 0, False
        try:
            return str(answer["status"])
        except (KeyError, TypeError) as error:
            raise ProtocolError("QEMU's monitor does not tell its status", str(answer)) from error

    def pump(self) -> bool:
        """Take in what has come, without waiting.

        :return: whether anything has.
        """
        try:
            data = self._link.receive(Deadline(0))
        except ConnectionClosed:
            self.closed = True
            return True
        self._feed(data or b"")
        return bool(data)

    def close(self) -> None:
        """Close the connection. May be called twice."""
        self._link.close()

    def _execute(self, command: str) -> Any:
        self._commands += 1
        self._link.send(b'{"execute": "%b", "id": %d}\n' % (command.encode(), self._commands))
        answer = self._await(self._commands, command)
        if "return" not in answer:
            raise ProtocolError(f"QEMU's monitor refuses {command}", str(answer))
        return answer["return"]

    # number: of the command. The answer to one whose wait was cut short (Ctrl-C) may come first, and is dropped.
    def _await(self, number: int | None, what: str) -> dict[str, Any]:
        deadline = Deadline(self._answer_sec)
        while True:
            while self._answers:
                answer = self._answers.popleft()
                if answer.get("id") == number:
                    return answer
            data = self._link.receive(deadline)
            if not data:
                raise TransportTimeout(f"{what} of QEMU's monitor", self._answer_sec)
            self._feed(data)

    def _feed(self, data: bytes) -> None:
        *lines, rest = (bytes(self._line) + data).split(b"\n")
        if len(rest) > _MAX_LINE_BYTES:
            raise ProtocolError(f"QEMU's monitor sent a line of more than {_MAX_LINE_BYTES} bytes", rest[:64])
        self._line[:] = rest
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line)
            event = message.get("event")
        except (ValueError, AttributeError) as error:
            raise ProtocolError("QEMU's monitor sent something that is no message", line) from error
        if event is None:
            self._answers.append(message)
        elif event == "STOP":
            self.stops += 1
        elif event not in _NO_STOP:
            self.others = True
