"""What happened, as frozen records: the only thing that outputs see.

Addresses are ints; ``time_ns`` is guest time, a virtual clock that stands still while the guest is stopped.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ConsoleEvent",
    "EntryEvent",
    "Event",
    "ExitEvent",
    "FunctionSummary",
    "LostEvent",
    "MissReason",
    "MissedEvent",
    "SummaryEvent",
]

from enum import Enum


class MissReason(Enum):
    """Why the kernel would have counted a miss (or, for LIST, dropped the hit without counting)."""

    #: No free rethook node: ``nr_maxactive`` calls are in flight.
    POOL = "pool"
    #: A handler ran into a probe for the third time in one context.
    RECURSION = "recursion"
    #: The fprobe is shared with kprobes and a kprobe was running.
    KPROBE = "kprobe"
    #: The recursion guard refused the exit handler of a call whose entry was counted.
    EXIT_RECURSION = "exit-recursion"
    #: Several fprobes at one site: ftrace's list function dropped the hit, which the kernel does not count.
    LIST_RECURSION = "list-recursion"


@dataclass(frozen=True, slots=True)
class Event:
    """Where and when; the base of events that belong to a hit."""

    #: Symbol of the probed function.
    func: str
    #: ftrace location of the function.
    entry_ip: int
    #: Where the call returns to.
    ret_ip: int
    cpu: int
    #: ``struct task_struct *`` of the running task.
    task: int
    time_ns: int


@dataclass(frozen=True, slots=True)
class EntryEvent(Event):
    """A probed function was entered."""

    #: The six argument registers, by pt_regs' names.
    args: dict[str, int]
    #: Return address as symbol+offset, for people.
    caller: str
    #: Probed calls of this task that are in flight around this one.
    depth: int


@dataclass(frozen=True, slots=True)
class ExitEvent(Event):
    """A probed function returned."""

    retval: int
    duration_ns: int
    caller: str
    depth: int


@dataclass(frozen=True, slots=True)
class MissedEvent(Event):
    """A hit that fprobe's rules did not give to a handler; counted in ``nmissed``."""

    reason: MissReason


@dataclass(frozen=True, slots=True)
class LostEvent(Event):
    """A hit that got lost on the way and is not in ``nmissed``."""

    reason: MissReason
    count: int = 1


@dataclass(frozen=True, slots=True)
class ConsoleEvent:
    """A line of the guest's console or of the traced command's output."""

    line: str
    time_ns: int
    #: ``"console"`` (kernel messages) or ``"command"`` (output of the command in the guest).
    source: str = "console"


@dataclass(frozen=True, slots=True)
class FunctionSummary:
    """What one probed function did."""

    func: str
    hits: int
    missed: int
    lost: int
    exits: int
    #: None where no call returned.
    min_ns: int | None
    mean_ns: int | None
    max_ns: int | None


@dataclass(frozen=True, slots=True)
class SummaryEvent:
    """The end of a trace."""

    functions: tuple[FunctionSummary, ...]
    hits: int
    missed: int
    lost: int
    #: Host time that went into handling hits, for each hit; None without hits.
    host_ns_per_hit: int | None
    #: Why the trace ended: ``"command finished"``, ``"max-hits"``, ``"timeout"``, ``"interrupted"``, ``"guest died"``.
    ended: str
    #: Exit status of the command in the guest, None where it did not finish.
    command_status: int | None
    #: Which dispatch, target and breakpoint kind were used.
    dispatch: str
