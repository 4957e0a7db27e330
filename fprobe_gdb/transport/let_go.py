"""A program that stands by a connection to the gdbstub of somebody's guest, and lets the guest run on if we are killed.

Its standard input is a pipe from us. A byte there says that we have let go of the guest ourselves; without one, its end
says that we are gone. Then the guest may be stopped, and breakpoints may be in it, which would stop it again. The
connection is another descriptor of the same socket, so it is still open.

It runs alone, without the rest of the package: ``python -I -S let_go.py FD``.
"""

from __future__ import annotations

import re
import select
import socket
import sys
import time

__all__ = ["let_go"]

_TRIES = 3
_ANSWER_SEC = 1.0
# Stops a guest that runs. Nothing to a stopped one.
_INTERRUPT = b"\x03"
# Whatever the stub was asked before has been answered once it says "1" to this.
_IN_STEP = b"qAttached", b"1"
# Attach, since nobody is attached while a guest runs detached (detached_run.py); mean virtual memory again, which
# QEMU's stub keeps for the next connection. Then remove all breakpoints, resume and detach.
_PREPARING = b"vAttach;1", b"Qqemu.PhyMemMode:0"
_DETACH = b"D;1", b"OK"
_PACKET = re.compile(rb"\$([^#]*)#..", re.DOTALL)


def let_go(stub: socket.socket) -> bool:
    """Let a guest run on, whatever was being said to its gdbstub. Returns whether the stub has agreed."""
    for _ in range(_TRIES):
        stub.sendall(_INTERRUPT)
        # What was said last may be half a packet, which ends with this one and is refused; or the stub may be waiting
        # for an acknowledgement, and have taken the first byte of this one for the interrupt.
        if _ask(stub, *_IN_STEP):
            return all(_ask(stub, payload) for payload in _PREPARING) and _ask(stub, *_DETACH)
    return False


# Whether the stub has given an answer, or just this one.
def _ask(stub: socket.socket, payload: bytes, wanted: bytes | None = None) -> bool:
    stub.sendall(b"$%b#%02x" % (payload, sum(payload) & 0xFF))
    seen = b""
    end = time.monotonic() + _ANSWER_SEC
    while (left := end - time.monotonic()) > 0 and select.select([stub], [], [], left)[0]:
        seen += stub.recv(1 << 16) or _gone()
        answers = _PACKET.findall(seen)
        if answers if wanted is None else wanted in answers:
            return True
    return False


def _gone() -> bytes:
    raise ConnectionError("the gdbstub has closed the connection")


def _main() -> None:
    stub = socket.socket(fileno=int(sys.argv[1]))
    # A byte, or the end. Whoever interrupts us means the tool.
    if not sys.stdin.buffer.read(1):
        let_go(stub)


if __name__ == "__main__":
    _main()
