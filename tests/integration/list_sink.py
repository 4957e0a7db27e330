"""A sink that keeps its events."""

from __future__ import annotations

from fprobe_gdb.output.base import AnyEvent

__all__ = ["ListSink"]


class ListSink:
    """Keeps the events."""

    def __init__(self) -> None:
        self.events: list[AnyEvent] = []

    def write(self, event: AnyEvent) -> None:
        self.events.append(event)

    def close(self) -> None:
        pass
