"""Definitions of probe events as a user gives them: words of a command line, lines of files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fprobe_gdb.errors import InvalidProbe, UsageError
from fprobe_gdb.probe.filters import match_filter
from fprobe_gdb.probe.records import FtraceRecords
from fprobe_gdb.probe_events import EventDefinition, ProbeEventError, ProbeEvents

__all__ = ["DefinitionLine", "DefinitionRefused", "define", "lines_of", "locations_of"]


@dataclass(frozen=True, slots=True)
class DefinitionLine:
    """A line as ``dynamic_events`` takes them: a definition, a removal, a comment, or nothing."""

    text: str
    #: ``"FILE:3: "``; "" for the command line.
    origin: str = ""


class DefinitionRefused(UsageError):
    """The kernel would not accept a definition, or cannot probe its tracepoint. ``str()`` is as in ``error_log``."""

    def __init__(self, line: DefinitionLine, error: ProbeEventError) -> None:
        reason = error.__cause__
        why = [str(reason)] if isinstance(reason, InvalidProbe) else []
        super().__init__(line.origin + "\n".join([*map(str, (error, *error.later)), *why]))
        self.error = error
        #: Only its function was not found.
        self.no_match = isinstance(reason, InvalidProbe) and reason.no_match


def lines_of(text: str, name: str) -> list[DefinitionLine]:
    """The lines of a file.

    :param name: of the file, for messages.
    """
    return [DefinitionLine(line, f"{name}:{number}: ") for number, line in enumerate(text.split("\n"), 1)]


def define(events: ProbeEvents, lines: Iterable[DefinitionLine]) -> ProbeEvents:
    """Add lines to a list of events, and return it.

    :raise DefinitionRefused: for the first that is wrong.
    :raise UsageError: for one that is no text.
    """
    for line in lines:
        try:
            # Bytes that are no UTF-8 have come here as surrogates.
            line.text.encode()
            events.add(line.text)
        except UnicodeEncodeError:
            raise UsageError(f"{line.origin}{line.text!a} is no text in UTF-8") from None
        except ProbeEventError as error:
            raise DefinitionRefused(line, error) from error
    return events


def locations_of(records: FtraceRecords, definitions: Iterable[EventDefinition]) -> Sequence[int]:
    """The ftrace locations of all definitions together, ascending."""
    any_function = not records.records
    ips = (match_filter(records, it.function, any_function=any_function) for it in definitions)
    return sorted(set[int]().union(*ips))
