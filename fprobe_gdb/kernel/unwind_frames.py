"""What walks of a kernel stack give: frames, and how they end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, overload

__all__ = ["End", "Frame", "FrameKind", "StackTrace"]


class FrameKind(Enum):
    """How the walk came to a frame."""

    #: Where the vCPU stands.
    STOPPED = "stopped"
    #: A return address: ``ip`` is behind the call.
    CALL = "call"
    #: Interrupted by an interrupt or an exception: ``ip`` is what runs next.
    INTERRUPTED = "interrupted"
    #: A return address in one of ftrace's trampolines, which are copies of ftrace_caller or ftrace_regs_caller.
    TRAMPOLINE = "trampoline"
    #: The address of a return hook, in the place of a return address that nobody knows. The last frame.
    HOOK = "hook"


@dataclass(frozen=True, slots=True)
class Frame:
    """One function of a stack trace. All addresses are those of the running kernel."""

    ip: int
    #: The stack pointer as this frame has it: behind the return address that was popped to come here.
    sp: int
    #: False from where the walk had to guess.
    reliable: bool
    kind: FrameKind
    #: Something (function graph tracer, rethook, our own return hook) had put another address into the return slot.
    #: ``ip`` is the true one if that could be recovered, else the hook's (see :attr:`FrameKind.HOOK`).
    hooked: bool = False

    @property
    def lookup_ip(self) -> int:
        """An address inside the instruction that this frame is at: what to look up, as ``%pB`` of the kernel's printk.

        A call that never returns may be the last instruction of its function; the return address is then in the next.
        """
        return self.ip - 1 if self.kind in (FrameKind.CALL, FrameKind.TRAMPOLINE) else self.ip


class End(NamedTuple):
    """A walk ends here: at the stack's end, or else for the reason given."""

    complete: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class StackTrace(Sequence[Frame]):
    """Frames, the stopped function first."""

    frames: tuple[Frame, ...]
    #: Whether it reaches the stack's end: user mode, or the first function of a kernel thread.
    complete: bool
    #: Why not, as a clause; "" when complete.
    why: str = ""

    def __len__(self) -> int:
        return len(self.frames)

    @overload
    def __getitem__(self, index: int) -> Frame: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Frame, ...]: ...

    def __getitem__(self, index: int | slice) -> Frame | tuple[Frame, ...]:
        return self.frames[index]
