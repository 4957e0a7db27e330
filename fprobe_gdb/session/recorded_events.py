"""Probe events whose hits the guest records by itself: what their pads are to do, and events out of their records."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from fprobe_gdb.dispatch.trampoline.pad_expr import ALWAYS, Asked
from fprobe_gdb.dispatch.trampoline.record_format import Record, RecordForm, TaskNames
from fprobe_gdb.dispatch.trampoline.zone import LONGEST_RECORD_BYTES, MAX_PROBES
from fprobe_gdb.errors import NotCompiled, UsageError
from fprobe_gdb.events import EventField
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from fprobe_gdb.output.ftrace import UNKNOWN_COMM
from fprobe_gdb.probe.filters import match_filter
from fprobe_gdb.probe_events import EventDefinition, symbol_text
from fprobe_gdb.session.guest import Kernel
from fprobe_gdb.session.judge import Judge, Questions
from fprobe_gdb.session.lowering import GuestFacts
from fprobe_gdb.session.lowering_fetch import FetchPlan, plan_fetch
from fprobe_gdb.session.pad_questions import asked_by, guest_facts
from fprobe_gdb.session.probe_event_lines import field_of
from fprobe_gdb.session.records import ImageRecords

__all__ = ["RecordedEvent", "judge_event", "recorded_events"]

# One is for functions; and a number rests for a while before it is given out again.
_MOST_EVENTS = MAX_PROBES - 4
_ENTRY = RecordForm(args=True, names=TaskNames(0, 0))
_RETURN = RecordForm(returns=True, decided=True, names=TaskNames(0, 0))


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """A definition, ready to be recorded."""

    plan: FetchPlan
    #: What its pads do with each call, by location of its functions: of a return, all is recorded there.
    asked: Mapping[int, Asked]

    @property
    def definition(self) -> EventDefinition:
        """What it was made of."""
        return self.plan.definition

    @property
    def name(self) -> str:
        """``GROUP/EVENT``."""
        return f"{self.definition.group}/{self.definition.event}"

    @property
    def ips(self) -> Collection[int]:
        """Locations of its functions."""
        return self.asked.keys()

    def fields(self, k: Kernel, record: Record) -> tuple[EventField, ...]:
        """The arguments of a hit."""
        comm = UNKNOWN_COMM if record.comm is None else record.comm
        values = self.plan.values(record.payload, comm, partial(symbol_text, k.symbols))
        return tuple(field_of(value, k.symbols) for value in values)


def recorded_events(
    k: Kernel, definitions: Iterable[EventDefinition], questions: Questions | None = None
) -> list[RecordedEvent]:
    """Definitions for a stopped guest, in their order.

    :param questions: what is asked of the events' calls.
    :raise NotCompiled: one of them needs handlers.
    :raise ZoneError: the guest has no trampolines.
    """
    definitions, facts = list(definitions), guest_facts(k)
    if len(definitions) > _MOST_EVENTS:
        raise NotCompiled(f"there are {len(definitions)} events, and at most {_MOST_EVENTS} are recorded")
    return [_recorded(k, definition, facts, questions) for definition in definitions]


def judge_event(
    definition: EventDefinition, questions: Questions, knowledge: KernelKnowledge, records: ImageRecords
) -> Judge:
    """What is asked of the calls of an event's functions.

    :raise ExprError: a text is no expression, or does not fit a function.
    :raise UsageError: something is asked of returns, and the event is one of an entry.
    """
    judge = Judge(questions, knowledge, _locations(definition, records), records.name_at)
    if judge.at_exit and not definition.is_return:
        raise UsageError(
            f"{definition.event} is an event at an entry, where return value and duration are not known yet; "
            f"define it with {definition.symbol}%return"
        )
    return judge


def _locations(definition: EventDefinition, records: ImageRecords) -> list[int]:
    return sorted(match_filter(records, definition.function, any_function=not records.records))


def _recorded(k: Kernel, definition: EventDefinition, facts: GuestFacts, questions: Questions | None) -> RecordedEvent:
    ips = _locations(definition, k.records)
    if (ip := k.records.without_fentry(ips)) is not None:
        raise NotCompiled(f"{k.records.name_at(ip)} has no fentry call")
    form = _RETURN if definition.is_return else _ENTRY
    plan = plan_fetch(definition, LONGEST_RECORD_BYTES - form.size_bytes, facts.reaches_memory)
    asked = dict.fromkeys(ips, Asked())
    if questions:
        asked = asked_by(judge_event(definition, questions, k.knowledge, k.records), facts)
    at_exit = ALWAYS if definition.is_return else None
    return RecordedEvent(
        plan, {ip: Asked(of.at_entry, of.at_exit or at_exit, payload=plan.payload) for ip, of in asked.items()}
    )
