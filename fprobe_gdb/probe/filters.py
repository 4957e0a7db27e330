"""``ftrace_set_filter()`` for fprobes: a pattern to a set of ftrace locations (kernel/trace/ftrace.c, Linux 6.12)."""

from __future__ import annotations

import re

from fprobe_gdb.errors import InvalidProbe, ProbeNotFound
from fprobe_gdb.probe.glob import MatchType, has_meta, matcher, parse_filter
from fprobe_gdb.probe.records import FtraceRecords

__all__ = ["match_filter", "resolve_ips", "resolve_syms"]


def match_filter(records: FtraceRecords, pattern: str, *, what: str = "filter", any_function: bool = False) -> set[int]:
    """The locations that one ``filter`` or ``notfilter`` pattern of ``register_fprobe()`` selects.

    :param what: the argument's name, for messages.
    :param any_function: also accept exact names of functions without an ftrace record (FPROBE_FL_ANY_FUNCTION).
    :raise InvalidProbe: when nothing matches, or the pattern begins with ``!``.
    """
    parsed = parse_filter(pattern)
    if parsed.negated:
        # DIFFERS: Linux 6.12 takes "!name" without exit handler as "every function of the kernel"; older ones and
        # the newest answer -EINVAL, which is what we do.
        raise InvalidProbe(f"{what} {pattern!r} begins with '!'; use notfilter to exclude functions")
    if parsed.type is MatchType.INDEX:
        ips = _match_index(records, parsed.search)
    else:
        matches = matcher(parsed)
        ips = {record.ip for record in records.records if matches(record.name)} if pattern else set()
    if not ips and any_function and not has_meta(pattern):
        record = records.first_insn(pattern)
        ips = {record.ip} if record else set()
    if not ips:
        raise _no_match(records, pattern, what)
    return ips


# What kstrtoul(..., 0) reads: hexadecimal, octal or decimal digits and at most one newline behind them. Python's int()
# also reads spaces, underscores, "0b1" and the digits of all scripts. 20 decimal digits are the longest unsigned long.
_INDEX = re.compile(r"(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]{0,19}))\n?")


# "MATCH_INDEX": the Nth line of available_filter_functions, counted from 1.
def _match_index(records: FtraceRecords, text: str) -> set[int]:
    read = _INDEX.fullmatch(text)
    if read is None:
        return set()
    hexadecimal, octal, decimal = read.groups()
    index = int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(decimal)
    record = records.by_index(index)
    return {record.ip} if record else set()


def _no_match(records: FtraceRecords, pattern: str, what: str) -> InvalidProbe:
    near: tuple[str, ...] = ()
    if not pattern:
        text = f"{what} is empty"
    elif not has_meta(pattern) and (why := records.why_not(pattern)):
        text = f"{what} {pattern!r} matches no traceable function: {why}"
    else:
        text = f"{what} {pattern!r} matches no traceable function"
    if pattern and not records.addresses(pattern):
        near = tuple(records.near(pattern))
        if near and "did you mean" not in text:
            text += f"; did you mean {', '.join(near)}?"
    error = InvalidProbe(text)
    error.near, error.no_match = near, True
    return error


def resolve_ips(records: FtraceRecords, addrs: list[int], *, any_function: bool = False) -> set[int]:
    """The locations of ``register_fprobe_ips()``; duplicates merge.

    :param any_function: also accept first instructions of functions without an ftrace record (FPROBE_FL_ANY_FUNCTION).
    :raise InvalidProbe: when an address is neither a traceable function's start nor inside its fentry instruction.
    """
    ips = set()
    for addr in addrs:
        ip = records.ftrace_location(addr)
        if not ip and any_function and records.is_first_insn(addr):
            ip = addr
        if not ip:
            raise InvalidProbe(f"{addr:#x} is not an ftrace location; give a function's start or its fentry site")
        ips.add(ip)
    return ips


def resolve_syms(records: FtraceRecords, syms: list[str]) -> list[int]:
    """The addresses of ``register_fprobe_syms()``, in the order of the names, which the caller has sorted.

    :raise ProbeNotFound: when a name is unknown, untraceable or given twice.
    """
    addrs = []
    for i, name in enumerate(syms):
        # The kernel counts found names and stops at the number of names, which a name given twice never reaches.
        if i and syms[i - 1] == name:
            raise ProbeNotFound(f"symbol {name!r} is given twice")
        found = [addr for addr in records.addresses(name) if records.ftrace_location(addr)]
        if not found:
            near = () if records.addresses(name) else tuple(records.near(name))
            error = ProbeNotFound(f"symbol {name!r}: {records.why_not(name) or 'not traceable'}")
            error.near = near
            raise error
        addrs.append(found[0])
    return addrs
