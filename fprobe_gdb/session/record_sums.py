"""``--hist`` and ``--count-by`` added up by the host from records that are shown as well: of what is in a record.

That is names, numbers and registers; what pointers lead to has changed when a record is read. Then handlers add up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from fprobe_gdb.dispatch.trampoline.record_format import Record
from fprobe_gdb.errors import NotCompiled
from fprobe_gdb.expr import Scope
from fprobe_gdb.expr.kinds import IntKind, ObjectKind
from fprobe_gdb.expr.typed import (
    Argument,
    Deref,
    Element,
    Field,
    MemberPlace,
    Register,
    RetVal,
    Running,
    StringOf,
    Typed,
)
from fprobe_gdb.kernel.values import argument_places
from fprobe_gdb.registers import ARGUMENT_REGISTERS
from fprobe_gdb.session.call_hit import CallHit
from fprobe_gdb.session.guest import Kernel
from fprobe_gdb.session.judge import Judge
from fprobe_gdb.session.record_values import NO_MEMORY, entry_registers, exit_registers

__all__ = ["RecordHit", "need_recorded"]

_FIELDS = ("func", "comm", "pid", "cpu", "caller", "caller_ip", "duration_ns", "ip")
_TASK_FIELDS = ("comm", "pid")
_WORD_BITS = 64


class RecordHit(CallHit):
    """A :class:`~fprobe_gdb.expr.HitScope` of a record, for sums that :func:`need_recorded` has let pass.

    :param duration_ns: of a return; None at an entry.
    """

    tgid = 0

    def __init__(self, k: Kernel, record: Record, func: str, duration_ns: int | None) -> None:
        entry_regs = entry_registers(record) if record.args else {}
        super().__init__(k, NO_MEMORY, record.ip, func, record.ret_ip, entry_regs)
        self.cpu = record.cpu
        self.task = record.task
        self.comm = record.comm or ""
        self.pid = record.pid or 0
        if duration_ns is not None:
            self.duration_ns = duration_ns
            self.exit_regs = exit_registers(record)


def need_recorded(judge: Judge, *, decided: bool, has_names: bool) -> None:
    """See that records have all that is added up.

    :param decided: a call is recorded at its return, with its arguments.
    :param has_names: records have names and numbers of tasks.
    :raise NotCompiled: they have not.
    """
    for one in judge.sums:
        for ip, extractor in one.extractors.items():
            scope = (judge.exits if one.at_exit else judge.entries)[ip]
            has_args = decided or not one.at_exit
            for part in extractor.parts:
                for node in _walk(part.node):
                    if not _is_recorded(node, scope, has_args, has_names):
                        raise NotCompiled(f"what {one.text!r} adds up is not in records")


def _is_recorded(node: Typed, scope: Scope, has_args: bool, has_names: bool) -> bool:
    match node:
        case MemberPlace() | Element() | Deref() | StringOf() | Running():
            return False
        case Field(name=name):
            return name in _FIELDS and (has_names or name not in _TASK_FIELDS)
        case Register(name=name):
            return name == "ax" if scope.is_exit else name in ARGUMENT_REGISTERS
        case Argument(name=name):
            return has_args and _in_register(scope, name)
        case RetVal(kind=kind):
            return not isinstance(kind, ObjectKind) and not (isinstance(kind, IntKind) and kind.bits > _WORD_BITS)
    return True


def _in_register(scope: Scope, name: str) -> bool:
    assert scope.proto is not None
    number = [param for param, _ in scope.params].index(name)
    return len(list(argument_places(scope.proto))[number].registers) == 1


def _walk(node: Typed) -> Iterator[Typed]:
    yield node
    for field in fields(node):
        below = getattr(node, field.name)
        for one in below if isinstance(below, tuple) else (below,):
            if isinstance(one, Typed):
                yield from _walk(one)
