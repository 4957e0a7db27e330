"""However a trace ends, its summary is written once, and says how."""

from __future__ import annotations

from typing import Any, cast

import pytest

from emu.errors import AgentLost, CommandTimeout
from fprobe_gdb.cli import trace as module
from fprobe_gdb.errors import GuestPanic, OutputError, TargetLost

COURSE = module._Course("true", 10.0)


class FakeTracer:
    def __init__(self) -> None:
        self.summaries: list[tuple[str, int | None]] = []
        self.registered: list[int] = []

    def register(self, ips: list[int]) -> None:
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


def follow(tracer: FakeTracer) -> None:
    def register() -> Any:
        tracer.register([0x1000])
        return tracer

    module._follow(cast(Any, None), cast(Any, tracer), COURSE, register)


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
