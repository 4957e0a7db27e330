"""What ``trace`` and ``attach`` are asked for, and who does it: pads that record where they can, else handlers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import rich_click as click

from fprobe_gdb.cli.question_options import take_questions
from fprobe_gdb.cli.record_options import RECORD_FROM, check_recordable, recordable
from fprobe_gdb.cli.trace_options import Form, What
from fprobe_gdb.errors import NotCompiled, RecordRefused, SiteNoCode, SiteNotRecorded, UsageError
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from fprobe_gdb.output.base import EventSink
from fprobe_gdb.probe_events import EventDefinition
from fprobe_gdb.session.guest import Kernel
from fprobe_gdb.session.judge import Judge, Questions
from fprobe_gdb.session.pad_questions import asked_by, guest_facts
from fprobe_gdb.session.pad_sums import PadSums, pad_sums
from fprobe_gdb.session.record_sums import need_recorded
from fprobe_gdb.session.record_tracer import RecordTracer
from fprobe_gdb.session.recorded_events import judge_event, recorded_events
from fprobe_gdb.session.records import ImageRecords
from fprobe_gdb.session.tracer import Tracer

__all__ = ["AnyTracer", "Begin", "TraceRequest", "prepare"]

AnyTracer = Tracer | RecordTracer
#: Begins to trace, and gives what does so from then on.
Begin = Callable[[], AnyTracer]


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """What to trace, and how: all that has nothing to do with where the guest comes from."""

    what: What
    form: Form
    entry_only: bool = False
    nr_maxactive: int = 0
    max_hits: int | None = None
    #: None: as it fits best.
    record: bool | None = None
    block: bool = False
    questions: Questions = field(default_factory=Questions)

    @classmethod
    def take(cls, values: dict[str, Any]) -> Self:
        """Take what belongs to it out of a command's keywords.

        :raise click.UsageError: these do not go together.
        """
        names = ("entry_only", "nr_maxactive", "max_hits", "record", "block")
        request = cls(
            What.take(values),
            Form.take(values),
            questions=take_questions(values),
            **{name: values.pop(name) for name in names},
        )
        request._check()
        return request

    def _check(self) -> None:
        what, questions = self.what, self.questions
        if what.lines and questions and (not self.record or questions.hist or questions.count_by):
            raise click.UsageError(
                "--filter, --errors, --min-duration, --hist and --count-by ask about functions of -i; the first three "
                "ask about events, too, with --record"
            )
        if not what.include and (self.entry_only or self.nr_maxactive):
            raise click.UsageError(
                "--entry-only and --maxactive are about functions of -i; an event says 'f16 ...%return'"
            )
        if self.form.graph and self.entry_only:
            raise click.UsageError("--graph draws calls to their returns, which --entry-only leaves out")
        check_recordable(self.record, what, self.form)

    @property
    def quiet(self) -> bool:
        """Whether only the end of the trace tells anything of its calls."""
        return self.form.format == "summary"

    @property
    def tracefs(self) -> bool:
        """Whether calls are told in tracefs' words."""
        return self.form.format == "ftrace"

    def wants_record(self, count: int) -> bool:
        """Whether calls of so many functions should do without handlers, where the guest can have that."""
        if self.record is not None or not recordable(self.what, self.form):
            return bool(self.record)
        return count > RECORD_FROM or (bool(self.questions) and self.quiet)

    def judge(self, knowledge: KernelKnowledge, records: ImageRecords) -> Judge | None:
        """The questions about functions, compiled for a kernel at the addresses that its records have.

        :raise ExprError: one of them is wrong.
        """
        if not (self.questions and self.what.include):
            return None
        ips = self.what.functions(records)
        return Judge(self.questions, knowledge, ips, records.name_at, entry_only=self.entry_only)

    def check_events(
        self, definitions: Sequence[EventDefinition], knowledge: KernelKnowledge, records: ImageRecords
    ) -> None:
        """Check the questions about events.

        :raise ExprError: one of them is wrong.
        """
        if self.questions:
            for definition in definitions:
                judge_event(definition, self.questions, knowledge, records)


