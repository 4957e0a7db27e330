"""Taking over a connection to the gdbstub of somebody's guest, whatever was being said on it or on the one before.

Nobody tells QEMU's stub that a client was killed: it keeps the half packet, the breakpoints, the step that a vCPU has
not taken yet, physical addresses. Whoever attaches takes over first (:func:`take_over`).

As a program it stands by a connection, and lets the guest run on if we are killed (:func:`let_go`). Its standard input
is a pipe from us. A byte there says that we have let go of the guest ourselves; without one, its end says that we are
gone. Then the guest may be stopped, and breakpoints may be in it, which would stop it again. The connection is another
descriptor of the same socket, so it is still open.

It runs alone, without the rest of the package: ``python -I -S let_go.py FD``.
"""

from __future__ import annotations

import re
import select
import socket
import sys
import time

__all__ = ["let_go", "take_over"]

_ANSWER_SEC = 30.0
# Stops a guest that runs. Nothing to a stopped one.
_INTERRUPT = b"\x03"
# Whatever the stub was asked before has been answered once it says "1" to this.
_IN_STEP = b"qAttached", b"1"
# What to ask at first, and for how long. The first one is short, since half a packet may have taken the question; but
# a machine with much else to do may take seconds to stop a guest, and then the late answer is not that to the next one.
# All of them may be asked while nobody is attached (QEMU 7.2 ends with a segmentation fault at qC).
_TRIES = (*_IN_STEP, 1.0), (b"qqemu.sstepbits", b"ENABLE.*", 5.0), (b"qSupported", b"PacketSize.*", _ANSWER_SEC)
_STOP = b"T.*"
_PACKET = re.compile(rb"\$([^#]*)#..", re.DOTALL)


def take_over(stub: socket.socket) -> bool:
    """Be the client of a gdbstub, whatever was being said to it. Returns whether the stub has agreed.

    The guest is stopped afterwards, without breakpoints and without a step to be taken, and virtual memory is meant.
    """
    for question, wanted, wait_sec in _TRIES:
        stub.sendall(_INTERRUPT)
        # What was said last may be half a packet, which ends with this one and is refused; or the stub may be waiting
        # for an acknowledgement, and have taken the first byte of this one for the interrupt.
        if _ask(stub, question, wanted, wait_sec):
            # Nobody is attached while a guest runs detached (detached_run.py). Physical memory is meant until the stub
            # is told otherwise, also by the next connection.
            return bool(_ask(stub, b"vAttach;1", _STOP) and _ask(stub, b"Qqemu.PhyMemMode:0", b"OK") and _clean(stub))
    return False


def let_go(stub: socket.socket) -> bool:
    """Let a guest run on, whatever was being said to its gdbstub. Returns whether the stub has agreed."""
    return take_over(stub) and bool(_ask(stub, b"D;1", b"OK"))


# Take out of each vCPU what a client has left in it. QEMU does so for the one only that "Hc" names (7.2 gdbstub.c:
# handle_target_halt() removes breakpoints of c_cpu, gdb_vm_state_change() ends a step of c_cpu; up to 7.1 "?" removed
# all breakpoints). A vCPU that was left with a step stops the guest when it gets to run, perhaps long afterwards.
def _clean(stub: socket.socket) -> bool:
    threads = _threads(stub)
    for thread in (*threads, *threads[:1]):
        if not (_ask(stub, b"Hc" + thread, b"OK") and _ask(stub, b"?", _STOP)):
            return False
        # Resumed and stopped at once: no vCPU gets to run in between, QEMU's main thread has its lock all the while.
        stub.sendall(_packet(b"c") + _INTERRUPT)
        if not _ask(stub, *_IN_STEP):
            return False
    return bool(threads)


def _threads(stub: socket.socket) -> list[bytes]:
    threads: list[bytes] = []
    answer = _ask(stub, b"qfThreadInfo", b"m.*|l")
    while answer is not None and answer != b"l":
        threads += answer[1:].split(b",")
        answer = _ask(stub, b"qsThreadInfo", b"m.*|l")
    return threads


def _packet(payload: bytes) -> bytes:
    return b"$%b#%02x" % (payload, sum(payload) & 0xFF)


# What the stub has answered; None when it has not. Other answers and reports of stops may come before.
def _ask(stub: socket.socket, payload: bytes, wanted: bytes, wait_sec: float = _ANSWER_SEC) -> bytes | None:
    stub.sendall(_packet(payload))
    seen = b""
    end = time.monotonic() + wait_sec
    while (left := end - time.monotonic()) > 0 and select.select([stub], [], [], left)[0]:
        seen += stub.recv(1 << 16) or _gone()
        for answer in _PACKET.findall(seen):
            if re.fullmatch(wanted, answer, re.DOTALL):
                return bytes(answer)
    return None


def _gone() -> bytes:
    raise ConnectionError("the gdbstub has closed the connection")


def _main() -> None:
    stub = socket.socket(fileno=int(sys.argv[1]))
    # A byte, or the end. Whoever interrupts us means the tool.
    if not sys.stdin.buffer.read(1):
        let_go(stub)


if __name__ == "__main__":
    _main()
