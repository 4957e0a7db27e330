"""What happened, as frozen records: the only thing that outputs see.

Addresses are ints; ``time_ns`` is guest time, a virtual clock that stands still while the guest is stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = [
    "LOST_REASONS",
    "Aggregate",
    "ConsoleEvent",
    "CpuFlags",
    "EntryEvent",
    "Event",
    "EventField",
    "ExitEvent",
    "FunctionSummary",
    "LostEvent",
    "MissReason",
    "MissedEvent",
    "SummaryEvent",
]

from enum import Enum
from typing import NamedTuple, Protocol


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
    #: Trampolines: the host did not answer in time, or too many calls were in flight, so the call was let through.
    HOST_AWAY = "host-away"
    #: Record mode: the ring had no room.
    RING_FULL = "ring-full"


#: Reasons of a :class:`LostEvent`; the others are those of a :class:`MissedEvent`.
LOST_REASONS = frozenset({MissReason.LIST_RECURSION, MissReason.HOST_AWAY, MissReason.RING_FULL})


@dataclass(frozen=True, slots=True)
class CpuFlags:
    """State of the CPU at a hit, which tracefs shows as five characters (``d..2.``)."""

    irqs_off: bool = False
    #: The raw per-CPU count; None where the kernel has none.
    preempt_count: int | None = None
    #: ``thread_info.flags`` of the task.
    thread_flags: int = 0
    #: ``task_struct.migration_disabled``.
    migration_disabled: int = 0


class EventField(NamedTuple):
    """An argument of a probe event's definition, with its value at one hit."""

    name: str
    #: As the kernel prints it.
    text: str
    #: The same for programs: strings without quotes, None for what could not be read, arrays as such.
    value: str | tuple[str | None, ...] | None


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
    #: ``GROUP/EVENT`` of the probe event that was defined for it; None for a function that was given by its name.
    probe_event: str | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class EntryEvent(Event):
    """A probed function was entered."""

    #: The six argument registers, by pt_regs' names, in the order of the ABI.
    args: dict[str, int]
    #: Return address as symbol+offset, for people.
    caller: str
    #: Probed calls of this task that are in flight around this one.
    depth: int
    #: Name and pid of the task; None where the kernel's types are unknown.
    comm: str | None = None
    pid: int | None = None
    #: Arguments by name, as text in C's manner; None where the prototype is unknown.
    params: tuple[tuple[str, str], ...] | None = None
    #: Of a probe event: its arguments.
    fields: tuple[EventField, ...] | None = None
    #: Kernel stack, the place of the hit first, each as symbol+offset; None where it was not asked for.
    stack: tuple[str, ...] | None = None
    #: What tracefs has behind the time of a line, and the state of the CPU in it; only for output in that form.
    text: str | None = None
    flags: CpuFlags | None = None


@dataclass(frozen=True, slots=True)
class ExitEvent(Event):
    """A probed function returned."""

    #: The register ax.
    retval: int
    duration_ns: int
    caller: str
    depth: int
    #: As of :class:`EntryEvent`.
    comm: str | None = None
    pid: int | None = None
    #: The return value by the function's type, as text; empty for ``void``, None where the type is unknown.
    result: str | None = None
    #: As of :class:`EntryEvent`.
    fields: tuple[EventField, ...] | None = None
    stack: tuple[str, ...] | None = None
    text: str | None = None
    flags: CpuFlags | None = None


@dataclass(frozen=True, slots=True)
class MissedEvent(Event):
    """A hit that fprobe's rules did not give to a handler; counted in ``nmissed``.

    It stands for a whole call, except with :attr:`MissReason.EXIT_RECURSION`: there the call was a hit already and only
    its exit handler did not run.
    """

    reason: MissReason
    #: Probed calls of this task that are in flight around this one.
    depth: int = 0


@dataclass(frozen=True, slots=True)
class LostEvent(Event):
    """A hit that got lost on the way and is not in ``nmissed``."""

    reason: MissReason
    #: How many calls this record stands for.
    count: int = 1
    #: Probed calls of this task that are in flight around this one.
    depth: int = 0


@dataclass(frozen=True, slots=True)
class ConsoleEvent:
    """A line of the guest's console or of the traced command's output."""

    line: str
    time_ns: int
    #: ``"console"`` (kernel messages), ``"command"`` (output of the command in the guest), or ``"module"`` (what we say
    #: of a module that is loaded or unloaded).
    source: str = "console"


@dataclass(frozen=True, slots=True)
class FunctionSummary:
    """What one probed function did. Every call is in one of ``hits``, ``missed`` and ``lost``."""

    #: Or the probe event's ``GROUP/EVENT``.
    func: str
    #: Calls that were given to the handlers.
    hits: int
    #: Calls that fprobe's rules refused. The kernel's ``nmissed`` is this plus ``exits_missed``.
    missed: int
    lost: int
    #: Hits whose return was seen. Others were cancelled, are in flight, never return, or are in ``exits_missed``.
    exits: int
    #: None where no call returned.
    min_ns: int | None
    mean_ns: int | None
    max_ns: int | None
    #: Hits whose exit handler was refused (:attr:`MissReason.EXIT_RECURSION`). They are in ``hits``, not in ``missed``.
    exits_missed: int = 0


class Aggregate(Protocol):
    """Something added up over a trace: a histogram, or counts by a key."""

    def lines(self) -> Iterator[str]:
        """For people."""
        ...

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        ...


@dataclass(frozen=True, slots=True)
class SummaryEvent:
    """The end of a trace."""

    functions: tuple[FunctionSummary, ...]
    hits: int
    missed: int
    lost: int
    #: Host time that went into handling hits, for each of them; None without any. An entry and its return are handled
    #: one by one and count as two here.
    host_ns_per_hit: int | None
    #: Why the trace ended: ``"command finished"``, ``"max-hits"``, ``"timeout"``, ``"interrupted"``, ``"guest died"``.
    ended: str
    #: Exit status of the command in the guest, None where it did not finish.
    command_status: int | None
    #: Which dispatch, target and breakpoint kind were used.
    dispatch: str
    exits: int = 0
    #: See :attr:`FunctionSummary.exits_missed`.
    exits_missed: int = 0
    #: What was added up (``--hist``, ``--count-by``).
    aggregates: tuple[Aggregate, ...] = ()
    #: Calls that filters kept out; they are in none of the counts above.
    kept_out: int = 0
    #: Calls about which their return was to decide, and had not come at the end. They are in none of the counts above.
    undecided: int = 0
    #: Evaluations of a filter that ran into memory which cannot be read; such calls are kept out.
    faults: int = 0
    #: CPUs of the guest.
    cpus: int = 1
