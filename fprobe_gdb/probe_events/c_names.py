"""``VAR->field.field->field`` in a fetch argument: parameters and ``$retval`` by the kernel's own types.

Rules and order of checks are those of ``parse_btf_arg()`` and ``parse_btf_field()`` (kernel/trace/trace_probe.c,
Linux 6.12). What the kernel does is narrower than C: a dot may only follow an arrow, ``[`` is not known.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fprobe_gdb.kernel.btf import CompoundType, PointerType, Type, VoidType
from fprobe_gdb.probe_events.errors import ErrorLog
from fprobe_gdb.probe_events.probe_point import ProbePoint
from fprobe_gdb.probe_events.program import Op, OpKind

if TYPE_CHECKING:
    from fprobe_gdb.probe_events.expression import ExpressionParser

__all__ = ["parse_c_name"]

_SEPARATOR = re.compile(r"->|[.-]")


def parse_c_name(parser: ExpressionParser, at: ProbePoint, text: str) -> None:
    """Add the steps for a variable and its fields to a parser.

    :raise ProbeEventError: there is no such variable or field, or it cannot be reached so.
    """
    log = at.log
    if at.catalog.btf is None:
        raise log.error(parser.offset, "NOSUP_BTFARG", "EOPNOTSUPP")
    name, separator, fields = _split(text, parser.offset, log)
    fields_at = parser.offset + len(name) + len(separator)
    if separator == ".":
        raise log.error(fields_at, "NOSUP_DAT_ARG", "EOPNOTSUPP")
    if at.is_return and name == "$retval":
        parser.push(Op(OpKind.RETVAL))
        if at.proto is None:
            if separator:
                raise log.error(fields_at, "NO_BTF_ENTRY", "ENOENT")
            return
        if isinstance(at.proto.return_type, VoidType):
            raise log.error(parser.offset, "NO_RETVAL", "ENOENT")
        found = at.proto.return_type
    else:
        found = _parameter(parser, at, name)
    parser.last_type = found.resolve()
    parser.last_bit_offset = parser.last_bit_size = 0
    if separator:
        parser.offset = fields_at
        _fields(parser, log, fields)


def _parameter(parser: ExpressionParser, at: ProbePoint, name: str) -> Type:
    if not at.params:
        raise at.log.error(parser.offset, "NO_BTF_ENTRY", "ENOENT")
    for number, param in enumerate(at.params):
        if param.name == name:
            parser.push_argument(number)
            return param.type
    raise at.log.error(parser.offset, "NO_BTFARG", "ENOENT")


# Name, "->" or "." or "" at the end, and the rest.
def _split(text: str, offset: int, log: ErrorLog) -> tuple[str, str, str]:
    found = _SEPARATOR.search(text)
    if found is None:
        return text, "", ""
    if found[0] == "-":
        raise log.error(offset + found.start(), "BAD_HYPHEN")
    return text[: found.start()], found[0], text[found.end() :]


def _fields(parser: ExpressionParser, log: ErrorLog, text: str) -> None:
    found, separator = parser.last_type, "->"
    while separator:
        if not isinstance(found, PointerType):
            raise log.error(parser.offset, "NO_PTR_STRCT")
        found = found.target.resolve()
        bit_offset = 0
        separator = "."
        while separator == ".":
            name, separator, rest = _split(text, parser.offset, log)
            if not isinstance(found, CompoundType):
                raise log.error(parser.offset, "BAD_BTF_TID")
            member = found.flat_members.get(name)
            if member is None:
                raise log.error(parser.offset, "NO_BTF_FIELD", "ENOENT")
            bit_offset += member.bit_offset
            parser.last_bit_size = member.bit_size
            found = member.type.resolve()
            # DIFFERS: behind the last field the kernel's own offset is a difference of unrelated pointers.
            parser.offset += len(name) + len(separator) if separator else 0
            text = rest
        parser.push(Op(OpKind.DEREF, bit_offset // 8))
        parser.last_bit_offset = bit_offset % 8
        parser.last_type = found
