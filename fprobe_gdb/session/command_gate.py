"""Start a command, and get hold of the guest just before the command itself begins.

Between the host's words and the command lies the guest's agent, which reads them byte by byte: thirty calls of
``vfs_read`` that nobody wants to see in a trace. The agent's last act is ``setsid`` (``images/init``, ``execute``), so
that system call is the gate: probes registered there see what the command does, from its shell's start on.
"""

from __future__ import annotations

from emu.agent import RunningCommand
from emu.deadline import Deadline
from emu.errors import CommandTimeout
from fprobe_gdb.dispatch.base import RunEnd
from fprobe_gdb.probe.fprobe import FPROBE_FL_ANY_FUNCTION, Fprobe
from fprobe_gdb.session.errand import GATE
from fprobe_gdb.session.guest import Kernel

__all__ = ["start_at_gate"]


def start_at_gate(k: Kernel, command: str, deadline: Deadline) -> RunningCommand:
    """Start a command; the guest is stopped at its beginning, or before that where the kernel has no such gate.

    :raise CommandTimeout: when the agent does not come to it in time.
    """
    running = k.start(command, keep_output=False)
    if not k.records.addresses(GATE):
        return running
    gate = Fprobe(lambda *_: k.stop(), None, flags=FPROBE_FL_ANY_FUNCTION, name="gate")
    k.register_fprobe(gate, GATE)
    try:
        if k.run(timeout_sec=deadline.remaining_sec, until=lambda: running.poll() is not None) is RunEnd.TIMEOUT:
            raise CommandTimeout(command, deadline.seconds, b"")
    finally:
        k.unregister_fprobe(gate)
    return running
