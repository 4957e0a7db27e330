"""The guest seen through QEMU's gdbstub, spoken to by ourselves.

Fast: register writes and breakpoints are queued and leave in one write with the next exchange, or with the resume,
so that a hit costs one stop and two round trips. Facts that shape it (QEMU 5.0-10.2):

* While the guest runs nothing but the interrupt byte may be sent: any other byte stops it.
* ``p``/``P`` answer nothing until a description file has been read (up to 8.1).
* ``?`` removes all breakpoints (since 7.2: of one vCPU). It is sent once, to start clean; whoever comes behind an
  unknown client takes over first (:mod:`~fprobe_gdb.transport.let_go`).
* A stop that crosses with our interrupt byte is reported once: the stub drops the byte of a stopped guest. Other
  stubs may report twice, so a second report is fetched and dropped before the guest is resumed.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Mapping, Sequence

from emu.deadline import Deadline
from fprobe_gdb.errors import (
    ConnectionClosed,
    MemoryFault,
    ProtocolError,
    TargetError,
    TargetLost,
    TransportTimeout,
    WaitTimeout,
)
from fprobe_gdb.target.base import BreakpointKind, Stop, StopKind, TargetState
from fprobe_gdb.target.connected import ConnectedTarget, check_range
from fprobe_gdb.target.rsp_layout import read_layout
from fprobe_gdb.target.rsp_replies import check_ok, check_planted, joined, packet_size
from fprobe_gdb.target.rsp_report import parse_report, parse_thread
from fprobe_gdb.transport.detached_run import DetachedRun
from fprobe_gdb.transport.link import SocketLink
from fprobe_gdb.transport.rsp_session import Request, RspSession
from fprobe_gdb.transport.stop_events import StopEvents

__all__ = ["RspTarget"]

_BREAKPOINT_TYPE = {BreakpointKind.SOFTWARE: 0, BreakpointKind.HARDWARE: 1}
#: How long a running guest may take to stop when we need it stopped ourselves, in seconds.
# Packets in flight at once: their replies have to fit into the socket's buffer while we still send.
_WRITE_BATCH = 512
_STOP_SEC = 10.0


class RspTarget(ConnectedTarget):
    """A guest behind a connected stream socket to QEMU's gdbstub. Connecting stops it.

    :param sock: a connected socket, which the target owns from now on (also when this fails).
    :param monitor: a connected socket to a QMP monitor of the same QEMU that nobody else uses, owned from now on. With
        it a hit costs the guest no new translation of its code (:mod:`~fprobe_gdb.transport.detached_run`).
    :param answer_sec: seconds within which the stub of a stopped guest must answer.
    :raise TargetLost: when nobody is at the other end.
    :raise ProtocolError: when whoever is there is no gdbstub of an x86_64 system emulator.
    """

    name = "rsp"

    def __init__(self, sock: socket.socket, *, monitor: socket.socket | None = None, answer_sec: float = 30.0) -> None:
        super().__init__("its gdbstub")
        detached = DetachedRun(StopEvents(monitor, answer_sec)) if monitor is not None else None
        self._session = RspSession(SocketLink(sock, "QEMU's gdbstub"), answer_sec, detached)
        # vCPU that Hg points to, where known; requests whose replies are still to check.
        self._selected: int | None = None
        self._unchecked: list[tuple[Request, Callable[[bytes], None]]] = []
        self._interrupted = False
        try:
            with self._lost_on_close():
                self._handshake()
        except BaseException:
            self.close()
            raise

    def write_registers(self, vcpu: int, values: Mapping[str, int]) -> None:
        """Set registers. Sent with the next exchange."""
        self._need_writable(vcpu, values)
        self._select_later(vcpu)
        for name, value in values.items():
            packet = self._layout.write_packet(name, value & 0xFFFFFFFF if name == "flags" else value)
            self._queue(packet, lambda reply, name=name: check_ok(reply, f"writing register {name}"))  # type: ignore[misc]
        self._registers.pop(vcpu, None)

    def read_many(self, requests: Sequence[tuple[int, int]], *, vcpu: int = 0) -> list[bytes | MemoryFault]:
        """Read several pieces in one pipelined exchange."""
        self._need_stopped("reading memory")
        reads = self._reads(requests)
        self._exchange_as_kernel(self._known(vcpu), _all(reads))
        return _joined_all(requests, reads)

    def write_memory(self, addr: int, data: bytes, *, vcpu: int = 0) -> None:
        """Write guest virtual memory. One pipelined exchange, whatever the size."""
        self._need_stopped("writing memory")
        check_range(addr, len(data))
        writes = [
            Request(b"M%x,%x:%b" % (addr + at, len(piece), piece.hex().encode()))
            for at in range(0, len(data), self._chunk_bytes)
            for piece in [data[at : at + self._chunk_bytes]]
        ]
        for reply in self._exchange_as_kernel(self._known(vcpu), writes):
            if reply.startswith(b"E"):
                raise MemoryFault(addr, len(data), "write")
            check_ok(reply, "writing memory")

    def write_many(self, requests: Sequence[tuple[int, bytes]], *, vcpu: int = 0) -> None:
        """Write several pieces, of at most half a packet each, in pipelined exchanges."""
        self._need_stopped("writing memory")
        for begin in range(0, len(requests), _WRITE_BATCH):
            batch = requests[begin : begin + _WRITE_BATCH]
            for addr, data in batch:
                check_range(addr, len(data))
            writes = [Request(b"M%x,%x:%b" % (addr, len(data), data.hex().encode())) for addr, data in batch]
            for (addr, data), reply in zip(batch, self._exchange_as_kernel(self._known(vcpu), writes), strict=True):
                if reply.startswith(b"E"):
                    raise MemoryFault(addr, len(data), "write")
                check_ok(reply, "writing memory")

    def read_physical(self, addr: int, size_bytes: int) -> bytes:
        """Read guest physical memory, device registers included. QEMU reads zeros where nothing answers."""
        self._need_stopped("reading physical memory")
        self._queue(b"Qqemu.PhyMemMode:1", lambda reply: check_ok(reply, "switching to physical memory"))
        reads = self._reads([(addr, size_bytes)])
        *_, virtual = self._exchange(*_all(reads), Request(b"Qqemu.PhyMemMode:0"))
        check_ok(virtual, "switching to virtual memory")
        (data,) = _joined_all([(addr, size_bytes)], reads)
        if isinstance(data, MemoryFault):
            raise data
        return data

    def flush_tlb(self, vcpu: int) -> None:
        """Let a vCPU forget what it knows of its page tables: QEMU's TCG does at each write of cr3. One exchange."""
        root = self.registers(vcpu)["cr3"]
        self._select_later(vcpu)
        self._queue(self._layout.write_packet("cr3", root), lambda reply: check_ok(reply, "writing register cr3"))

    def insert_breakpoint(self, addr: int, kind: BreakpointKind) -> None:
        """Plant a breakpoint. Sent with the next exchange; a refusal comes there."""
        self._need_stopped("planting a breakpoint")
        check_range(addr, 1)
        self._queue(b"Z%d,%x,1" % (_BREAKPOINT_TYPE[kind], addr), lambda reply: check_planted(reply, addr, kind))

    def remove_breakpoint(self, addr: int, kind: BreakpointKind) -> None:
        """Remove a breakpoint. Sent with the next exchange."""
        self._need_stopped("removing a breakpoint")
        check_range(addr, 1)
        self._queue(
            b"z%d,%x,1" % (_BREAKPOINT_TYPE[kind], addr),
            lambda reply: check_ok(reply, f"removing the breakpoint at {addr:#x}"),
        )

    def insert_watchpoint(self, addr: int, size_bytes: int) -> None:
        """Stop the guest behind each instruction that reads or writes data in a range of virtual addresses.

        Under TCG the range may have any size, mapped or not; KVM has what the CPU has, eight bytes. The stop comes as
        :attr:`.StopKind.BREAKPOINT`. Sent with the next exchange.

        :raise BreakpointRefused: when the stub cannot (with that exchange).
        """
        self._need_stopped("planting a watchpoint")
        check_range(addr, size_bytes)
        self._queue(_watch(b"Z", addr, size_bytes), lambda reply: check_planted(reply, addr, BreakpointKind.HARDWARE))

    def remove_watchpoint(self, addr: int, size_bytes: int) -> None:
        """Remove a watchpoint. Sent with the next exchange."""
        self._need_stopped("removing a watchpoint")
        packet = _watch(b"z", addr, size_bytes)
        self._queue(packet, lambda reply: check_ok(reply, f"removing the watchpoint at {addr:#x}"))

    def resume(self, *, hold: Collection[int] = ()) -> None:
        """Let the guest run. Leaves in one write with all that is queued."""
        self._need_stopped("resuming")
        running = [vcpu for vcpu in self._vcpus if vcpu not in hold] or [self._vcpus[0]]
        everyone = len(running) == len(self._vcpus)
        self._go(b"vCont;c" if everyone else b"vCont" + b"".join(b";c:%x" % (vcpu + 1) for vcpu in running))

    def step(self, vcpu: int, deadline: Deadline) -> None:
        """Run one instruction of one vCPU. QEMU masks interrupts and timers meanwhile.

        :raise WaitTimeout: when it did not finish (a halted vCPU); the guest is stopped.
        """
        self._need_stopped("stepping")
        self._go(b"vCont;s:%x" % (self._known(vcpu) + 1))
        try:
            self.wait(deadline)
        except WaitTimeout:
            self._stop_now()
            raise WaitTimeout(deadline.seconds, f"vCPU {vcpu} to finish one instruction; is it halted?") from None

    def wait(self, deadline: Deadline, wake: Sequence[int] = ()) -> Stop | None:
        """Wait until the guest stops.

        :raise BreakpointRefused: when a breakpoint that left with the resume was refused; the guest is stopped.
        """
        self._need(TargetState.RUNNING, "waiting for a stop")
        self._check_replies_of_running()
        with self._lost_on_close():
            report = self._session.next_report(deadline, wake)
            if report is None:
                return None
            if not report:
                raise WaitTimeout(deadline.seconds)
            self._state = TargetState.STOPPED
            stop = parse_report(report, vcpu=self._vcpus[0])
        # The stub points Hg at the vCPU that it reports, except (up to 8.1) when interrupted. So don't count on it.
        self._selected = stop.vcpu if stop.kind is StopKind.BREAKPOINT else None
        self._known(stop.vcpu)
        if self._interrupted and stop.kind is not StopKind.INTERRUPT:
            self._drop_second_report()
        self._interrupted = False
        return stop

    def interrupt(self) -> None:
        """Ask the running guest to stop. Asking again before it stopped does nothing."""
        self._need(TargetState.RUNNING, "interrupting")
        if not self._interrupted:
            self._interrupted = True
            with self._lost_on_close():
                self._session.interrupt()

    def monitor(self, command: str) -> str:
        """Run a command of QEMU's human monitor. One exchange. Must not resume the guest."""
        self._need_stopped("a monitor command")
        request = Request(b"qRcmd," + command.encode().hex().encode())
        (reply,) = self._exchange(request)
        self._registers.clear()
        check_ok(reply, f"the monitor command {command!r}")
        try:
            return bytes.fromhex(request.output.decode("ascii")).decode("utf-8", "replace")
        except ValueError:
            raise ProtocolError("the gdbstub sent strange monitor output", request.output) from None

    def detach(self) -> None:
        """Remove all breakpoints, let the guest run on, close the connection. A running guest is stopped for it."""
        if self._state is TargetState.RUNNING:
            self._stop_now()
        self._need_stopped("detaching")
        (reply,) = self._exchange(Request(b"D"))
        if reply.startswith(b"E"):
            # QEMU remembers from an earlier client (gdb) that processes are spoken of (QEMU 7.2 gdbstub.c,
            # handle_detach()), and wants to hear which.
            (reply,) = self._exchange(Request(b"D;1"))
        check_ok(reply, "detaching")
        self._state = TargetState.DETACHED
        self._session.close()

    def close(self) -> None:
        """Close the connection without a word to the guest. May be called twice."""
        self._session.close()
        if self._state is not TargetState.DETACHED:
            self._lose("the connection was closed")

    # Connecting.

    def _handshake(self) -> None:
        # A guest that runs (a socketpair given to QEMU before it started) would lose the first byte of a packet: the
        # stub takes it for an interrupt. A stopped one ignores this byte. The report that QEMU up to 8.0 sends for it
        # is dropped by _start_clean.
        self._session.interrupt()
        # A client that was killed may have left QEMU's stub with physical addresses in mind; others do not know this.
        features, _ = self._session.exchange([Request(b"qSupported:xmlRegisters=i386"), Request(b"Qqemu.PhyMemMode:0")])
        self._chunk_bytes = packet_size(features) // 2 - 32
        self._layout = read_layout(self._read_annex)
        self._vcpus = tuple(sorted(map(parse_thread, self._session.threads())))
        (reply,) = self._session.exchange([Request(b"?", stop_is_reply=True)])
        parse_report(reply)
        self._session.reports.clear()

    def _read_annex(self, annex: str) -> bytes:
        text = b""
        while True:
            packet = b"qXfer:features:read:%b:%x,%x" % (annex.encode(), len(text), self._chunk_bytes)
            (reply,) = self._session.exchange([Request(packet)])
            if reply[:1] not in (b"l", b"m") or len(text) > 1 << 20 or (reply == b"m"):
                raise ProtocolError(f"the gdbstub does not give its target description {annex}", reply)
            text += reply[1:]
            if reply[:1] == b"l":
                return text

    # The last thing that a stub says may be why it left.
    def _last_words(self, error: ConnectionClosed) -> str:
        for report in self._session.reports:
            try:
                parse_report(report)
            except TargetLost as last:
                return last.why
            except TargetError:
                continue
        return str(error)

    # Exchanges.

    def _queue(self, packet: bytes, check: Callable[[bytes], None]) -> None:
        self._unchecked.append((self._session.queue(Request(packet)), check))

    def _select_later(self, vcpu: int) -> None:
        if self._selected != vcpu:
            self._queue(b"Hg%x" % (vcpu + 1), lambda reply: check_ok(reply, f"selecting vCPU {vcpu}"))
            self._selected = vcpu

    def _exchange(self, *requests: Request) -> list[bytes]:
        with self._lost_on_close():
            replies = self._session.exchange(requests)
        if self._session.reports:
            self._take_stray_reports()
        self._check_replies()
        return replies

    def _check_replies(self) -> None:
        if self._unchecked:
            with self._lost_on_close():
                self._session.collect()
            unchecked, self._unchecked = self._unchecked, []
            for request, check in unchecked:
                check(request.reply or b"")

    # What left with the resume has been answered before the guest ran, so this does not wait for the guest.
    def _check_replies_of_running(self) -> None:
        try:
            self._check_replies()
        except (TargetLost, ProtocolError, TransportTimeout):
            raise
        except TargetError:
            self._stop_now()
            raise

    def _take_stray_reports(self) -> None:
        reports = list(self._session.reports)
        self._session.reports.clear()
        with self._lost_on_close():
            for report in reports:
                parse_report(report)
            raise ProtocolError("the gdbstub reports a stop of a stopped guest", reports[0])

    # After a stop that crossed with our interrupt byte: whatever the stub says to that byte comes before this answer.
    def _drop_second_report(self) -> None:
        with self._lost_on_close():
            self._session.exchange([Request(b"qC")])
            reports = list(self._session.reports)
            self._session.reports.clear()
            for report in reports:
                if parse_report(report).kind is not StopKind.INTERRUPT:
                    raise ProtocolError("the gdbstub reports a second stop of a stopped guest", report)

    def _go(self, packet: bytes) -> None:
        self._registers.clear()
        self._selected = None
        self._state = TargetState.RUNNING
        with self._lost_on_close():
            self._session.resume(packet)

    def _fetch_registers(self, vcpus: Sequence[int]) -> None:
        reads: dict[int, Request] = {}
        for vcpu in vcpus:
            if vcpu not in self._registers:
                self._select_later(vcpu)
                reads[vcpu] = self._session.queue(Request(b"g"))
        if not reads:
            return
        self._exchange()
        with self._lost_on_close():
            for vcpu, request in reads.items():
                self._registers[vcpu] = self._layout.parse_g(request.reply or b"")

    # Requests for each piece.
    def _reads(self, pieces: Sequence[tuple[int, int]]) -> list[list[Request]]:
        reads = []
        for addr, size_bytes in pieces:
            check_range(addr, size_bytes)
            begins = range(0, size_bytes, self._chunk_bytes)
            reads.append([Request(b"m%x,%x" % (addr + at, min(self._chunk_bytes, size_bytes - at))) for at in begins])
        return reads

    # An exchange about memory of a vCPU. Page tables that it lends for it are its own again behind it.
    def _exchange_as_kernel(self, vcpu: int, requests: Sequence[Request]) -> list[bytes]:
        roots = self._lent_root(vcpu)
        self._select_later(vcpu)
        if roots is None:
            return self._exchange(*requests)
        give_back, lend = (Request(self._layout.write_packet("cr3", root)) for root in roots)
        lent, *replies, given_back = self._exchange(lend, *requests, give_back)
        check_ok(lent, "writing register cr3")
        check_ok(given_back, "writing register cr3")
        return replies


def _all(reads: Sequence[Sequence[Request]]) -> list[Request]:
    return [request for piece in reads for request in piece]


def _joined_all(pieces: Sequence[tuple[int, int]], reads: Sequence[Sequence[Request]]) -> list[bytes | MemoryFault]:
    return [joined(addr, size_bytes, piece) for (addr, size_bytes), piece in zip(pieces, reads, strict=True)]


# Type 4 is a watchpoint for reads and writes.
def _watch(letter: bytes, addr: int, size_bytes: int) -> bytes:
    return b"%b4,%x,%x" % (letter, addr, size_bytes)
