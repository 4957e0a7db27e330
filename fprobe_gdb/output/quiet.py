"""Everything but calls: what the guest says, and the summary."""

from __future__ import annotations

from fprobe_gdb.events import ConsoleEvent, SummaryEvent
from fprobe_gdb.output.base import AnyEvent, EventSink

__all__ = ["Quiet"]


class Quiet:
    """Passes on to another output what belongs to no call.

    :param sink: the other output.
    """

    def __init__(self, sink: EventSink) -> None:
        self._sink = sink

    def write(self, event: AnyEvent) -> None:
        """See :meth:`.base.EventSink.write`."""
        if isinstance(event, ConsoleEvent | SummaryEvent):
            self._sink.write(event)

    def close(self) -> None:
        """See :meth:`.base.EventSink.close`."""
        self._sink.close()
