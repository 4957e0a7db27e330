"""Requests and their replies over a remote protocol connection, pipelined.

The stub answers packets in the order in which it got them, one reply each. So every request waits in one queue, and a
reply always belongs to the oldest. That stays true when an exchange is cut short (Ctrl-C, a deadline): the reply is
still matched with its own request when it comes, and nobody else gets it.

Resuming packets (``vCont``) are no requests here: their only answer is the stop report. Where stops can be learnt from
elsewhere, the guest runs detached instead (:mod:`~fprobe_gdb.transport.detached_run`), and the report is made here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from emu.deadline import Deadline
from fprobe_gdb.errors import ConnectionClosed, ProtocolError, TransportTimeout
from fprobe_gdb.transport.detached_run import ATTACH, DETACH, DetachedRun, parse_ip
from fprobe_gdb.transport.rsp import INTERRUPT, PacketParser, frame

__all__ = ["Request", "RspSession", "is_exit_report", "is_stop_report"]

# The number of rip in the stub's description of x86_64 (gdb-xml/i386-64bit.xml).
_READ_IP = b"p10"
#: vCPUs that QEMU can have; a longer thread list is a broken stub.
_MAX_VCPUS = 4096
_HEX = frozenset(b"0123456789abcdefABCDEF")


class ByteLink(Protocol):
    """What carries the bytes; see :class:`fprobe_gdb.transport.link.Link`."""

    def send(self, data: bytes) -> None: ...
    def receive(self, deadline: Deadline, wake: Sequence[int] = ()) -> bytes | None: ...
    def close(self) -> None: ...


def is_stop_report(packet: bytes) -> bool:
    """Whether a packet says that the guest stopped (``T05...``, ``S05``); no other reply looks like that."""
    return packet[:1] in (b"T", b"S") and len(packet) >= 3 and packet[1] in _HEX and packet[2] in _HEX


def is_exit_report(packet: bytes) -> bool:
    """Whether a packet says that the guest is gone (``W00``, ``X09``)."""
    return packet[:1] in (b"W", b"X") and len(packet) >= 3 and packet[1] in _HEX and packet[2] in _HEX


class Request:
    """A packet that has one reply (``qRcmd``: output packets first, collected in :attr:`output`)."""

    __slots__ = ("output", "payload", "reply", "stop_is_reply", "wire")

    def __init__(self, payload: bytes, *, stop_is_reply: bool = False, behind: bytes = b"") -> None:
        self.payload = payload
        #: What is sent: the packet, and raw bytes behind it.
        self.wire = frame(payload) + behind
        #: Whether a stop report is a proper answer (``?``).
        self.stop_is_reply = stop_is_reply
        #: None until it came.
        self.reply: bytes | None = None
        self.output = b""

    def __repr__(self) -> str:
        return self.payload[:40].decode("ascii", "replace")


class RspSession:
    """One connection to a gdbstub.

    :param link: carries the bytes.
    :param answer_sec: seconds within which the stub of a stopped guest must answer.
    :param detached: how to let the guest run without being attached; None where stops cannot be learnt otherwise.
    """

    def __init__(self, link: ByteLink, answer_sec: float, detached: DetachedRun | None = None) -> None:
        self._link = link
        self._detached = detached
        # Of a detached run: what must be answered with OK; the thread ids, once known.
        self._preparation: list[Request] = []
        self._threads: list[bytes] = []
        self._parser = PacketParser()
        self._answer_sec = answer_sec
        self._queued: list[Request] = []
        self._unanswered: deque[Request] = deque()
        #: Stop and exit reports that came, oldest first.
        self.reports: deque[bytes] = deque()

    def queue(self, request: Request) -> Request:
        """Send it with the next exchange or resume."""
        if self._detached is not None:
            self._detached.note(request.payload)
        self._queued.append(request)
        return request

    def exchange(self, requests: Sequence[Request]) -> list[bytes]:
        """Send what is queued, then ``requests``, in one write, and wait for all replies.

        :return: the replies to ``requests``, in order.
        :raise TransportTimeout: when the stub does not answer.
        :raise ConnectionClosed: when it is gone.
        """
        for request in requests:
            self.queue(request)
        self._send()
        return self.collect(requests)

    def collect(self, requests: Sequence[Request] = ()) -> list[bytes]:
        """Wait for every reply that is due.

        :return: the replies to ``requests``, all of which must have been sent.
        """
        deadline = Deadline(self._answer_sec)
        while self._unanswered:
            self._pump(deadline, repr(self._unanswered[0]))
        return [request.reply or b"" for request in requests]

    def resume(self, payload: bytes) -> None:
        """Send what is queued and a resuming packet in one write. The replies are due at :meth:`collect`."""
        breakpoints = self._detached.begin(payload) if self._detached is not None else None
        if breakpoints is None:
            self._send(frame(payload))
            return
        if not self._threads:
            self._threads = self.threads()
        self._preparation = [Request(DETACH, behind=b"$"), *map(Request, breakpoints)]
        self._queued += self._preparation
        self._send(frame(b"c"))

    def interrupt(self) -> None:
        """Send the interrupt byte, the only one that a running guest may get."""
        self._link.send(INTERRUPT)

    def next_report(self, deadline: Deadline, wake: Sequence[int] = ()) -> bytes | None:
        """Wait for a stop or exit report.

        :return: the report; ``b""`` at the deadline; None when a ``wake`` descriptor became readable.
        """
        while not self.reports:
            detached = self._detached if self._detached is not None and self._detached.running else None
            if detached is not None and detached.stopped:
                self._attach(detached)
                continue
            monitor = [] if detached is None else detached.filenos()
            data = self._link.receive(deadline, (*monitor, *wake))
            if data:
                self._take(data)
            elif data is not None or detached is None or not detached.events.pump():
                return data
        return self.reports.popleft()

    def threads(self) -> list[bytes]:
        """The ids of the vCPUs, as the stub writes them. Some exchanges."""
        threads: list[bytes] = []
        query = b"qfThreadInfo"
        while len(threads) <= _MAX_VCPUS:
            (reply,) = self.exchange([Request(query)])
            if reply == b"l" and threads:
                return threads
            if reply[:1] != b"m":
                break
            threads += reply[1:].split(b",")
            query = b"qsThreadInfo"
        raise ProtocolError("the gdbstub does not list its vCPUs", reply)

    def close(self) -> None:
        """Close the connection without a word. May be called twice."""
        self._link.close()
        if self._detached is not None:
            self._detached.close()

    # Behind a detached run: be as if the stub had reported the stop, vCPU selected and all.
    def _attach(self, detached: DetachedRun) -> None:
        selects = [Request(b"Hg" + thread) for thread in self._threads]
        looks = [Request(_READ_IP) for _ in self._threads]
        pairs = zip(selects, looks, strict=True)
        self.exchange([Request(ATTACH, stop_is_reply=True), *(request for pair in pairs for request in pair)])
        for request in (*self._preparation, *selects):
            if request.reply != b"OK":
                raise ProtocolError(f"the gdbstub refused {request}", request.reply or b"")
        signal, index = detached.end([parse_ip(request.reply or b"") for request in looks])
        thread = self._threads[index]
        if thread != self._threads[-1]:
            self.exchange([Request(b"Hg" + thread)])
        self.reports.append(b"T%02xthread:%b;" % (signal, thread))

    def _send(self, tail: bytes = b"") -> None:
        self._unanswered.extend(self._queued)
        wire = b"".join([*(request.wire for request in self._queued), tail])
        self._queued.clear()
        self._link.send(wire)

    def _pump(self, deadline: Deadline, waiting_for: str) -> None:
        data = self._link.receive(deadline)
        if not data:
            raise TransportTimeout(waiting_for, deadline.seconds)
        self._take(data)
        if any(map(is_exit_report, self.reports)):
            raise ConnectionClosed("the gdbstub says goodbye")

    def _take(self, data: bytes) -> None:
        self._parser.feed(data)
        while (packet := self._parser.next_packet()) is not None:
            self._dispatch(packet)

    def _dispatch(self, packet: bytes) -> None:
        oldest = self._unanswered[0] if self._unanswered else None
        if is_exit_report(packet) or (is_stop_report(packet) and not (oldest and oldest.stop_is_reply)):
            self.reports.append(packet)
        elif oldest is None:
            raise ProtocolError("the gdbstub sent a packet that answers nothing", packet)
        elif packet[:1] == b"O" and packet != b"OK" and oldest.payload.startswith(b"qRcmd,"):
            oldest.output += packet[1:]
        else:
            oldest.reply = packet
            self._unanswered.popleft()
