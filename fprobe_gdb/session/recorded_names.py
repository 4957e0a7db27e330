"""Names behind arguments of recorded calls (files', paths', tasks'): what pads fetch for them, at the entry."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from fprobe_gdb.dispatch.trampoline.pad_expr import Asked, Compute, Imm
from fprobe_gdb.dispatch.trampoline.payload import Payload, Place, Text
from fprobe_gdb.errors import ExprError, NotCompiled
from fprobe_gdb.expr import Scope
from fprobe_gdb.expr.check import check
from fprobe_gdb.expr.parser import parse
from fprobe_gdb.session.describe import NAME_BYTES, name_path
from fprobe_gdb.session.guest import Kernel
from fprobe_gdb.session.lowering import GuestFacts, Lowering
from fprobe_gdb.session.lowering_places import text_at, text_limit
from fprobe_gdb.session.pad_questions import guest_facts

__all__ = ["NamesPlan", "recorded_names", "with_names"]

# Reading the prototypes of all functions takes longer than their trace.
_MOST_FUNCTIONS = 500
# As many as there is room for in a record, behind everything else.
_MOST_NAMES = 12
# Each has pads of its own, of about a page, and there are some 220 pages for all.
_MOST_KINDS = 60
_WORD_BYTES = 8


@dataclass(frozen=True, slots=True)
class NamesPlan:
    """What is fetched at the entries of a function."""

    payload: Payload
    #: By argument, where its name is.
    places: tuple[tuple[str, Place], ...]

    def names(self, payload: bytes) -> dict[str, str | None]:
        """The names by argument; None where there is none to be read.

        :param payload: what the pad has fetched.
        """
        found = {}
        for param, place in self.places:
            (text,) = place.decode(payload)
            found[param] = text.decode(errors="backslashreplace") if isinstance(text, bytes) else None
        return found


def recorded_names(k: Kernel, ips: Collection[int], asked: Mapping[int, Asked]) -> dict[int, NamesPlan]:
    """What to fetch, by location, for functions that are few. The guest is stopped.

    :param asked: what is asked of their calls. Nothing is fetched for what is recorded at returns: what an argument has
        led to at the entry may be gone there.
    """
    if len(ips) > _MOST_FUNCTIONS or any(of.at_exit for of in asked.values()):
        return {}
    facts = guest_facts(k)
    plans = {ip: plan for ip in ips if (plan := _plan(k, ip, facts))} if facts.reaches_memory else {}
    return plans if len(set(with_names(ips, asked, plans).values())) <= _MOST_KINDS else {}


def with_names(ips: Collection[int], asked: Mapping[int, Asked], plans: Mapping[int, NamesPlan]) -> dict[int, Asked]:
    """What pads do with each call, given what is asked, and what is fetched."""
    return {ip: replace(asked.get(ip, Asked()), payload=plans[ip].payload if ip in plans else None) for ip in ips}


def _plan(k: Kernel, ip: int, facts: GuestFacts) -> NamesPlan | None:
    func = k.records.name_at(ip)
    proto = k.prototype(func) if k.has_types else None
    if proto is None:
        return None
    lowering = Lowering(Scope(func, k.btf, proto, is_exit=False), ip, facts)
    found = dict(list(_texts(lowering))[:_MOST_NAMES])
    payload = Payload(tuple(found.values()))
    return NamesPlan(payload, tuple(zip(found, payload.places(), strict=True))) if found else None


# By argument, the text that describe_arguments() shows of it.
def _texts(lowering: Lowering) -> Iterator[tuple[str, Text]]:
    for param, of in lowering.scope.params:
        path = name_path(of.type)
        if path is None:
            continue
        text = f"args.{param}{path}"
        try:
            base = check(parse(text), lowering.scope, text)
            start, offset = text_at(base, lowering.number)
        except (ExprError, NotCompiled):
            # A kernel with other members, or an argument in a place that pads do not find.
            continue
        limit_bytes = text_limit(base, NAME_BYTES)
        if limit_bytes % _WORD_BYTES == 0:
            yield param, Text(Compute("+", start, Imm(offset)) if offset else start, limit_bytes)
