"""GDB/MI without I/O: commands get tokens, gdb's lines become results and asynchronous records.

pygdbmi's parser reads the records; what it leaves out is here: every command carries a token of ours, and a result is
matched by it, so nobody ever waits "until gdb seems quiet". Grammar: GDB manual, node "GDB/MI Output Syntax".
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import Any

from pygdbmi import gdbmiparser

from fprobe_gdb.errors import ProtocolError

__all__ = ["MiConversation", "MiEvent", "MiResult", "c_string"]

#: Longest line that we accept; the longest we ask for is a memory read of 128 KiB of hexadecimal.
_MAX_LINE_BYTES = 1 << 22

_RESULT = re.compile(rb"(\d*)\^(\w+)")
_REGISTER = re.compile(rb'\{number="(\d+)",value="(0x[0-9a-f]+)"\}')
_MEMORY = re.compile(rb'begin="(0x[0-9a-f]+)",[^}]*contents="([0-9a-f]*)"')
# Asynchronous records that somebody needs. The others (breakpoint-modified, one a hit) are not even parsed.
_EVENTS = (b"*stopped", b"=thread-group-exited")


@dataclass(slots=True)
class MiResult:
    """The answer to one command."""

    command: str
    #: None until gdb answered; then ``"done"``, ``"running"``, ``"connected"``, ``"error"`` or ``"exit"``.
    status: str | None = None
    #: The record as it came.
    line: bytes = b""
    #: Stream records since the answer before: what gdb and the target printed, what gdb complained about.
    streams: tuple[bytes, ...] = ()

    @property
    def payload(self) -> dict[str, Any]:
        """The record's results, by pygdbmi. Parsed when asked for, since that takes longer than gdb's own work."""
        return _parse(self.line)["payload"] or {} if self.line else {}

    @property
    def output(self) -> str:
        """What gdb and the target printed since the answer before."""
        return _text(self.streams, b"~@")

    @property
    def log(self) -> str:
        """What gdb complained about since the answer before."""
        return _text(self.streams, b"&")

    @property
    def register_values(self) -> dict[int, int]:
        """The results of ``-data-list-register-values x``, read the fast way: pygdbmi takes 0.8 ms for 23 registers."""
        return {int(number): int(value, 16) for number, value in _REGISTER.findall(self.line)}

    @property
    def memory(self) -> list[tuple[int, bytes]]:
        """The result of ``-data-read-memory-bytes``, address and bytes of each block, read the fast way too."""
        return [(int(begin, 16), bytes.fromhex(contents.decode())) for begin, contents in _MEMORY.findall(self.line)]

    @property
    def error(self) -> str | None:
        """gdb's message where the command failed."""
        return str(self.payload.get("msg", "no reason given")) if self.status == "error" else None


@dataclass(frozen=True, slots=True)
class MiEvent:
    """An asynchronous record: ``stopped``, ``thread-group-exited``, or ``error``.

    An ``error`` is what gdb throws while nobody waits for an answer. It comes as a result record, with the token of the
    last command (which has its answer already) or none (gdb 13.1).
    """

    name: str
    line: bytes

    @property
    def payload(self) -> dict[str, Any]:
        """The record's results, by pygdbmi."""
        return _parse(self.line)["payload"] or {}

    def get(self, key: str) -> str | None:
        """One result whose value is a plain string; the fast way, since one such record comes with every hit."""
        match = re.search(rb'[,^]%b="([^"\\]*)"' % key.encode(), self.line)
        return match[1].decode() if match else None


def c_string(text: str) -> str:
    """Text as an MI string argument.

    :raise ProtocolError: when it holds control characters, which MI has no way to carry.
    """
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise ProtocolError("gdb commands are one line of text without control characters", text)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class MiConversation:
    """Both directions of one gdb's MI stream."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._next_token = 1
        self._waiting: dict[int, MiResult] = {}
        self._streams: list[bytes] = []
        #: Asynchronous records that came, oldest first.
        self.events: deque[MiEvent] = deque()

    def command(self, text: str) -> tuple[MiResult, bytes]:
        """Give a command a token: where its answer will be, and the bytes to send."""
        result = MiResult(text)
        token = self._next_token
        self._next_token += 1
        self._waiting[token] = result
        return result, f"{token}{text}\n".encode()

    def feed(self, data: bytes) -> None:
        """Take what gdb printed, in pieces of any size.

        :raise ProtocolError: when it is not MI.
        """
        *lines, rest = (bytes(self._line) + data).split(b"\n")
        self._line[:] = rest
        if len(self._line) > _MAX_LINE_BYTES:
            raise ProtocolError(f"gdb printed a line of more than {_MAX_LINE_BYTES} bytes", rest[:64])
        for line in lines:
            self._take(line.rstrip(b"\r"))

    def _take(self, line: bytes) -> None:
        if not line or line.startswith(b"(gdb)"):
            return
        match line[:1]:
            case b"~" | b"@" | b"&":
                self._streams.append(line)
            case b"*" | b"=":
                name = next((name for name in _EVENTS if line.startswith(name)), None)
                if name is not None:
                    self.events.append(MiEvent(name[1:].decode(), line))
            case _:
                self._take_result(line)

    def _take_result(self, line: bytes) -> None:
        match = _RESULT.match(line)
        result = self._waiting.pop(int(match[1]), None) if match and match[1] else None
        if match is not None and result is None and match[2] == b"error":
            self.events.append(MiEvent("error", line))
            return
        if match is None or result is None:
            raise ProtocolError("gdb printed something that is no MI record of ours", line)
        result.status = match[2].decode()
        result.line = line
        result.streams = tuple(self._streams)
        self._streams.clear()


def _text(streams: tuple[bytes, ...], kinds: bytes) -> str:
    return "".join(_parse(line)["payload"] or "" for line in streams if line[0] in kinds)


def _parse(line: bytes) -> dict[str, Any]:
    try:
        return dict(gdbmiparser.parse_response(line.decode("utf-8", "replace")))
    except Exception as error:  # pygdbmi asserts and raises ValueError, IndexError ... on damaged records
        raise ProtocolError("gdb printed a damaged MI record", line) from error
