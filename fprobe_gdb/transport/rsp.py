"""The GDB remote serial protocol's framing, without I/O: bytes in, packets out.

Knows nothing of sockets, processes or what a packet means. The rules (GDB manual, node "Overview" of the remote
protocol):

* a packet is ``$payload#xx``, ``xx`` being the sum of the payload's bytes modulo 256;
* ``}`` escapes the next byte (xor 0x20); in what the stub sends, ``X*n`` repeats ``X`` another ``n - 29`` times;
* ``+`` and ``-`` acknowledge. We never send ``+``: every QEMU accepts the next ``$`` instead (QEMU 5.0-10.2
  gdbstub.c, ``gdb_read_byte``), and a late ``+`` that meets a running guest would stop it.

Rule 1: feeding the same bytes in any pieces gives the same packets.
Rule 2: nonsense is a :class:`~fprobe_gdb.errors.ProtocolError`, never a hang, and memory stays bounded.
"""

from __future__ import annotations

from fprobe_gdb.errors import ProtocolError

__all__ = ["INTERRUPT", "MAX_PACKET_BYTES", "PacketParser", "frame"]

#: The one byte that may be sent while the guest runs: stop it.
INTERRUPT = b"\x03"

#: Longest packet that we accept, on the wire and decoded. QEMU's longest is 131,104 (since 10.2).
MAX_PACKET_BYTES = 1 << 20

_ESCAPED = b"$#}*"
_DOLLAR, _PLUS, _MINUS, _PERCENT = b"$+-%"


def frame(payload: bytes) -> bytes:
    """The wire form of a packet."""
    if len(payload.translate(None, _ESCAPED)) != len(payload):
        payload = b"".join(bytes((0x7D, c ^ 0x20)) if c in _ESCAPED else bytes((c,)) for c in payload)
    return b"$%b#%02x" % (payload, sum(payload) & 0xFF)


class PacketParser:
    """Collects the bytes of a stub and cuts them into packets.

    >>> parser = PacketParser()
    >>> parser.feed(b"+$O*' #b")
    >>> parser.next_packet() is None
    True

    :param max_packet_bytes: longest packet, on the wire and decoded, before the peer is taken for broken.
    """

    def __init__(self, max_packet_bytes: int = MAX_PACKET_BYTES) -> None:
        self._max = max_packet_bytes
        self._buffer = bytearray()
        # Where to go on looking for the "#" of an unfinished packet, so that feeding byte by byte stays linear.
        self._scanned = 0
        self._error: ProtocolError | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes from the stub."""
        self._buffer += data

    def next_packet(self) -> bytes | None:
        """The next whole packet's decoded payload, or None when more bytes are needed.

        :raise ProtocolError: on anything but packets and acknowledgements; from then on always.
        """
        if self._error is not None:
            raise self._error
        try:
            return self._next_packet()
        except ProtocolError as error:
            self._error = error
            raise

    def _next_packet(self) -> bytes | None:
        self._skip_acks()
        buffer = self._buffer
        end = buffer.find(b"#", self._scanned)
        if end < 0 or len(buffer) < end + 3:
            self._scanned = len(buffer) if end < 0 else end
            if self._scanned > self._max:
                raise ProtocolError(f"the gdbstub sent a packet of more than {self._max} bytes", bytes(buffer[:64]))
            return None
        wire = bytes(buffer[1:end])
        checksum = bytes(buffer[end + 1 : end + 3])
        del buffer[: end + 3]
        self._scanned = 0
        if len(wire) > self._max:
            raise ProtocolError(f"the gdbstub sent a packet of more than {self._max} bytes", wire[:64])
        if checksum.lower() != b"%02x" % (sum(wire) & 0xFF):
            raise ProtocolError("the gdbstub sent a packet with a wrong checksum", b"$" + wire + b"#" + checksum)
        if b"$" in wire:
            raise ProtocolError("the gdbstub sent a packet within a packet", wire)
        return self._decode(wire) if b"}" in wire or b"*" in wire else wire

    # Drops "+" between packets; leaves the buffer empty or at a "$".
    def _skip_acks(self) -> None:
        buffer = self._buffer
        count = 0
        while count < len(buffer) and buffer[count] == _PLUS:
            count += 1
        if count:
            del buffer[:count]
        if not buffer or buffer[0] == _DOLLAR:
            return
        if buffer[0] == _MINUS:
            raise ProtocolError("the gdbstub says that a packet of ours came damaged", bytes(buffer[:64]))
        if buffer[0] == _PERCENT:
            raise ProtocolError("the gdbstub sent a notification, which nobody asked for", bytes(buffer[:64]))
        raise ProtocolError("the gdbstub sent something that is not a packet", bytes(buffer[:64]))

    def _decode(self, wire: bytes) -> bytes:
        out = bytearray()
        at = 0
        while at < len(wire):
            byte = wire[at]
            if byte == 0x7D:
                if at + 1 == len(wire):
                    raise ProtocolError("the gdbstub sent a packet that ends in an escape", wire)
                out.append(wire[at + 1] ^ 0x20)
                at += 2
            elif byte == 0x2A:
                if at + 1 == len(wire) or not out or not 32 <= wire[at + 1] <= 126:
                    raise ProtocolError("the gdbstub sent a wrong run length", wire)
                out += out[-1:] * (wire[at + 1] - 29)
                at += 2
            else:
                out.append(byte)
                at += 1
            if len(out) > self._max:
                raise ProtocolError(f"the gdbstub sent a packet that unpacks to more than {self._max} bytes", wire)
        return bytes(out)
