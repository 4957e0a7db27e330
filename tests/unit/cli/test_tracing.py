"""Who traces: what cannot be recorded is handled, from the moment at which that is known; and the summary says why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from fprobe_gdb.cli import tracing as module
from fprobe_gdb.cli.trace_options import Form, What
from fprobe_gdb.errors import (
    FprobeGdbError,
    NotCompiled,
    RecordNoNodes,
    RecordNoRing,
    RecordNoTables,
    RecordNoTrampolines,
    RecordTooMany,
    SiteEntryCode,
    SiteNoCode,
    SiteNotRecorded,
)
from fprobe_gdb.session.judge import Questions

IP = 0x1000
REFUSALS: list[NotCompiled | RecordNoRing | SiteNoCode | SiteNotRecorded] = [
    RecordNoRing(2),
    RecordTooMany(63),
    RecordNoNodes(),
    RecordNoTables(),
    SiteNoCode(IP),
    SiteNotRecorded(IP),
]
UNCOMPILED = [NotCompiled("a key has text"), RecordNoTrampolines("there are none", "boot it otherwise")]


class FakeWhat:
    """One function, and nothing else."""

    include = ("vfs_read",)
    lines = ()
    selection = What(("vfs_read",), (), ()).selection

    def functions(self, records: object) -> list[int]:
        return [IP]

    def definitions(self, k: object) -> list[object]:
        return []


class FakeKernel:
    can_record = True
    records = knowledge = None

    class tracepoints:
        @staticmethod
        def switch_on(names: object) -> None:
            pass


class FakeTracer:
    def __init__(self, refusal: Exception | None = None) -> None:
        self.refusal = refusal
        self.registered: list[int] = []
        self.unregistered = False

    def register(self, ips: list[int], definitions: Sequence[object] = (), selection: object = None) -> None:
        if self.refusal:
            raise self.refusal
        self.registered += ips

    def unregister(self) -> None:
        self.unregistered = True


class Stage:
    """Fake tracers of both kinds, and why handlers were taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, made: Exception | None, begun: Exception | None) -> None:
        self.recorder, self.handlers = FakeTracer(begun), FakeTracer()
        self.why: list[str] = []

        def recorder(*_: object) -> FakeTracer:
            if made:
                raise made
            return self.recorder

        def handlers(*arguments: Any) -> FakeTracer:
            self.why.append(arguments[-1])
            return self.handlers

        monkeypatch.setattr(module, "_recorder", recorder)
        monkeypatch.setattr(module, "_tracer", handlers)

    def begin(self, record: bool | None = True, k: object = None) -> object:
        form = Form("text", False, 0, None)
        request = module.TraceRequest(cast(Any, FakeWhat()), form, record=record)
        _, begin = module.prepare(cast(Any, k or FakeKernel()), cast(Any, None), request)
        return begin()


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
def test_what_is_refused_is_handled(monkeypatch: pytest.MonkeyPatch, error: Any) -> None:
    stage = Stage(monkeypatch, made=None, begun=error)
    assert stage.begin() is stage.handlers
    assert (stage.handlers.registered, stage.why, stage.recorder.unregistered) == ([IP], [error.why], True)


@pytest.mark.parametrize("error", UNCOMPILED, ids=lambda error: type(error).__name__)
def test_what_cannot_be_made_is_handled(monkeypatch: pytest.MonkeyPatch, error: Any) -> None:
    stage = Stage(monkeypatch, made=error, begun=None)
    assert stage.begin() is stage.handlers
    assert (stage.handlers.registered, stage.why) == ([IP], [error.why])


@pytest.mark.parametrize("error", [SiteEntryCode(IP), FprobeGdbError("anything")], ids=str)
def test_what_handlers_cannot_do_either_is_told(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    stage = Stage(monkeypatch, made=None, begun=error)
    with pytest.raises(type(error)) as caught:
        stage.begin()
    assert caught.value is error
    assert stage.why == []


def test_few_functions_are_handled_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, made=None, begun=None)
    assert stage.begin(record=None) is stage.handlers
    assert stage.begin(record=True) is stage.recorder
    assert stage.why == [""]


@pytest.mark.parametrize(
    ("count", "form", "questions", "wanted"),
    [
        (500, "text", Questions(), False),
        (501, "text", Questions(), True),
        (1, "summary", Questions(), False),
        (1, "summary", Questions(hist=("count",)), True),
        (1, "jsonl", Questions(hist=("count",)), False),
    ],
)
def test_when_recording_is_wanted(count: int, form: str, questions: Questions, wanted: bool) -> None:
    request = module.TraceRequest(What(("x",), (), ()), Form(form, False, 0, None), questions=questions)
    assert request.wants_record(count) is wanted
