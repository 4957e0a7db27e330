"""What the gdbstub's replies mean for a target."""

from __future__ import annotations

from collections.abc import Sequence

from fprobe_gdb.errors import BreakpointRefused, MemoryFault, ProtocolError
from fprobe_gdb.target.base import BreakpointKind
from fprobe_gdb.transport.rsp_session import Request

__all__ = ["check_ok", "check_planted", "joined", "packet_size"]


def joined(addr: int, size_bytes: int, piece: Sequence[Request]) -> bytes | MemoryFault:
    """The bytes at an address, from the replies to the ``m`` packets of its parts.

    :raise ProtocolError: when they are no bytes, or not as many.
    """
    data = bytearray()
    for request in piece:
        reply = request.reply or b""
        if reply.startswith(b"E"):
            return MemoryFault(addr, size_bytes)
        try:
            data += bytes.fromhex(reply.decode("ascii"))
        except ValueError:
            raise ProtocolError("the gdbstub answered a memory read with something else", reply) from None
    if len(data) != size_bytes:
        raise ProtocolError(f"the gdbstub sent {len(data)} bytes of memory, not {size_bytes}", bytes(data[:64]))
    return bytes(data)


def packet_size(features: bytes) -> int:
    """The longest packet that the stub takes, from its reply to ``qSupported``.

    :raise ProtocolError: when it does not say.
    """
    for feature in features.split(b";"):
        key, _, value = feature.partition(b"=")
        if key == b"PacketSize":
            try:
                # A stub that can do less cannot send the registers, and none needs more to be fast.
                return max(1024, min(int(value, 16), 1 << 17))
            except ValueError:
                break
    raise ProtocolError("the peer does not answer as a gdbstub does", features)


def check_ok(reply: bytes, what: str) -> None:
    """The reply to a packet that has no other answer than OK.

    :raise ProtocolError: when there is another.
    """
    if reply != b"OK":
        raise ProtocolError(f"the gdbstub refused {what}" if reply else f"the gdbstub cannot do {what}", reply)


def check_planted(reply: bytes, addr: int, kind: BreakpointKind) -> None:
    """The reply to a ``Z`` packet.

    :raise BreakpointRefused: when it is not OK.
    """
    if reply != b"OK":
        why = f"the gdbstub answered {reply!r}" if reply else f"the gdbstub has no {kind.value} breakpoints"
        raise BreakpointRefused(addr, why)
