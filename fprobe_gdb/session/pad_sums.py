"""``--hist`` and ``--count-by`` made for pads: which tables they add to, and what the tables' words mean.

What comes out is what :meth:`.Judge.add` would have added up, hit by hit: the same keys, buckets and figures. Words
that are shown in several ways (``retval`` of functions that return numbers, and of others that return pointers) have a
number for the way beside them in the key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from fprobe_gdb.dispatch.trampoline.pad_expr import Asked, Caller, Imm, Kept, PadExpr, Site, Sum, Task
from fprobe_gdb.dispatch.trampoline.record_format import COMM_BYTES
from fprobe_gdb.dispatch.trampoline.table_counts import HistogramCounts, KeyCounts, TableCounts
from fprobe_gdb.dispatch.trampoline.tables import NEGATIVE, HistogramForm, KeyForm, TableForm
from fprobe_gdb.errors import NotCompiled
from fprobe_gdb.events import Aggregate
from fprobe_gdb.expr import KeyPart
from fprobe_gdb.expr.kinds import IntKind, TextKind
from fprobe_gdb.expr.typed import Field
from fprobe_gdb.output.aggregate import Figures, Part
from fprobe_gdb.output.aggregate_histogram import Histogram
from fprobe_gdb.session.judge import AskedSum, Judge
from fprobe_gdb.session.lowering import GuestFacts, Lowering

__all__ = ["PadSums", "pad_sums"]

_WORD_BYTES = 8
_MOST_KEY_WORDS = 32


# How a part of a key lies in its words. Equal where the same words are shown alike.
@dataclass(frozen=True, slots=True)
class _PartForm:
    #: A name of :data:`_FIELDS`; "" for a number.
    field: str
    words: int
    signed: bool = False
    show: Callable[[int], Part] | None = None


_KeyForm = tuple[_PartForm, ...]


@dataclass(frozen=True, slots=True)
class PadSums:
    """What pads are asked and add up.

    :param asked: by location, the sums among the questions.
    :param aggregates: what :meth:`read` adds to.
    """

    asked: Mapping[int, Asked]
    tables: tuple[TableForm, ...]
    aggregates: tuple[Aggregate, ...]
    _readers: tuple[Callable[[TableCounts, _Names], None], ...]

    @classmethod
    def of_functions(cls, asked: Mapping[int, Asked]) -> PadSums:
        """Nothing but the figures of each function."""
        return cls(asked, (), (), ())

    def read(
        self, counts: TableCounts, func_at: Callable[[int], tuple[str, int]], caller: Callable[[int], str]
    ) -> None:
        """Add what the tables say to the aggregates; once.

        :param func_at: given where a location ends, the function's name and its location.
        :param caller: which function an address belongs to.
        """
        for read in self._readers:
            read(counts, _Names(func_at, caller))


@dataclass(frozen=True, slots=True)
class _Names:
    func_at: Callable[[int], tuple[str, int]]
    caller: Callable[[int], str]


def pad_sums(judge: Judge, facts: GuestFacts, asked: Mapping[int, Asked]) -> PadSums:
    """Let pads add up what is asked.

    :param asked: what else is asked of each call, by location.
    :raise NotCompiled: they cannot.
    """
    made = _Making(judge, facts)
    for one in judge.sums:
        if isinstance(one.into, Histogram):
            made.histogram(one, one.into)
        else:
            made.count_by(one)
    with_sums = {ip: replace(question, sums=tuple(made.sums[ip])) for ip, question in asked.items()}
    return PadSums(with_sums, tuple(made.tables), tuple(judge.aggregates), tuple(made.readers))


class _Making:
    def __init__(self, judge: Judge, facts: GuestFacts) -> None:
        self._judge = judge
        self._facts = facts
        self.tables: list[TableForm] = []
        self.sums: dict[int, list[Sum]] = {ip: [] for ip in judge.entries}
        self.readers: list[Callable[[TableCounts, _Names], None]] = []

    def _lowering(self, one: AskedSum, ip: int) -> Lowering:
        judge = self._judge
        return Lowering((judge.exits if one.at_exit else judge.entries)[ip], ip, self._facts)

    def _table(self, form: TableForm) -> int:
        self.tables.append(form)
        return len(self.tables) - 1

    # Signed and other numbers are compared in different ways, so each have a table.
    def histogram(self, one: AskedSum, into: Histogram) -> None:
        tables: dict[bool, int] = {}
        for ip, extractor in one.extractors.items():
            (part,) = extractor.parts
            signed = _is_signed(part)
            if signed not in tables:
                tables[signed] = self._table(HistogramForm(signed))
            word = self._lowering(one, ip).number(part.node)
            self.sums[ip].append(Sum(tables[signed], (word,), one.at_exit))

        def read(counts: TableCounts, names: _Names) -> None:
            for table in tables.values():
                found = counts.sums[table]
                assert isinstance(found, HistogramCounts)
                of = found.series
                figures = Figures(of.count, of.total, of.least, of.greatest)
                buckets = {-1 if bucket == NEGATIVE else bucket: count for bucket, count in found.of.items()}
                into.merge(buckets, figures, faults=found.faults)

        self.readers.append(read)

    def count_by(self, one: AskedSum) -> None:
        lowered = {ip: self._key(one, ip) for ip in one.extractors}
        forms = list(dict.fromkeys(form for form, _ in lowered.values()))
        longest = max(sum(part.words for part in form) for form in forms)
        # Only where there are several, a key says which it is.
        told = len(forms) > 1
        if longest + told > _MOST_KEY_WORDS:
            raise NotCompiled(f"a key has more than {_MOST_KEY_WORDS * _WORD_BYTES} bytes")
        table = self._table(KeyForm(longest + told))
        numbers = {form: number for number, form in enumerate(forms)}
        for ip, (form, words) in lowered.items():
            key = (*words, *(Imm(0),) * (longest - len(words)), *(Imm(numbers[form]),) * told)
            self.sums[ip].append(Sum(table, key, one.at_exit))

        def read(counts: TableCounts, names: _Names) -> None:
            found = counts.sums[table]
            assert isinstance(found, KeyCounts)
            merged: Counter[tuple[Part, ...]] = Counter()
            for key, count in found.of.items():
                merged[_shown(forms[key[-1] if told else 0], key, names)] += count
            assert not isinstance(one.into, Histogram)
            one.into.merge(merged, other=found.others, faults=found.faults)

        self.readers.append(read)

    def _key(self, one: AskedSum, ip: int) -> tuple[_KeyForm, tuple[PadExpr, ...]]:
        forms: list[_PartForm] = []
        words: list[PadExpr] = []
        for part in one.extractors[ip].parts:
            form, of = self._part(part, self._lowering(one, ip))
            forms.append(form)
            words += of
        return tuple(forms), tuple(words)

    def _part(self, part: KeyPart, lowering: Lowering) -> tuple[_PartForm, tuple[PadExpr, ...]]:
        match part.node:
            case Field(name="func" | "ip" as name):
                return _PartForm(name, 1), (Site(),)
            case Field(name="caller"):
                return _PartForm("caller", 1), (Caller(),)
            case Field(name="comm") if self._facts.task is not None:
                start, offsets = self._facts.task.comm, range(0, COMM_BYTES, _WORD_BYTES)
                return _PartForm("text", len(offsets)), tuple(Kept(Task(), start + at, _WORD_BYTES) for at in offsets)
        if isinstance(part.node.kind, TextKind):
            raise NotCompiled("a key has text that is neither func, comm nor caller")
        return _PartForm("", 1, _is_signed(part), part.show), (lowering.number(part.node),)


def _is_signed(part: KeyPart) -> bool:
    return isinstance(part.node.kind, IntKind) and part.node.kind.signed


def _shown(form: _KeyForm, key: tuple[int, ...], names: _Names) -> tuple[Part, ...]:
    shown: list[Part] = []
    at = 0
    for part in form:
        words = key[at : at + part.words]
        at += part.words
        shown.append(_part_shown(part, words, names))
    return tuple(shown)


def _part_shown(part: _PartForm, words: tuple[int, ...], names: _Names) -> Part:
    match part.field:
        case "func":
            return names.func_at(words[0])[0]
        case "ip":
            return hex(names.func_at(words[0])[1])
        case "caller":
            return names.caller(words[0])
        case "text":
            data = b"".join(word.to_bytes(_WORD_BYTES, "little") for word in words)
            return data.partition(b"\0")[0].decode(errors="backslashreplace")
    assert part.show is not None
    word = words[0]
    return part.show(word - (1 << 64) if part.signed and word >> 63 else word)
