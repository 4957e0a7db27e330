"""``fprobe-gdb trace``: entries and returns of functions while a command runs in the guest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import rich_click as click

from emu.argv import dry_run as argv_dry_run
from emu.deadline import Deadline
from emu.errors import AgentLost, CommandTimeout
from fprobe_gdb.cli.exits import ExitCode
from fprobe_gdb.cli.guest_command import follow, shell_text
from fprobe_gdb.cli.options import boot_options, guest_options, timeout_option
from fprobe_gdb.cli.progress import working
from fprobe_gdb.cli.record_options import check_recordable, record_options, recordable, should_record
from fprobe_gdb.cli.sinks import open_sink
from fprobe_gdb.cli.trace_options import Form, TraceCommand, What, form_options, what_options
from fprobe_gdb.errors import (
    GuestPanic,
    NotCompiled,
    RecordRefused,
    SiteNoCode,
    SiteNotRecorded,
    TargetLost,
    UsageError,
)
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from fprobe_gdb.output.base import EventSink
from fprobe_gdb.probe_events import EventDefinition
from fprobe_gdb.session.command_gate import start_at_gate
from fprobe_gdb.session.guest import Kernel
from fprobe_gdb.session.judge import Judge, Questions
from fprobe_gdb.session.options import BootOptions
from fprobe_gdb.session.pad_questions import asked_by, guest_facts
from fprobe_gdb.session.pad_sums import PadSums, pad_sums
from fprobe_gdb.session.record_sums import need_recorded
from fprobe_gdb.session.record_tracer import RecordTracer
from fprobe_gdb.session.recorded_events import judge_event, recorded_events
from fprobe_gdb.session.records import ImageRecords
from fprobe_gdb.session.tracer import Tracer
from images.progress import Progress

__all__ = ["trace"]


# What to trace, beside how to boot.
@dataclass(frozen=True, slots=True)
class _Request:
    what: What
    form: Form
    entry_only: bool
    nr_maxactive: int
    max_hits: int | None
    timeout_sec: float
    command: str
    record: bool | None = None
    block: bool = False
    questions: Questions = field(default_factory=Questions)
    from_boot: bool = False

    @property
    def recordable(self) -> bool:
        """Whether all that is asked for can be had without handlers."""
        return recordable(self.what, self.form, events=True)

    @property
    def quiet(self) -> bool:
        """Whether only the end of the trace tells anything of its calls."""
        return self.form.format == "summary"

    @property
    def tracefs(self) -> bool:
        """Whether calls are told in tracefs' words."""
        return self.form.format == "ftrace"

    def wants_record(self, k: Kernel, count: int) -> bool:
        """Whether calls of so many functions should do without handlers, if they can."""
        if self.record is not None or not self.recordable:
            return bool(self.record)
        return should_record(k, count, answered_at_end=bool(self.questions) and self.quiet)

    # Compile the questions for a kernel, at the addresses that its records have.
    def judge(self, knowledge: KernelKnowledge, records: ImageRecords) -> Judge | None:
        if not (self.questions and self.what.include):
            return None
        ips = self.what.functions(records)
        return Judge(self.questions, knowledge, ips, records.name_at, entry_only=self.entry_only)


