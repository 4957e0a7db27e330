"""The hits whose handlers are running: one, and more where a handler calls a guest function that hits a probe."""

from __future__ import annotations

from dataclasses import dataclass

from fprobe_gdb.dispatch.cpu_state import CpuState
from fprobe_gdb.dispatch.trampoline.slots import Posted
from fprobe_gdb.errors import StateError
from fprobe_gdb.probe.core import Hit

__all__ = ["Handling", "Handlings"]


@dataclass(slots=True)
class Handling:
    """A hit whose handlers are running."""

    posted: Posted
    #: Newer, where the function that a handler called has ended on another vCPU.
    at: Posted
    ip: int
    hit: Hit
    state: CpuState | None = None

    def moved(self, at: Posted) -> None:
        """The task may run on another vCPU now."""
        self.at, self.state = at, None


class Handlings(list[Handling]):
    """The innermost is the last."""

    @property
    def current(self) -> CpuState:
        """The vCPU of the innermost hit.

        :raise StateError: outside handlers.
        """
        if not self:
            raise StateError("this", "not in a handler", "in a handler")
        handling = self[-1]
        if handling.state is None:
            handling.state = _cpu_state(handling)
        return handling.state


# Handlers run at the location, or at the return address.
def _cpu_state(handling: Handling) -> CpuState:
    posted, at = handling.posted, handling.at
    kernel_mode = {"ip": handling.ip, "cs": 0x10, "ss": 0x18, "cr3": at.cr3}
    return CpuState(
        vcpu=at.cpu,
        registers={**posted.registers, **kernel_mode},
        task=posted.task,
        preempt_count=posted.preempt_count,
        kprobe_running=bool(posted.kprobe),
        stack_word=posted.ret_ip,
        code=b"",
    )
