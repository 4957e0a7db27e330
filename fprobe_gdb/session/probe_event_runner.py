"""Run probe events outside the kernel: one fprobe for each definition, as the kernel itself does.

::

    events = events_for(k)
    events.add("f:myread vfs_read file->f_path.dentry->d_name.name:string count")
    with ProbeEventRunner(k, events, lambda hit: print(hit.text)):
        k.shell("cat /etc/motd")
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from fprobe_gdb.errors import BtfError
from fprobe_gdb.events import CpuFlags
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from fprobe_gdb.kernel.symbols import SymbolTable
from fprobe_gdb.output.ftrace import TraceContext, trace_line
from fprobe_gdb.probe.fprobe import FPROBE_FL_ANY_FUNCTION, Fprobe
from fprobe_gdb.probe.regs import PtRegs
from fprobe_gdb.probe.rethook import EntryData
from fprobe_gdb.probe_events import (
    EventDefinition,
    FetchContext,
    Fetched,
    KernelCatalog,
    ProbeEvents,
    entry_words,
    event_text,
    fetch,
    symbol_text,
)
from fprobe_gdb.session.guest import Kernel
from fprobe_gdb.session.hit_context import FlagsReader, task_of
from fprobe_gdb.session.records import ImageRecords
from fprobe_gdb.session.view import GuestView, Task

__all__ = ["ProbeEventHit", "ProbeEventRunner", "events_for", "events_of"]

_WORD_BYTES = 8
# What a return needs to know of its entry beside arguments: time, depth, and how long the task had waited for handlers.
_KEPT_WORDS = 3


@dataclass(frozen=True, slots=True)
class ProbeEventHit:
    """One line of the trace."""

    definition: EventDefinition
    #: ftrace location of the function.
    entry_ip: int
    #: Where the call returns to.
    ret_ip: int
    cpu: int
    task: Task
    #: CPU, task and time as the kernel's trace lines show them.
    context: TraceContext
    values: tuple[Fetched, ...]
    #: ``NAME: (SYM+0x4/0x370) a=v``, as the kernel prints it behind the time.
    text: str
    #: Registers at the entry or at the return.
    regs: PtRegs
    #: Calls of this task that are being probed and in flight around this one.
    depth: int
    #: Of a return: guest time from its entry.
    duration_ns: int | None = None

    @property
    def time_ns(self) -> int:
        """Guest time."""
        return self.context.time_ns

    @property
    def line(self) -> str:
        """The whole line as in tracefs' ``trace`` file."""
        return trace_line(self.context, self.text)


def events_for(k: GuestView) -> ProbeEvents:
    """An empty list of events for a guest.

    Where the kernel has ftrace, only what ftrace can trace is accepted, as by the kernel itself; else every function.
    """
    return events_of(k.knowledge, k.symbols, k.records)


def events_of(knowledge: KernelKnowledge, symbols: SymbolTable, records: ImageRecords) -> ProbeEvents:
    """As :func:`events_for`, for a kernel that has not booted: with the symbols and records of its image."""
    try:
        btf = knowledge.btf
    except BtfError:
        btf = None
    return ProbeEvents(KernelCatalog(symbols, records, btf, any_function=not records.records))


class ProbeEventRunner:
    """Plants events at once, and removes them at the end of ``with``, or by :meth:`unregister`.

    :param events: a :class:`ProbeEvents`, or some definitions; later changes of it have no effect.
    :param on_event: called with each hit, from a handler: the guest is stopped.
    :param flags: read the flags of the CPU, which only lines in tracefs' form show: two reads a hit.
    :raise TooManySites: more functions than breakpoints can serve; nothing stays planted.
    :raise TracepointError: for ``t:`` events, see :meth:`.tracepoints.Tracepoints.switch_on`.
    """

    def __init__(
        self,
        k: Kernel,
        events: Iterable[EventDefinition],
        on_event: Callable[[ProbeEventHit], None],
        *,
        flags: bool = True,
    ) -> None:
        self._k = k
        self._on_event = on_event
        self._flags = FlagsReader(k) if flags else None
        #: In the order of the definitions; ``name`` is ``GROUP/EVENT``.
        self.fprobes: list[Fprobe] = []
        definitions = list(events)
        k.tracepoints.switch_on(it.symbol for it in definitions if it.is_tracepoint)
        try:
            for definition in definitions:
                fprobe = self._fprobe(definition)
                k.register_fprobe(fprobe, definition.function)
                self.fprobes.append(fprobe)
        except BaseException:
            self.unregister()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unregister()

    def unregister(self) -> None:
        """Remove the probes, newest first. May be called twice."""
        live = self._k.fprobes
        for fprobe in reversed(self.fprobes):
            # A handler that raised has had them all removed already.
            if fprobe in live:
                self._k.unregister_fprobe(fprobe)

    @property
    def nmissed(self) -> int:
        """Calls that no event tells of, of all definitions together."""
        return sum(fprobe.nmissed + fprobe.lost for fprobe in self.fprobes)

    def _fprobe(self, definition: EventDefinition) -> Fprobe:
        name = f"{definition.group}/{definition.event}"
        flags = FPROBE_FL_ANY_FUNCTION if not self._k.records.records else 0
        if not definition.is_return:
            return Fprobe(partial(self._on_hit, definition), flags=flags, name=name)
        return Fprobe(
            partial(self._keep, definition),
            partial(self._on_hit, definition),
            entry_data_size=(_KEPT_WORDS + len(definition.entry_args)) * _WORD_BYTES,
            nr_maxactive=definition.nr_maxactive,
            flags=flags,
            name=name,
        )

    def _keep(
        self, definition: EventDefinition, fp: Fprobe, entry_ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None
    ) -> None:
        assert data is not None
        k = self._k
        kept = (k.time_ns, k.depth_around(regs.sp, entry_ip), k.waited_ns)
        words = (*kept, *entry_words(definition, self._context(regs)))
        data[:] = struct.pack(f"<{len(words)}Q", *words)

    def _on_hit(
        self, definition: EventDefinition, fp: Fprobe, entry_ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None
    ) -> None:
        k = self._k
        words = struct.unpack(f"<{len(data) // _WORD_BYTES}Q", data) if data else ()
        values = fetch(definition, self._context(regs, words[_KEPT_WORDS:]), partial(symbol_text, k.symbols))
        text = event_text(definition, entry_ip, ret_ip, values, k.symbols)
        task = task_of(k)
        flags = self._flags.read(regs) if self._flags else CpuFlags()
        context = TraceContext(task.comm, task.pid, k.cpu, k.time_ns, flags)
        duration_ns, depth = None, k.depth_around(regs.sp, entry_ip)
        if words:
            entered_ns, depth, waited_ns = words[:_KEPT_WORDS]
            duration_ns = max(0, k.time_ns - entered_ns - (k.waited_ns - waited_ns))
        self._on_event(
            ProbeEventHit(definition, entry_ip, ret_ip, k.cpu, task, context, values, text, regs, depth, duration_ns)
        )

    def _context(self, regs: PtRegs, kept: tuple[int, ...] = ()) -> FetchContext:
        k = self._k
        return FetchContext(regs.as_dict(), k.read_memory, lambda: task_of(k).comm, kept)
