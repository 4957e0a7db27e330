"""Which calls of a trace are shown, and what is added up of them: ``--filter``, ``--errors``, ``--hist``, ..."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fprobe_gdb.errors import BtfError, TypeLookupError, UsageError
from fprobe_gdb.expr import (
    Extractor,
    Filter,
    HitScope,
    Scope,
    compile_filter,
    compile_keys,
    compile_quantity,
    errors_filter,
    min_duration_filter,
    needs_exit,
)
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from fprobe_gdb.output.aggregate_count_by import CountBy
from fprobe_gdb.output.aggregate_histogram import Histogram
from fprobe_gdb.registers import Registers
from fprobe_gdb.session.call_hit import TraceHit

__all__ = ["AskedSum", "Judge", "Questions"]


@dataclass(frozen=True, slots=True)
class Questions:
    """What the user wants to see, as text."""

    filter: str | None = None
    #: None for all calls, empty for any error, or names of errors.
    errors: tuple[str, ...] | None = None
    min_duration: str | None = None
    hist: tuple[str, ...] = ()
    count_by: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self != Questions()


@dataclass(frozen=True, slots=True)
class AskedSum:
    """One ``--hist`` or ``--count-by``: what is taken of each call, and where it is added."""

    text: str
    extractors: dict[int, Extractor[Any]]
    into: Histogram | CountBy
    #: Taken at returns.
    at_exit: bool


class SummedHit(HitScope, Protocol):
    """A hit of which something is added up.

    ``exit_regs`` are None at an entry.
    """

    exit_regs: Registers | None


class Judge:
    """Filters and sums of one trace, compiled for its functions before anything is planted.

    :param ips: the functions, by location.
    :param name_at: location to name.
    :raise ExprError: a text is no expression, or does not fit a function.
    :raise UsageError: something is asked of returns that are not traced.
    """

    def __init__(
        self,
        questions: Questions,
        knowledge: KernelKnowledge,
        ips: Collection[int],
        name_at: Callable[[int], str],
        *,
        entry_only: bool = False,
    ) -> None:
        self._questions = questions
        # Whoever asks nothing need not wait until the types of thousands of functions are read.
        asked = ips if questions else ()
        entries = {ip: _scope(knowledge, name_at(ip), False) for ip in asked}
        exits = {ip: _scope(knowledge, name_at(ip), True) for ip in asked}
        #: The functions that are asked, at both ends of a call.
        self.entries, self.exits = entries, exits
        self.at_entry, self.at_exit = _filters(questions, entries, exits)
        #: What is printed at the end.
        self.aggregates: list[Histogram | CountBy] = []
        #: The same, with what they are made of.
        self.sums: list[AskedSum] = []
        for text in (*questions.hist, *questions.count_by):
            # Behind a filter on returns only returns tell which calls count.
            at_exit = bool(self.at_exit) or needs_exit(text)
            self._add_sum(text, exits if at_exit else entries, at_exit, text in questions.hist)
        #: Calls that a filter kept out.
        self.kept_out = 0
        if entry_only and (self.at_exit or any(one.at_exit for one in self.sums)):
            raise UsageError("--entry-only sees no returns, so nothing can be asked of return values or durations")

    def _add_sum(self, text: str, scopes: Mapping[int, Scope], at_exit: bool, is_hist: bool) -> None:
        if is_hist:
            histogram = Histogram(text)
            self.aggregates.append(histogram)
            extractors: dict[int, Extractor[Any]] = dict(compile_quantity(text, scopes).extractors)
            self.sums.append(AskedSum(text, extractors, histogram, at_exit))
        else:
            keys = compile_keys(text, scopes)
            count_by = CountBy(keys.titles)
            self.aggregates.append(count_by)
            self.sums.append(AskedSum(text, dict(keys.extractors), count_by, at_exit))

    def extend(self, scopes: Mapping[int, Scope]) -> None:
        """Judge more functions: those of a module that is being loaded.

        :param scopes: of their entries, by location.
        :raise ExprError: what is asked does not fit them.
        """
        exits = {ip: replace(scope, is_exit=True) for ip, scope in scopes.items()}
        at_entry, at_exit = _filters(self._questions, scopes, exits)
        if self.at_entry and at_entry:
            self.at_entry = _joined(self.at_entry, at_entry)
        self.at_exit = [_joined(one, more) for one, more in zip(self.at_exit, at_exit, strict=True)]
        for one in self.sums:
            wanted = exits if one.at_exit else scopes
            is_hist = isinstance(one.into, Histogram)
            made = compile_quantity(one.text, wanted) if is_hist else compile_keys(one.text, wanted)
            one.extractors.update(made.extractors)

    def lets_in(self, hit: TraceHit) -> bool:
        """At an entry: whether the call may be shown."""
        passed = self.at_entry is None or self.at_entry.predicates[hit.ip](hit)
        self.kept_out += not passed
        return passed

    def lets_out(self, hit: TraceHit) -> bool:
        """At its exit: whether the call is shown."""
        passed = all(one.predicates[hit.ip](hit) for one in self.at_exit if hit.ip in one.predicates)
        self.kept_out += not passed
        return passed

    def add(self, hit: SummedHit) -> None:
        """Add up what is asked of this end of a call that is shown."""
        for one in self.sums:
            if one.at_exit == (hit.exit_regs is not None):
                one.into.add(one.extractors[hit.ip](hit))

    @property
    def faults(self) -> int:
        """Evaluations that ran into memory which cannot be read; such calls are kept out."""
        filters: Sequence[Filter[int]] = [*self.at_exit, *([self.at_entry] if self.at_entry else [])]
        return sum(one.faults for one in filters)


def _filters(
    questions: Questions, entries: Mapping[int, Scope], exits: Mapping[int, Scope]
) -> tuple[Filter[int] | None, list[Filter[int]]]:
    at_entry: Filter[int] | None = None
    at_exit: list[Filter[int]] = []
    if questions.filter is not None:
        if needs_exit(questions.filter):
            at_exit.append(compile_filter(questions.filter, exits))
        else:
            at_entry = compile_filter(questions.filter, entries)
    if questions.errors is not None:
        at_exit.append(errors_filter(questions.errors, exits))
    if questions.min_duration is not None:
        at_exit.append(min_duration_filter(questions.min_duration, exits))
    return at_entry, at_exit


def _joined(one: Filter[int], more: Filter[int]) -> Filter[int]:
    return Filter(one.text, {**one.predicates, **more.predicates}, {**one.unfit, **more.unfit})


def _scope(knowledge: KernelKnowledge, name: str, is_exit: bool) -> Scope:
    with contextlib.suppress(BtfError):
        with contextlib.suppress(TypeLookupError):
            return Scope(name, knowledge.btf, knowledge.btf.function(name), is_exit)
        return Scope(name, knowledge.btf, None, is_exit)
    return Scope(name, None, None, is_exit)
