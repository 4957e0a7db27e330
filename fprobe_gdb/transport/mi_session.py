"""Commands to gdb and their answers, pipelined: many commands leave in one write, answers are matched by token."""

from __future__ import annotations

from collections.abc import Sequence

from emu.deadline import Deadline
from fprobe_gdb.errors import TransportTimeout
from fprobe_gdb.transport.mi import MiConversation, MiEvent, MiResult
from fprobe_gdb.transport.process import ProcessLink

__all__ = ["MiSession"]


class MiSession:
    """One gdb.

    :param link: the process.
    :param answer_sec: seconds within which gdb must answer.
    """

    def __init__(self, link: ProcessLink, answer_sec: float) -> None:
        self.link = link
        self._mi = MiConversation()
        self._answer_sec = answer_sec
        self._queued: list[bytes] = []
        self._unanswered: list[MiResult] = []

    def queue(self, command: str) -> MiResult:
        """Send it with the next exchange."""
        result, wire = self._mi.command(command)
        self._queued.append(wire)
        self._unanswered.append(result)
        return result

    def flush(self) -> None:
        """Send what is queued, in one write."""
        queued = b"".join(self._queued)
        self._queued.clear()
        self.link.send(queued)

    def collect(self) -> list[MiResult]:
        """Send what is queued and wait until everything is answered.

        :return: what was not answered before, in order.
        :raise TransportTimeout: when gdb does not answer.
        :raise ConnectionClosed: when it is gone.
        """
        self.flush()
        deadline = Deadline(self._answer_sec)
        while waiting := next((result for result in self._unanswered if result.status is None), None):
            data = self.link.receive(deadline)
            if not data:
                raise TransportTimeout(f"gdb's {waiting.command}", self._answer_sec)
            self._mi.feed(data)
        answered, self._unanswered = self._unanswered, []
        return answered

    def next_event(self, deadline: Deadline, wake: Sequence[int] = ()) -> MiEvent | bytes | None:
        """Wait for a record that gdb sends unasked.

        :return: the record; ``b""`` at the deadline; None when a ``wake`` descriptor became readable.
        """
        while not self._mi.events:
            data = self.link.receive(deadline, wake)
            if not data:
                return data
            self._mi.feed(data)
        return self._mi.events.popleft()

    def take_events(self) -> list[MiEvent]:
        """The records that came unasked so far."""
        events = list(self._mi.events)
        self._mi.events.clear()
        return events

    def close(self) -> None:
        """Kill gdb. May be called twice."""
        self.link.close()