def prepare(k: Kernel, sink: EventSink, request: TraceRequest) -> tuple[AnyTracer, Begin]:
    """Choose who traces, and make all ready. The guest is stopped; where there are ``t:`` events it runs meanwhile.

    All is made for the guest's addresses, which may be others than the image's.

    :return: what traces, and what has it begin: some refusals show only then, and another one traces in its place.
    :raise TracepointError: a ``t:`` event cannot be had in this guest.
    """
    definitions = request.what.definitions(k)
    k.tracepoints.switch_on(it.symbol for it in definitions if it.is_tracepoint)
    ips = request.what.functions(k.records)
    judge = request.judge(k.knowledge, k.records)
    why_handlers = ""
    # Without trampolines handlers serve, if there are few functions; that it was asked for is answered in the summary.
    if request.wants_record(len(ips)) and (request.record or k.can_record):
        try:
            recorder = _recorder(k, sink, request, judge, definitions)
        except (NotCompiled, RecordRefused) as error:
            why_handlers = error.why
        else:
            return recorder, lambda: _record(k, sink, request, judge, recorder, ips, definitions)
    tracer = _tracer(k, sink, request, judge, why_handlers)

    def begin() -> Tracer:
        tracer.register(ips, definitions, request.what.selection)
        return tracer

    return tracer, begin


# Start to record, or let handlers do it where that is refused. Gives what traces.
def _record(
    k: Kernel,
    sink: EventSink,
    request: TraceRequest,
    judge: Judge | None,
    recorder: RecordTracer,
    ips: list[int],
    definitions: Sequence[EventDefinition],
) -> AnyTracer:
    try:
        recorder.register(ips)
    except (RecordRefused, SiteNoCode, SiteNotRecorded) as error:
        recorder.unregister()
        tracer = _tracer(k, sink, request, judge, error.why)
        tracer.register(ips, definitions)
        return tracer
    return recorder


# A tracer with handlers.
def _tracer(k: Kernel, sink: EventSink, request: TraceRequest, judge: Judge | None, why_handlers: str) -> Tracer:
    if request.what.lines and request.questions:
        raise UsageError(f"{why_handlers}, so pads cannot do it, and handlers ask nothing of events")
    return Tracer(
        k,
        sink,
        entry_only=request.entry_only,
        nr_maxactive=request.nr_maxactive,
        max_hits=request.max_hits,
        judge=judge,
        stack=request.form.stack,
        tracefs=request.tracefs,
        why_handlers=why_handlers,
    )


# A tracer that does without handlers.
def _recorder(
    k: Kernel, sink: EventSink, request: TraceRequest, judge: Judge | None, definitions: Sequence[EventDefinition]
) -> RecordTracer:
    if request.tracefs and definitions:
        raise NotCompiled("lines of ftrace show events of handlers")
    if request.tracefs and not k.has_types:
        raise NotCompiled("the kernel has no types that tell where lines of ftrace have their flags from")
    if request.tracefs and judge and judge.at_exit:
        raise NotCompiled("lines of ftrace have flags from the entry, which nobody keeps where the return decides")
    if request.quiet and request.max_hits:
        raise NotCompiled("--max-hits with -f summary has to look at each call")
    facts = guest_facts(k) if judge else None
    asked = asked_by(judge, facts) if judge and facts else None
    sums = None
    if judge and facts and asked and judge.sums:
        if request.quiet:
            sums = pad_sums(judge, facts, asked)
        else:
            need_recorded(judge, decided=bool(judge.at_exit), has_names=facts.task is not None)
    elif request.quiet:
        # Where only the figures of functions are asked for, no record is needed for them, so none can get lost.
        sums = PadSums.of_functions(asked or {})
    return RecordTracer(
        k,
        sink,
        entry_only=request.entry_only,
        nr_maxactive=request.nr_maxactive,
        max_hits=request.max_hits,
        quiet=request.quiet,
        block=request.block,
        tracefs=request.tracefs,
        asked=asked,
        sums=sums,
        judge=judge if judge and judge.sums and not sums else None,
        events=recorded_events(k, definitions, request.questions) if definitions else (),
        names=True,
    )
