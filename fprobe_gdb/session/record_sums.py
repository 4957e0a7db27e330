"""``--hist`` and ``--count-by`` added up by the host from records that are shown as well: of what is in a record.

That is names, numbers and registers; what pointers lead to has changed when a record is read. Then handlers add up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cached_property

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
from fprobe_gdb.kernel.values import GuestMemory, Value, argument_places, arguments, return_value
from fprobe_gdb.registers import ARGUMENT_REGISTERS, Registers
from fprobe_gdb.session.guest import Kernel
from fprobe_gdb.session.judge import Judge

__all__ = ["RecordHit", "need_recorded"]

_FIELDS = ("func", "comm", "pid", "cpu", "caller", "caller_ip", "duration_ns", "ip")
_TASK_FIELDS = ("comm", "pid")
_WORD_BITS = 64


class RecordHit:
    """A :class:`~fprobe_gdb.expr.HitScope` of a record, for sums that :func:`need_recorded` has let pass.

    :param ip: the location.
    :param duration_ns: of a return.
    """

    epoch = 0
    tgid = 0

    def __init__(
        self, k: Kernel, memory: GuestMemory, record: Record, ip: int, func: str, duration_ns: int | None
    ) -> None:
        self._k = k
        self._record = record
        self.memory = memory
        self.ip = ip
        self.func = func
        self.caller_ip = record.ret_ip
        self.cpu = record.cpu
        self.task = record.task
        self.comm = record.comm or ""
        self.pid = record.pid or 0
        self.duration_ns = duration_ns or 0
        is_exit = duration_ns is not None
        #: As of a :class:`~fprobe_gdb.session.judge.TraceHit`.
        self.exit_regs: Registers | None = {"ax": record.retval, "dx": 0} if is_exit else None

    @property
    def regs(self) -> Mapping[str, int]:
        """The registers of this end of the call that are recorded."""
        return self.exit_regs or dict(zip(ARGUMENT_REGISTERS, self._record.args, strict=True))

    @cached_property
    def args(self) -> Mapping[str, Value]:
        """The arguments."""
        proto = self._k.prototype_at(self.ip)
        if proto is None:
            return {}
        regs = dict(zip(ARGUMENT_REGISTERS, self._record.args, strict=True)) | {"sp": 0}
        return arguments(self._k.btf_at(self.ip), proto, regs, self.memory)

    @cached_property
    def retval(self) -> Value | int | None:
        """The return value; None at an entry."""
        if self.exit_regs is None:
            return None
        proto = self._k.prototype_at(self.ip)
        if proto is None:
            return self._record.retval
        return return_value(self._k.btf_at(self.ip), proto, self.exit_regs, self.memory)

    @property
    def caller(self) -> str:
        """The calling function's name."""
        return self._k.function_name(self.caller_ip)


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