@click.command("trace", cls=TraceCommand)
@what_options
@click.option("--entry-only", is_flag=True, help="No returns: half the stops.")
@click.option(
    "--maxactive",
    "nr_maxactive",
    default=0,
    metavar="N",
    type=click.IntRange(0),
    help="Calls in flight at once; more are missed. Default: functions x CPUs x 2, as in the kernel.",
)
@click.option(
    "--from-boot",
    is_flag=True,
    help="Trace the boot too, __init functions among them: from the kernel's first C function on.",
)
@click.option("--max-hits", metavar="N", type=click.IntRange(1), help="Stop after N calls.")
@click.option(
    "--filter", metavar="EXPR", help="Only calls for which this holds, e.g. 'count > 512 && comm == \"cat\"'."
)
@click.option("--errors", metavar="NAMES", help="Only calls that return an error: 'any', or names as in ENOENT,EACCES.")
@click.option("--min-duration", metavar="TIME", help="Only calls that take so long, e.g. 5us (guest time).")
@click.option("--hist", multiple=True, metavar="EXPR", help="A histogram at the end, e.g. of count or duration.")
@click.option(
    "--count-by", multiple=True, metavar="EXPR", help="Calls by a key at the end, e.g. comm, or 'comm, retval'."
)
@record_options
@timeout_option
@form_options
@click.option("--dry-run", is_flag=True, help="Show what would be booted and probed, and do nothing.")
@guest_options
@click.argument("command", nargs=-1, metavar="[EVENT]... -- COMMAND...", type=click.UNPROCESSED)
def trace(command: tuple[str, ...], dry_run: bool, **values: Any) -> int:
    """Boot a kernel, run COMMAND in it, and show each entry and return of the functions that match, and each EVENT.

    Examples:

    \b
    fprobe-gdb trace -i 'vfs_*' -x '*_iter' -- cat /etc/motd
    fprobe-gdb trace -i vfs_read --entry-only --max-hits 10 -- cat /proc/stat
    fprobe-gdb trace -i vfs_read --filter 'count > 512' --hist count -- cat /etc/motd
    fprobe-gdb trace 'f:rd vfs_read count' 'f vfs_read%return $retval' -- ls
    fprobe-gdb trace -i 'vfs_*' -f ftrace --graph -o trace.txt -- ls /
    fprobe-gdb trace --module dummy -i '[dummy]' -- 'modprobe dummy && ip link add d0 type dummy'
    fprobe-gdb trace --from-boot -i '*_initcall*' -- true
    fprobe-gdb trace -k 6.12 -i kernel_clone -f jsonl -o forks -- 'ls | wc'

    One word behind -- is given to the guest's shell as it is; several are quoted, so that the guest sees just these
    words. Hits of all tasks are shown, not of the command's alone.

    Patterns are those of register_fprobe(): * ? [a-z] [!a-z] and backslash. 'FUNC [MODULE]' and 'FUNC:mod:MODULE' are
    for functions of a module, which may be loaded later; FUNC may be left out. An EVENT is a definition as tracefs'
    dynamic_events takes it (f[:[GROUP/]NAME] FUNCTION[%return] [ARGUMENT]..., or t[:[GROUP/]NAME] TRACEPOINT
    [ARGUMENT]... where the kernel is 6.5 or later), quoted as one word.
    """
    options = boot_options(values)
    if not command:
        raise click.UsageError("what shall the guest run? Give a command behind --, as in: -- cat /etc/motd")
    request = _request(shell_text(command), values)
    with working("looking for the kernel") as progress:
        path = options.kernel_path(progress)
        progress(Progress("reading the kernel's symbols"))
        knowledge = KernelKnowledge.load(path)
        records = ImageRecords(knowledge, boot=request.from_boot)
        # What is wrong with a definition or an expression is told before anything boots.
        definitions = request.what.definitions_in_image(knowledge, records)
        if request.from_boot and any(it.is_tracepoint for it in definitions):
            raise click.UsageError("--from-boot cannot have t: events: the guest has to be up to switch tracepoints on")
        ips = request.what.locations(records, definitions)
        if options.dispatch == "breakpoint":
            options.check_sites(len(ips))
        judge = request.judge(knowledge, records)
        if request.questions:
            for definition in definitions:
                judge_event(definition, request.questions, knowledge, records)
    if dry_run:
        click.echo(argv_dry_run(options.machine_spec(path)))
        click.echo(f"# {len(ips)} functions: {', '.join(records.name_at(ip) for ip in ips)}")
        if waits := request.what.selection.waits:
            click.echo(f"# and those of modules, once they are loaded: {', '.join(waits)}")
        return ExitCode.OK
    form = request.form
    # An entry about which its return decides is told late.
    ordered = judge is None or not judge.at_exit
    functions = bool(request.what.include)
    with open_sink(form.format, form.output, graph=form.graph, functions=functions, ordered=ordered) as sink:
        _trace(options, request, knowledge, sink)
    return ExitCode.OK


