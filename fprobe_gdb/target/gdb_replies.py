"""What gdb's MI records mean for a target: results checked, memory put together, stops told apart."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fprobe_gdb.errors import MemoryFault, ProtocolError, TargetError, TargetLost
from fprobe_gdb.target.base import Stop, StopKind
from fprobe_gdb.transport.mi import MiEvent, MiResult

__all__ = ["check_done", "check_packet_ok", "check_there", "joined", "read_stop", "threads_by_vcpu"]

# What gdb says when the other end of its connection is gone.
_GONE = ("Remote connection closed", "Remote communication error", "not connected", "Connection reset", "Broken pipe")


def read_stop(event: MiEvent, threads: Mapping[int, str]) -> Stop:
    """What an asynchronous record of gdb says of the guest.

    :param threads: gdb's thread numbers by vCPU.
    :raise TargetLost: when QEMU is gone, or the guest has shut down.
    :raise TargetError: when the guest stopped for a reason that nobody resumes from.
    """
    reason = event.get("reason")
    signal = event.get("signal-name")
    if event.name == "error":
        message = str(event.payload.get("msg"))
        check_there(message)
        raise ProtocolError("gdb failed while the guest ran", message)
    if event.name != "stopped" or str(reason).startswith("exited"):
        raise TargetLost("QEMU closed the connection to gdb, or exited")
    thread = event.get("thread-id")
    vcpu = next((vcpu for vcpu, its in threads.items() if thread in (None, its)), None)
    if vcpu is None:
        raise ProtocolError("gdb names a thread that is no vCPU", str(thread))
    if reason in ("breakpoint-hit", "end-stepping-range") or signal == "SIGTRAP":
        return Stop(StopKind.BREAKPOINT, vcpu)
    if reason is None or signal in ("SIGINT", "0"):
        return Stop(StopKind.INTERRUPT, vcpu)
    if signal == "SIGQUIT":
        raise TargetLost("it shut down (QEMU keeps its memory, but it cannot run on)")
    raise TargetError(
        f"the guest stopped for a reason that no breakpoint gives ({reason} {signal}): a panic, an I/O error or a "
        "watchdog; see QEMU's own messages"
    )


def threads_by_vcpu(result: MiResult) -> dict[int, str]:
    """gdb's numbers of the vCPUs' threads, from the answer to ``-thread-info``.

    :raise ProtocolError: when it names no vCPUs.
    """
    threads: dict[int, str] = {}
    for item in result.payload.get("threads", ()):
        match = re.match(r"Thread (?:\d+\.)?(\d+)", item["target-id"])
        if match:
            threads[int(match[1]) - 1] = str(item["id"])
    if sorted(threads) != list(range(len(threads))) or not threads:
        raise ProtocolError("gdb does not list the vCPUs", str(result.payload))
    return threads


def check_there(message: str) -> None:
    """What gdb complains of.

    :raise TargetLost: when it is that nobody is at the other end.
    """
    if any(words in message for words in _GONE):
        raise TargetLost(f"gdb says: {message}")


def check_done(result: MiResult) -> None:
    """The answer to a command that gdb has no reason to refuse.

    :raise ProtocolError: when it did.
    """
    if result.error is not None:
        raise ProtocolError(f"gdb refused {result.command}", result.error)


def check_packet_ok(result: MiResult) -> None:
    """The answer to ``maintenance packet``.

    :raise ProtocolError: when the stub's reply was not OK.
    """
    if 'received: "OK"' not in result.output:
        raise ProtocolError(f"the gdbstub refused {result.command}", result.error or result.output)


def joined(addr: int, size_bytes: int, results: Sequence[MiResult]) -> bytes | MemoryFault:
    """The bytes at an address, from the answers to ``-data-read-memory-bytes`` of its parts."""
    data = bytearray()
    for result in results:
        if result.error is not None:
            return MemoryFault(addr, size_bytes)
        # gdb leaves out what it cannot read, at the beginning, in the middle or at the end.
        for begin, contents in result.memory:
            if begin != addr + len(data):
                return MemoryFault(addr, size_bytes)
            data += contents
    return bytes(data) if len(data) == size_bytes else MemoryFault(addr, size_bytes)
