"""Between a gdb and QEMU's gdbstub, so that a gdb's guest can run detached too (:mod:`.detached_run`).

gdb takes it for the stub: it listens at a unix socket, acknowledges gdb's packets, and hands each to an
:class:`~fprobe_gdb.transport.rsp_session.RspSession`, whose replies and stop reports go back. It knows of packets only
which of them resume the guest. Runs in a thread, which ends with either connection.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from pathlib import Path

from emu.deadline import Deadline
from fprobe_gdb.errors import ProtocolError, TransportError
from fprobe_gdb.transport.detached_run import DetachedRun
from fprobe_gdb.transport.link import SocketLink
from fprobe_gdb.transport.rsp import INTERRUPT, PacketParser, frame
from fprobe_gdb.transport.rsp_session import Request, RspSession
from fprobe_gdb.transport.stop_events import StopEvents

__all__ = ["GdbRelay"]

_log = logging.getLogger(__name__)

_ACK = b"+"
# Packets whose only answer is a stop report; and those that a stop report may answer.
_RESUMING = (b"vCont;", b"c", b"C", b"s", b"S", b"bc", b"bs")
_ASKING = (b"?", b"vAttach;", b"vRun;")
_JOIN_SEC = 10.0


class GdbRelay:
    """Serves one gdb.

    :param sock: a connected socket to QEMU's gdbstub, owned from now on.
    :param path: where to listen; the directory should be private. The name is the caller's to remove.
    :param monitor: as for :class:`~fprobe_gdb.target.rsp.RspTarget`; owned from now on.
    :param answer_sec: seconds within which the stub of a stopped guest must answer.
    :raise TransportError: when it cannot listen there.
    """

    def __init__(
        self, sock: socket.socket, path: Path, *, monitor: socket.socket | None = None, answer_sec: float = 30.0
    ) -> None:
        self.path = path
        self._stub = sock
        detached = DetachedRun(StopEvents(monitor, answer_sec)) if monitor is not None else None
        self._session = RspSession(SocketLink(sock, "QEMU's gdbstub"), answer_sec, detached)
        self._parser = PacketParser()
        self._running = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(os.fspath(path))
            self._listener.listen(1)
        except OSError as error:
            self._listener.close()
            self._session.close()
            raise TransportError(f"cannot listen at {path}: {error.strerror or error}") from error
        self._thread = threading.Thread(target=self._run, name="gdb relay", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End both connections. May be called twice."""
        for sock in (self._listener, self._stub):
            # A socket that was shut down wakes its thread; one that it has closed meanwhile is no error.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(_JOIN_SEC)

    def _run(self) -> None:
        try:
            with self._listener:
                gdb, _address = self._listener.accept()
            link = SocketLink(gdb, "gdb")
            try:
                self._serve(link)
            finally:
                link.close()
        except (TransportError, ProtocolError, OSError) as error:
            _log.debug("the relay ends: %s", error)
        finally:
            self._session.close()

    def _serve(self, gdb: SocketLink) -> None:
        while True:
            if self._running:
                report = self._session.next_report(Deadline.never(), [gdb.fileno()])
                if report is not None:
                    self._running = False
                    self._tell(gdb, report)
                    continue
            self._take(gdb, gdb.receive(Deadline.never()) or b"")

    def _take(self, gdb: SocketLink, data: bytes) -> None:
        if INTERRUPT in data:
            # Not data: gdb escapes such a byte in a packet (only X has any, and QEMU's stub has no X).
            data = data.replace(INTERRUPT, b"")
            if self._running:
                self._session.interrupt()
        self._parser.feed(data)
        while (packet := self._parser.next_packet()) is not None:
            gdb.send(_ACK)
            if self._running:
                raise ProtocolError("gdb sent a packet while the guest runs", packet)
            self._handle(gdb, packet)

    def _handle(self, gdb: SocketLink, packet: bytes) -> None:
        if packet.startswith(_RESUMING):
            # QEMU up to 8.0 reports, unasked, that a guest stops when somebody connects.
            self._session.reports.clear()
            self._session.resume(packet)
            self._running = True
            return
        request = Request(packet, stop_is_reply=packet.startswith(_ASKING))
        try:
            self._session.exchange([request])
        except (TransportError, ProtocolError):
            # What the stub says last may be why it left, and gdb should hear it.
            for report in self._session.reports:
                self._tell(gdb, report)
            raise
        if request.output:
            self._tell(gdb, b"O" + request.output)
        self._tell(gdb, request.reply or b"")

    def _tell(self, gdb: SocketLink, packet: bytes) -> None:
        gdb.send(frame(packet))
