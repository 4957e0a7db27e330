"""Hits of probe events as the events that outputs see."""

from __future__ import annotations

from fprobe_gdb.events import EntryEvent, EventField, ExitEvent
from fprobe_gdb.kernel.symbols import SymbolTable
from fprobe_gdb.probe_events import Fetched, argument_text, slot_texts
from fprobe_gdb.registers import ARGUMENT_REGISTERS
from fprobe_gdb.session.guest import Kernel
from fprobe_gdb.session.probe_event_runner import ProbeEventHit

__all__ = ["event_of", "field_of", "full_name"]


def full_name(hit: ProbeEventHit) -> str:
    """``GROUP/EVENT``."""
    return f"{hit.definition.group}/{hit.definition.event}"


def event_of(k: Kernel, hit: ProbeEventHit, stack: tuple[str, ...] | None) -> EntryEvent | ExitEvent:
    """An entry, or of a return probe an exit. In the handler of the hit.

    :param stack: the kernel stack, where it is to be shown.
    """
    func, caller = k.records.name_at(hit.entry_ip), k.symbolize(hit.ret_ip)
    comm, pid = (hit.task.comm, hit.task.pid) if k.has_types else (None, None)
    fields = tuple(field_of(value, k.symbols) for value in hit.values)
    if hit.duration_ns is None:
        args = dict(zip(ARGUMENT_REGISTERS, hit.regs.arguments, strict=True))
        return EntryEvent(
            func, hit.entry_ip, hit.ret_ip, hit.cpu, hit.task.addr, hit.time_ns, args, caller, hit.depth, comm, pid,
            fields=fields, stack=stack, text=hit.text, flags=hit.context.flags, probe_event=full_name(hit),
        )  # fmt: skip
    return ExitEvent(
        func, hit.entry_ip, hit.ret_ip, hit.cpu, hit.task.addr, hit.time_ns,
        hit.regs.return_value(), hit.duration_ns, caller, hit.depth, comm, pid,
        fields=fields, stack=stack, text=hit.text, flags=hit.context.flags, probe_event=full_name(hit),
    )  # fmt: skip


def field_of(fetched: Fetched, symbols: SymbolTable) -> EventField:
    """An argument with its value."""
    texts = slot_texts(fetched, symbols)
    value = texts if fetched.argument.count else None if fetched.is_fault else texts[0]
    return EventField(fetched.argument.name, argument_text(fetched, symbols), value)
