"""However a trace ends, its summary is written once, and says how."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from emu.errors import AgentLost, CommandTimeout
from fprobe_gdb.cli import trace as module
from fprobe_gdb.cli.trace_options import Form, What
from fprobe_gdb.errors import GuestPanic, OutputError, SiteNoCode, TargetLost

REQUEST = module._Request(What(("vfs_read",), (), ()), Form("text", False, 0, None), False, 0, None, 10.0, "true")


class FakeTracer:
    def __init__(self) -> None:
        self.summaries: list[tuple[str, int | None]] = []
        self.registered: list[int] = []

    def register(self, ips: list[int], definitions: Sequence[object] = ()) -> None:
        self.registered += ips

    def output(self, data: bytes) -> None:
        pass

    def finish(self, ended: str, status: int | None) -> None:
        self.summaries.append((ended, status))


@pytest.fixture
def outcome(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What follow() does: returns its item, or raises it."""
    box: list[Any] = []

    def fake_follow(*_: object) -> object:
        if isinstance(box[0], BaseException):
            raise box[0]
        return box[0]

    monkeypatch.setattr(module, "start_at_gate", lambda *_: None)
    monkeypatch.setattr(module, "follow", fake_follow)
    return box


class Refused(FakeTracer):
    unregistered = False

    def register(self, ips: list[int], definitions: Sequence[object] = ()) -> None:
        raise SiteNoCode(ips[0])

    def unregister(self) -> None:
        self.unregistered = True


def follow(tracer: FakeTracer) -> None:
    def register() -> Any:
        tracer.register([0x1000])
        return tracer

    module._follow(cast(Any, None), cast(Any, tracer), REQUEST, register)


def test_what_cannot_be_recorded_is_handled(outcome: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """From the moment at which it is refused; there is one summary, and it says why."""
    outcome.append(0)
    why: list[str] = []
    handlers, refused = FakeTracer(), cast(Any, Refused())

    def make(*arguments: Any) -> Any:
        why.append(arguments[-1])
        return handlers

    monkeypatch.setattr(module, "_tracer", make)
    anything = cast(Any, None)
    module._follow(
        anything, refused, REQUEST, lambda: module._record(anything, anything, REQUEST, None, refused, [0x1000], [])
    )
    assert (handlers.registered, handlers.summaries, refused.summaries) == ([0x1000], [("command finished", 0)], [])
    assert why == [SiteNoCode.why]
    assert refused.unregistered


@pytest.mark.parametrize(
    ("status", "summary"), [(0, ("command finished", 0)), (9, ("command finished", 9)), (None, ("max-hits", None))]
)
def test_end_of_its_own_accord(outcome: list[Any], status: int | None, summary: tuple[str, int | None]) -> None:
    outcome.append(status)
    tracer = FakeTracer()
    follow(tracer)
    assert tracer.summaries == [summary]
    assert tracer.registered == [0x1000]


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (CommandTimeout("true", 10, b""), "timeout"),
        (TargetLost("gone"), "guest died"),
        (GuestPanic([]), "guest died"),
        (AgentLost("died"), "guest died"),
        (OutputError("a file", "disk full"), "failed: OutputError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_end_by_an_error(outcome: list[Any], error: BaseException, ended: str) -> None:
    outcome.append(error)
    tracer = FakeTracer()
    with pytest.raises(type(error)) as caught:
        follow(tracer)
    assert caught.value is error
    assert tracer.summaries == [(ended, None)]
