"""Letting the guest run with nobody attached to the gdbstub, so that a stop keeps QEMU's translations.

QEMU up to 10.1 drops all translated code at a stop at a breakpoint; on Linux, translating it again is 4 ms before the
next hit. It does so while it composes the report for the client that is attached to the guest, and does not when none
is (QEMU 7.2 gdbstub.c and 10.0 gdbstub/system.c, ``gdb_vm_state_change()``: ``c_cpu == NULL`` returns before
``tb_flush()``). Breakpoints do not need the flush: they are looked for at each look-up of translated code (since 6.1;
an ordinary interrupt has never flushed). So a resume is, in one write:

* ``D;1``: detach. The connection stays; breakpoints are removed, and the guest is resumed;
* ``$``: any byte stops a running guest. That happens before a vCPU gets to run: QEMU's main thread holds its lock all
  the while. The byte also settles the acknowledgement of the answer to ``D``, and is dropped;
* ``Z...``: the breakpoints again (they are nobody's, and hit for everybody), and ``c``.

No report will come, so the stop is learnt from QMP's events: the second one counts. Then ``vAttach;1``, and all is as
after a report, but for the vCPU, which we find by the breakpoint that it stands at.

QEMU 10.2 no longer flushes (commit dae1e0df49), KVM has nothing to flush: there nothing of this is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fprobe_gdb.errors import ProtocolError
from fprobe_gdb.transport.stop_events import StopEvents

__all__ = ["ATTACH", "DETACH", "DetachedRun", "parse_ip", "signal_of"]

DETACH = b"D;1"
ATTACH = b"vAttach;1"

# Packets that let all vCPUs run.
_CONTINUES = frozenset((b"vCont;c", b"vCont;c:p1.-1", b"c"))
# Planting one again costs 8 us, translating again 4 ms (measured with 250 of them on QEMU 7.2: 2.6 ms a hit).
_MOST_BREAKPOINTS = 400
_WATCHPOINT = b"Z4"
_NOT_FLUSHING = (10, 2)
# The signal that QEMU's stub reports for a run state (gdb_vm_state_change(), QEMU 7.2), by QMP's name of the state.
_SIGNALS = {"debug": 5, "paused": 2, "shutdown": 3, "io-error": 23, "watchdog": 14, "internal-error": 6}
_UNKNOWN_SIGNAL = 143


def signal_of(status: str) -> int:
    """The signal number that the stub would report for a QMP run state."""
    return _SIGNALS.get(status, _UNKNOWN_SIGNAL)


class DetachedRun:
    """What one connection needs to know for it. Sends nothing to the stub itself.

    :param events: tells the stops of this QEMU; owned from now on.
    """

    def __init__(self, events: StopEvents) -> None:
        self.events = events
        #: Whether the guest was resumed this way and its stop has not been dealt with.
        self.running = False
        # Payloads of the Z packets of what is planted.
        self._planted: dict[bytes, int] = {}
        # Whether the monitor has told all stops up to now.
        self._in_step = False

    def note(self, payload: bytes) -> None:
        """Look at a packet that is about to be sent, for the breakpoints that it plants or removes."""
        match payload[:1]:
            case b"Z":
                self._planted[payload] = int(payload.split(b",")[1], 16)
            case b"z":
                self._planted.pop(b"Z" + payload[1:], None)
            case b"?" | b"D":
                self._planted.clear()

    def begin(self, payload: bytes) -> Sequence[bytes] | None:
        """Whether this resuming packet is better replaced: by :data:`DETACH`, ``$``, these packets and ``c``."""
        suits = payload in _CONTINUES and 0 < len(self._planted) <= _MOST_BREAKPOINTS
        # Between being removed and planted again, watchpoints miss accesses.
        suits = suits and not any(planted.startswith(_WATCHPOINT) for planted in self._planted)
        if not suits or self.events.version() >= _NOT_FLUSHING:
            self._in_step = False
            return None
        if not self._in_step:
            self.events.status()
            self._in_step = True
        self.running = True
        return list(self._planted)

    def filenos(self) -> list[int]:
        """For ``select``, while running: what makes a look at :attr:`events` worth while."""
        return [] if self.events.closed else [self.events.fileno()]

    @property
    def stopped(self) -> bool:
        """Whether the guest has stopped: the first stop is that of our own ``$``."""
        return self.events.stops >= 2

    def end(self, ips: Sequence[int]) -> tuple[int, int]:
        """The guest has stopped with its vCPUs at these addresses.

        :return: the signal that the stub would have reported, and the index of the vCPU.
        """
        self.running = False
        self._in_step = self.events.stops == 2
        ask = self.events.others
        self.events.stops = 0
        standing = next(self._standing(ips), None)
        if standing is not None and not ask:
            return _SIGNALS["debug"], standing
        signal = signal_of(self.events.status())
        if standing is not None and signal in (_SIGNALS["debug"], _SIGNALS["paused"]):
            return _SIGNALS["debug"], standing
        return signal, standing or 0

    def _standing(self, ips: Sequence[int]) -> Iterator[int]:
        addresses = set(self._planted.values())
        return (index for index, ip in enumerate(ips) if ip in addresses)

    def close(self) -> None:
        """Close the monitor's connection. May be called twice."""
        self.events.close()


def parse_ip(reply: bytes) -> int:
    """The value of the 64-bit register that ``p`` has read.

    :raise ProtocolError: when it is no such value.
    """
    try:
        value = bytes.fromhex(reply.decode("ascii"))
    except ValueError:
        value = b""
    if len(value) != 8:
        raise ProtocolError("the gdbstub does not tell where a vCPU is", reply)
    return int.from_bytes(value, "little")
