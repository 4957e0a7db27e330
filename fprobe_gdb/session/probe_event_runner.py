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

from fprobe_gdb.errors import BtfError, MemoryFault, TypeLookupError
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
from fprobe_gdb.session.view import Task

__all__ = ["ProbeEventHit", "ProbeEventRunner", "events_for"]

_WORD_BYTES = 8
# The interrupt flag: interrupts are on.
_EFLAGS_IF = 1 << 9


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

    @property
    def time_ns(self) -> int:
        """Guest time."""
        return self.context.time_ns

    @property
    def line(self) -> str:
        """The whole line as in tracefs' ``trace`` file."""
        return trace_line(self.context, self.text)


def events_for(k: Kernel) -> ProbeEvents:
    """An empty list of events for a guest.

    Where the kernel has ftrace, only what ftrace can trace is accepted, as by the kernel itself; else every function.
    """
    btf = k.btf if k.has_types else None
    return ProbeEvents(KernelCatalog(k.symbols, k.records, btf, any_function=not k.records.records))


class ProbeEventRunner:
    """Plants events at once, and removes them at the end of ``with``, or by :meth:`unregister`.

    :param events: a :class:`ProbeEvents`, or some definitions; later changes of it have no effect.
    :param on_event: called with each hit, from a handler: the guest is stopped.
    :raise TooManySites: more functions than breakpoints can serve; nothing stays planted.
    """

    def __init__(self, k: Kernel, events: Iterable[EventDefinition], on_event: Callable[[ProbeEventHit], None]) -> None:
        self._k = k
        self._on_event = on_event
        # Offset and size by member.
        self._task_fields: dict[str, tuple[int, int]] = {}
        #: In the order of the definitions; ``name`` is ``GROUP/EVENT``.
        self.fprobes: list[Fprobe] = []
        try:
            for definition in events:
                fprobe = self._fprobe(definition)
                k.register_fprobe(fprobe, definition.symbol)
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
            if any(fprobe is it for it in live):
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
            partial(self._keep, definition) if definition.entry_args else None,
            partial(self._on_hit, definition),
            entry_data_size=len(definition.entry_args) * _WORD_BYTES,
            nr_maxactive=definition.nr_maxactive,
            flags=flags,
            name=name,
        )

    def _keep(
        self, definition: EventDefinition, fp: Fprobe, entry_ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None
    ) -> None:
        assert data is not None
        words = entry_words(definition, self._context(regs))
        data[:] = struct.pack(f"<{len(words)}Q", *words)

    def _on_hit(
        self, definition: EventDefinition, fp: Fprobe, entry_ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None
    ) -> None:
        k = self._k
        kept = struct.unpack(f"<{len(data) // _WORD_BYTES}Q", data) if data else ()
        values = fetch(definition, self._context(regs, kept), partial(symbol_text, k.symbols))
        text = event_text(definition, entry_ip, ret_ip, values, k.symbols)
        context = self._trace_context(regs)
        self._on_event(ProbeEventHit(definition, entry_ip, ret_ip, k.cpu, self._task(), context, values, text))

    def _trace_context(self, regs: PtRegs) -> TraceContext:
        k, task = self._k, self._task()
        has_count = k.knowledge.percpu.preempt_count is not None
        return TraceContext(
            task.comm, task.pid, k.cpu, k.time_ns,
            irqs_off=not regs.flags & _EFLAGS_IF,
            preempt_count=k._dispatch.current.preempt_count if has_count else None,
            thread_flags=self._task_field("thread_info.flags", task),
            migration_disabled=self._task_field("migration_disabled", task),
        )  # fmt: skip

    # An integer of struct task_struct; 0 where the kernel has no such member, or no types.
    def _task_field(self, path: str, task: Task) -> int:
        if path not in self._task_fields:
            try:
                member = self._k.btf.struct("task_struct").find_member(path)
                self._task_fields[path] = (member.byte_offset, member.type.size_bytes)
            except (BtfError, TypeLookupError):
                self._task_fields[path] = (0, 0)
        offset, size_bytes = self._task_fields[path]
        try:
            return int.from_bytes(self._k.read_memory(task.addr + offset, size_bytes), "little") if size_bytes else 0
        except MemoryFault:
            return 0

    def _context(self, regs: PtRegs, kept: tuple[int, ...] = ()) -> FetchContext:
        return FetchContext(regs.as_dict(), self._k.read_memory, lambda: self._task().comm, kept)

    def _task(self) -> Task:
        try:
            return self._k.current
        except BtfError:
            return Task(self._k.task, "<...>", 0, 0)
