"""``struct fprobe`` (include/linux/fprobe.h of Linux 6.3 to 6.13): what a user fills in, and what the core counts."""

from __future__ import annotations

from collections.abc import Callable

from fprobe_gdb.probe.regs import PtRegs
from fprobe_gdb.probe.rethook import EntryData

__all__ = [
    "FPROBE_FL_ANY_FUNCTION",
    "FPROBE_FL_DISABLED",
    "FPROBE_FL_KPROBE_SHARED",
    "EntryHandler",
    "ExitHandler",
    "Fprobe",
]

#: Handlers are not called; the kernel's value.
FPROBE_FL_DISABLED = 1
#: The handlers share code with kprobes: a hit while a kprobe runs is a miss; the kernel's value.
FPROBE_FL_KPROBE_SHARED = 2
#: Ours, not the kernel's: names without ``*?[`` may also name functions that ftrace cannot trace.
FPROBE_FL_ANY_FUNCTION = 1 << 16

#: ``int entry_handler(struct fprobe *, unsigned long entry_ip, unsigned long ret_ip, struct pt_regs *, void *data)``;
#: a true result cancels the exit handler of this call.
EntryHandler = Callable[["Fprobe", int, int, PtRegs, EntryData | None], object]
#: ``void exit_handler(...)`` with the same arguments.
ExitHandler = Callable[["Fprobe", int, int, PtRegs, EntryData | None], object]


class Fprobe:
    """One probe: handlers, and counters once registered.

    :param entry_handler: called when a probed function is entered; a true result means "no exit handler this time".
    :param exit_handler: called when it returns.
    :param entry_data_size: bytes that travel from the entry to the exit handler, zero for none.
    :param nr_maxactive: how many calls can be in flight at once; 0 takes functions x possible CPUs x 2.
    :param flags: ``FPROBE_FL_*``.
    """

    def __init__(
        self,
        entry_handler: EntryHandler | None = None,
        exit_handler: ExitHandler | None = None,
        *,
        entry_data_size: int = 0,
        nr_maxactive: int = 0,
        flags: int = 0,
        name: str = "",
    ) -> None:
        self.entry_handler = entry_handler
        self.exit_handler = exit_handler
        self.entry_data_size = entry_data_size
        self.nr_maxactive = nr_maxactive
        self.flags = flags
        #: For people: shown in messages and summaries.
        self.name = name
        #: The kernel's counter: hits refused by the recursion guard, for want of a node, or because a kprobe ran.
        self.nmissed = 0
        #: Ours: calls that this fprobe was given (its entry handler ran, if it has one).
        self.hits = 0
        #: Ours: exit handlers that ran.
        self.exits = 0
        #: Ours: hits that the kernel would drop without counting (see MissReason.LIST_RECURSION).
        self.lost = 0
        #: Ours: the part of ``nmissed`` that refused an exit handler, not a whole call.
        self.exits_missed = 0

    @property
    def disabled(self) -> bool:
        """``fprobe_disabled()``."""
        return bool(self.flags & FPROBE_FL_DISABLED)

    @property
    def shared_with_kprobes(self) -> bool:
        """``fprobe_shared_with_kprobes()``."""
        return bool(self.flags & FPROBE_FL_KPROBE_SHARED)

    @property
    def calls(self) -> int:
        """Calls of probed functions while enabled: hits + nmissed + lost, less the misses that were exits."""
        return self.hits + self.nmissed - self.exits_missed + self.lost

    def __repr__(self) -> str:
        name = f" {self.name}" if self.name else ""
        return f"<Fprobe{name} hits={self.hits} exits={self.exits} nmissed={self.nmissed} lost={self.lost}>"
