"""A hit that a pad has posted. What few handlers ask for is made of its slot's words when somebody asks."""

from __future__ import annotations

from fprobe_gdb.dispatch.cpu_state import CpuState
from fprobe_gdb.dispatch.trampoline.hit_clock import HitClock
from fprobe_gdb.dispatch.trampoline.slots import Posted, SlotRegisters, SlotWords
from fprobe_gdb.errors import StateError
from fprobe_gdb.probe.recursion import IN_INTERRUPT_MASK, Context, context_of
from fprobe_gdb.probe.regs import PtRegs

__all__ = ["Handled", "PadHit", "pad_hit"]

_new = object.__new__
_NORMAL = Context.NORMAL


class PadHit(SlotWords):
    """A :class:`~fprobe_gdb.probe.hit.Hit`, with the slot that has to be answered. Made by :func:`pad_hit`."""

    __slots__ = (
        "_clock", "_moved", "_state", "_time_ns", "context", "frame", "ip", "regs", "ret_ip", "task", "use",
    )  # fmt: skip

    ip: int
    ret_ip: int
    frame: int
    task: int
    regs: PtRegs
    context: Context
    #: Which use of the slot it is.
    use: int
    _clock: HitClock
    # Set when somebody asks.
    _time_ns: int | None
    _state: CpuState | None
    # Where a function that a handler called has ended on another vCPU.
    _moved: Posted | None

    #: See :class:`~fprobe_gdb.probe.hit.Hit`.
    calls = 1

    @property
    def kprobe_running(self) -> bool:
        """See :class:`~fprobe_gdb.probe.hit.Hit`."""
        return bool(self.kprobe)

    @property
    def time_ns(self) -> int:
        """See :class:`~fprobe_gdb.probe.hit.Hit`."""
        if self._time_ns is None:
            self._time_ns = self._clock.hit_ns(self.tsc)
        return self._time_ns

    @property
    def at(self) -> SlotWords:
        """Where the task is now: vCPU and page table root."""
        return self._moved or self

    @property
    def state(self) -> CpuState:
        """The vCPU. Handlers run at the location, or at the return address."""
        if self._state is None:
            kernel_mode = {"ip": self.ip, "cs": 0x10, "ss": 0x18, "cr3": self.at.cr3}
            self._state = CpuState(
                vcpu=self.at.cpu,
                registers=SlotRegisters(self.said, kernel_mode),
                task=self.task,
                preempt_count=self.preempt_count,
                kprobe_running=self.kprobe_running,
                stack_word=self.slot_word,
                code=b"",
            )
        return self._state

    def moved(self, at: Posted) -> None:
        """A function that a handler called has come back. The task may run on another vCPU now."""
        self._moved, self._state = at, None
        self.use = at.use

    def abandon(self) -> None:
        """A function that a handler called has not come back. Whatever is answered about this hit, its pad will not
        see it.
        """
        self.use = 0

    @property
    def abandoned(self) -> bool:
        """Whether :meth:`abandon` was called."""
        return not self.use


class Handled(list[PadHit]):
    """Hits whose handlers are running: one, and more where a handler calls a function that hits a probe. The innermost
    is the last.
    """

    @property
    def current(self) -> CpuState:
        """The vCPU of the innermost hit.

        :raise StateError: outside handlers.
        """
        if not self:
            raise StateError("this", "not in a handler", "in a handler")
        return self[-1].state


def pad_hit(
    slot: int,
    said: bytes,
    use: int,
    ip: int,
    ret_ip: int,
    frame: int,
    task: int,
    preempt_count: int,
    regs: PtRegs,
    clock: HitClock,
) -> PadHit:
    """A hit of what was taken of its slot. (A constructor would take twice as long.)"""
    hit = _new(PadHit)
    hit.slot = slot
    hit.said = said
    hit.use = use
    hit.ip = ip
    hit.ret_ip = ret_ip
    hit.frame = frame
    hit.task = task
    hit.regs = regs
    hit.context = context_of(preempt_count) if preempt_count & IN_INTERRUPT_MASK else _NORMAL
    hit._clock = clock
    hit._time_ns = hit._state = hit._moved = None
    return hit
