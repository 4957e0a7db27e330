"""What a trace asks of calls, made for pads: :class:`~fprobe_gdb.session.judge.Judge` without Python."""

from __future__ import annotations

from fprobe_gdb.dispatch.trampoline.pad_expr import AllOf, Asked, PadExpr
from fprobe_gdb.errors import BtfError, TypeLookupError
from fprobe_gdb.expr import Filter
from fprobe_gdb.session.guest import Kernel
from fprobe_gdb.session.judge import Judge
from fprobe_gdb.session.lowering import GuestFacts, Lowering, TaskFields

__all__ = ["asked_by", "guest_facts"]


def asked_by(judge: Judge, facts: GuestFacts) -> dict[int, Asked]:
    """What pads ask of each function's calls, by location; but for what is added up (:mod:`.pad_sums`).

    :raise NotCompiled: they cannot.
    """
    asked = {}
    for ip, scope in judge.entries.items():
        entry = _all(Lowering(scope, ip, facts), ip, [judge.at_entry] if judge.at_entry else [])
        leave = _all(Lowering(judge.exits[ip], ip, facts), ip, judge.at_exit)
        asked[ip] = Asked(entry, leave)
    return asked


def _all(lowering: Lowering, ip: int, filters: list[Filter[int]]) -> PadExpr | None:
    conditions = [lowering.number(one.predicates[ip].condition) for one in filters]
    return (conditions[0] if len(conditions) == 1 else AllOf(tuple(conditions))) if conditions else None


def guest_facts(k: Kernel) -> GuestFacts:
    """What there is to know of a stopped guest with trampolines.

    :raise RecordNoTrampolines: it has none.
    """
    try:
        task = k.knowledge.btf.struct("task_struct")
        fields = TaskFields(*(task.find_member(name).byte_offset for name in ("comm", "pid", "tgid")))
    except (BtfError, TypeLookupError):
        return GuestFacts(None, k.tsc_khz, k.open_window())
    return GuestFacts(fields, k.tsc_khz, k.open_window())
