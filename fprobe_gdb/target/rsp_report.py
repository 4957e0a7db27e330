"""What a stop report of the remote protocol means. Pure."""

from __future__ import annotations

from fprobe_gdb.errors import ProtocolError, TargetError, TargetLost
from fprobe_gdb.target.base import Stop, StopKind

__all__ = ["parse_report", "parse_thread"]

# GDB's signal numbers, as QEMU's gdb_vm_state_change() sends them (QEMU 7.2 gdbstub.c).
_SIGINT, _SIGQUIT, _SIGTRAP = 2, 3, 5


def parse_thread(text: bytes) -> int:
    """The vCPU number of a thread id such as ``01`` or ``p01.02``.

    :raise ProtocolError: when it is none.
    """
    try:
        number = int(text.rpartition(b".")[2].removeprefix(b"p"), 16) - 1
    except ValueError:
        number = -1
    if number < 0:
        raise ProtocolError("the gdbstub named a strange thread", text)
    return number


def parse_report(report: bytes, *, vcpu: int = 0) -> Stop:
    """Read a stop report (``T05thread:01;``) or an exit report (``W00``).

    :param vcpu: the vCPU to name where the report names none.
    :raise TargetLost: when the guest is gone or has shut down.
    :raise TargetError: when it stopped for a reason that is no breakpoint and no request.
    """
    try:
        signal = int(report[1:3], 16)
    except ValueError:
        raise ProtocolError("the gdbstub sent a strange stop report", report) from None
    if report[:1] == b"W":
        raise TargetLost(f"QEMU exited with status {signal}")
    if report[:1] == b"X":
        raise TargetLost(f"QEMU was killed by signal {signal}")
    for field in report[3:].split(b";"):
        key, _, value = field.partition(b":")
        if key == b"thread":
            vcpu = parse_thread(value)
    if signal == _SIGTRAP:
        return Stop(StopKind.BREAKPOINT, vcpu)
    if signal == _SIGINT:
        return Stop(StopKind.INTERRUPT, vcpu)
    if signal == _SIGQUIT:
        raise TargetLost("it shut down (QEMU keeps its memory, but it cannot run on)")
    raise TargetError(
        f"the guest stopped for a reason that no breakpoint gives ({report[:3].decode()}): a panic, an I/O error or a "
        "watchdog; see QEMU's own messages"
    )