def _trace(options: BootOptions, request: _Request, knowledge: KernelKnowledge, sink: EventSink) -> None:
    with working("booting the guest") as progress:
        k = Kernel.boot(options=options, knowledge=knowledge, progress=progress, wait=not request.from_boot)
    with k:
        # The guest's addresses may be others than the image's, so all is made anew for it.
        ips = request.what.functions(k.records)
        judge = request.judge(k.knowledge, k.records)
        definitions = request.what.definitions(k)
        # At the gate the guest's shell is busy.
        k.tracepoints.switch_on(it.symbol for it in definitions if it.is_tracepoint)
        why_handlers = ""
        if request.wants_record(k, len(ips)):
            try:
                recorder = _recorder(k, sink, request, judge, definitions)
            except NotCompiled as error:
                why_handlers = error.why
            else:
                _follow(k, recorder, request, lambda: _record(k, sink, request, judge, recorder, ips, definitions))
                return
        tracer = _tracer(k, sink, request, judge, why_handlers)

        def register() -> Tracer:
            tracer.register(ips, definitions, request.what.selection)
            return tracer

        _follow(k, tracer, request, register)


# Start to record, or let handlers do it where that is refused. Gives what traces.
def _record(
    k: Kernel,
    sink: EventSink,
    request: _Request,
    judge: Judge | None,
    recorder: RecordTracer,
    ips: list[int],
    definitions: Sequence[EventDefinition],
) -> Tracer | RecordTracer:
    try:
        recorder.register(ips)
    except (RecordRefused, SiteNoCode, SiteNotRecorded) as error:
        recorder.unregister()
        tracer = _tracer(k, sink, request, judge, error.why)
        tracer.register(ips, definitions)
        return tracer
    return recorder


# A tracer with handlers.
def _tracer(k: Kernel, sink: EventSink, request: _Request, judge: Judge | None, why_handlers: str) -> Tracer:
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
    k: Kernel, sink: EventSink, request: _Request, judge: Judge | None, definitions: Sequence[EventDefinition]
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


def _request(command: str, values: dict[str, Any]) -> _Request:
    questions = _questions(values)
    request = _Request(What.take(values), Form.take(values), command=command, questions=questions, **values)
    if request.what.lines and questions and (not request.record or questions.hist or questions.count_by):
        raise click.UsageError(
            "--filter, --errors, --min-duration, --hist and --count-by ask about functions of -i; the first three ask "
            "about events, too, with --record"
        )
    if not request.what.include and (request.entry_only or request.nr_maxactive):
        raise click.UsageError("--entry-only and --maxactive are about functions of -i; an event says 'f16 ...%return'")
    if request.form.graph and request.entry_only:
        raise click.UsageError("--graph draws calls to their returns, which --entry-only leaves out")
    if request.from_boot and request.what.selection.waits:
        raise click.UsageError("--from-boot cannot wait for modules: they are found once the guest is up")
    check_recordable(request.record, request.what, request.form, events=True)
    return request


# Take what is asked of calls out of the command's keywords.
def _questions(values: dict[str, Any]) -> Questions:
    errors: str | None = values.pop("errors")
    return Questions(
        filter=values.pop("filter"),
        errors=None if errors is None else () if errors == "any" else tuple(errors.split(",")),
        min_duration=values.pop("min_duration"),
        hist=values.pop("hist"),
        count_by=values.pop("count_by"),
    )


# Run until the command or the trace ends, and write the summary, however that is. `register` gives what traces then.
def _follow(
    k: Kernel, tracer: Tracer | RecordTracer, request: _Request, register: Callable[[], Tracer | RecordTracer]
) -> None:
    ended, status = "interrupted", None
    try:
        if request.from_boot:
            tracer = register()
            if not k.wait_boot(k.options.boot_timeout_sec):
                ended = "max-hits"
                return
        deadline = Deadline(request.timeout_sec)
        if request.from_boot:
            running = k.start(request.command, keep_output=False)
        else:
            running = start_at_gate(k, request.command, deadline)
            tracer = register()
        status = follow(k, running, deadline, tracer.output)
        ended = "command finished" if status is not None else "max-hits"
    except CommandTimeout:
        ended = "timeout"
        raise
    except (TargetLost, GuestPanic, AgentLost):
        ended = "guest died"
        raise
    except Exception as error:
        ended = f"failed: {type(error).__name__}"
        raise
    finally:
        tracer.finish(ended, status)
