"""``[:[GRP/][EVENT]]``: the names of events, given or made up (``traceprobe_parse_event_name()``, Linux 6.12)."""

from __future__ import annotations

import re

from fprobe_gdb.probe_events.argument import is_good_name
from fprobe_gdb.probe_events.errors import ErrorLog

__all__ = ["auto_name", "parse_names", "split_names"]

#: MAX_EVENT_NAME_LEN less the NUL.
_MAX_NAME_CHARS = 63
_GOOD_GROUP = re.compile(r"[A-Za-z_-][A-Za-z0-9_-]*")
# sanitize_event_name() leaves the first character.
_NOT_IN_AUTO_NAMES = str.maketrans(":.*", "___")


def split_names(text: str) -> tuple[str, str, str]:
    """Group, separator and event of ``GRP/EVENT`` or ``GRP.EVENT``; without a separator all is the event."""
    separator = "/" if "/" in text else "."
    group, found, event = text.partition(separator)
    return (group, found, event) if found else ("", "", text)


def parse_names(text: str, offset: int, log: ErrorLog) -> tuple[str | None, str | None]:
    """Group and event, each None where it is left out.

    :param offset: where the text is in the definition's first word.
    :raise ProbeEventError: one of them is no name.
    """
    group, separator, event = split_names(text)
    if separator:
        if not group:
            raise log.error(offset, "NO_GROUP_NAME")
        if len(group) > _MAX_NAME_CHARS:
            raise log.error(offset, "GROUP_TOO_LONG")
        if not _GOOD_GROUP.fullmatch(group):
            raise log.error(offset, "BAD_GROUP_NAME")
        offset += len(group) + 1
    if not event:
        if separator:
            return group, None
        raise log.error(offset, "NO_EVENT_NAME")
    if len(event) > _MAX_NAME_CHARS:
        raise log.error(offset, "EVENT_TOO_LONG")
    if not is_good_name(event):
        raise log.error(offset, "BAD_EVENT_NAME")
    return group if separator else None, event


def auto_name(symbol: str, *, is_return: bool, is_tracepoint: bool) -> str:
    """The event's name where none is given: ``vfs_read__entry``, ``vfs_read__exit``, ``sched_switch``."""
    if is_tracepoint:
        name = ("_" if symbol[:1] in tuple("0123456789") else "") + symbol
    else:
        name = f"{symbol}__{'exit' if is_return else 'entry'}"
    name = name[:_MAX_NAME_CHARS]
    return name[:1] + name[1:].translate(_NOT_IN_AUTO_NAMES)
