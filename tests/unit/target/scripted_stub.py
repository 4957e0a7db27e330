"""A gdbstub of a few lines behind a socketpair, in a thread: answers by table, and can misbehave on demand."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from fprobe_gdb.registers import REGISTERS
from fprobe_gdb.target.rsp_layout import GDB_NAMES
from fprobe_gdb.transport.rsp import PacketParser, frame

__all__ = ["TARGET_XML", "ScriptedStub"]

TARGET_XML = '<?xml version="1.0"?><target><xi:include href="core.xml"/></target>'
CORE_XML = "<feature>" + "".join(f'<reg name="{GDB_NAMES.get(n, n)}" bitsize="64"/>' for n in REGISTERS) + "</feature>"

Answer = bytes | Callable[[bytes], bytes]


class ScriptedStub:
    """Stopped at first; ``answers`` maps packets (or their beginnings) to replies or, in ``raw``, to wire bytes."""

    def __init__(self) -> None:
        self.client, self._sock = socket.socketpair()
        self.seen: list[bytes] = []
        #: What is answered to the interrupt byte: wire bytes.
        self.on_interrupt: bytes = b""
        self.answers: dict[bytes, Answer] = {
            b"qSupported": b"PacketSize=1000",
            b"qXfer:features:read:target.xml": b"l" + TARGET_XML.encode(),
            b"qXfer:features:read:core.xml": b"l" + CORE_XML.encode(),
            b"qfThreadInfo": b"m01",
            b"qsThreadInfo": b"l",
            b"?": b"T05thread:01;",
            b"g": bytes(8 * len(REGISTERS)).hex().encode(),
            b"H": b"OK",
            b"P": b"OK",
            b"Z": b"OK",
            b"z": b"OK",
            b"qC": b"QC01",
            b"m": b"00",
        }
        #: Beginnings of packets to wire bytes, unframed.
        self.raw: dict[bytes, bytes] = {}
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def say(self, wire: bytes) -> None:
        """Send bytes unasked."""
        self._sock.sendall(wire)

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._sock.close()
        self.client.close()

    def _serve(self) -> None:
        # The target may hang up at any moment.
        with contextlib.suppress(OSError):
            self._serve_until_closed()

    def _serve_until_closed(self) -> None:
        parser = PacketParser()
        while data := self._sock.recv(65536):
            self.seen += [b"\x03"] * data.count(b"\x03")
            if b"\x03" in data and self.on_interrupt:
                self._sock.sendall(self.on_interrupt)
            # As in QEMU, a byte that stops the guest (here a lone "$") is no part of the packet behind it.
            parser.feed(data.replace(b"\x03", b"").replace(b"$$", b"$"))
            while (packet := parser.next_packet()) is not None:
                self.seen.append(packet)
                self._answer(packet)

    def _answer(self, packet: bytes) -> None:
        for start, wire in self.raw.items():
            if packet.startswith(start):
                self._sock.sendall(wire)
                return
        if packet.startswith(b"vCont") or packet == b"c":
            return
        for start, answer in self.answers.items():
            if packet.startswith(start):
                self._sock.sendall(frame(answer(packet) if callable(answer) else answer))
                return
        self._sock.sendall(frame(b""))
