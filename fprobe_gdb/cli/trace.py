"""``fprobe-gdb trace``: entries and returns of functions while a command runs in the guest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import rich_click as click

from emu.argv import dry_run as argv_dry_run
from emu.deadline import Deadline
from emu.errors import AgentLost, CommandTimeout
from fprobe_gdb.cli.exits import ExitCode
from fprobe_gdb.cli.guest_command import TakesGuestCommand, follow, shell_text
from fprobe_gdb.cli.options import boot_options, guest_options, timeout_option
from fprobe_gdb.cli.progress import working
from fprobe_gdb.cli.sinks import FORMATS, open_sink
from fprobe_gdb.errors import GuestPanic, TargetLost
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from fprobe_gdb.output.base import EventSink
from fprobe_gdb.session.command_gate import start_at_gate
from fprobe_gdb.session.guest import Kernel
from fprobe_gdb.session.judge import Judge, Questions
from fprobe_gdb.session.options import BootOptions
from fprobe_gdb.session.records import ImageRecords
from fprobe_gdb.session.tracer import Tracer, select
from images.progress import Progress

__all__ = ["trace"]


# What to trace, beside how to boot.
@dataclass(frozen=True, slots=True)
class _Request:
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    entry_only: bool
    nr_maxactive: int
    max_hits: int | None
    timeout_sec: float
    command: str
    questions: Questions = field(default_factory=Questions)


@click.command("trace", cls=TakesGuestCommand)
@click.option(
    "-i", "--include", multiple=True, required=True, metavar="PATTERN", help="Functions to probe; may be repeated."
)
@click.option("-x", "--exclude", multiple=True, metavar="PATTERN", help="Functions to leave out; may be repeated.")
@click.option("--entry-only", is_flag=True, help="No returns: half the stops.")
@click.option(
    "--maxactive",
    "nr_maxactive",
    default=0,
    metavar="N",
    type=click.IntRange(0),
    help="Calls in flight at once; more are missed. Default: functions x CPUs x 2, as in the kernel.",
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
@timeout_option
@click.option(
    "-f",
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    default="text",
    show_default=True,
    help="Lines for people, or JSON objects for programs.",
)
@click.option("-o", "--output", metavar="FILE", help="Write events there instead of standard output.")
@click.option("--dry-run", is_flag=True, help="Show what would be booted and probed, and do nothing.")
@guest_options
@click.argument("command", nargs=-1, metavar="-- COMMAND...", type=click.UNPROCESSED)
def trace(command: tuple[str, ...], format_: str, output: str | None, dry_run: bool, **values: Any) -> int:
    """Boot a kernel, run COMMAND in it, and show each entry and return of the functions that match.

    Examples:

    \b
    fprobe-gdb trace -i 'vfs_*' -x '*_iter' -- cat /etc/motd
    fprobe-gdb trace -i vfs_read --entry-only --max-hits 10 -- cat /proc/stat
    fprobe-gdb trace -i vfs_read --filter 'count > 512' --hist count -- cat /etc/motd
    fprobe-gdb trace -k 6.12 -i kernel_clone -f jsonl -o forks -- 'ls | wc'

    One word behind -- is given to the guest's shell as it is; several are quoted, so that the guest sees just these
    words. Hits of all tasks are shown, not of the command's alone.

    Patterns are those of register_fprobe(): * ? [a-z] [!a-z] and backslash.
    """
    options = boot_options(values)
    if not command:
        raise click.UsageError("what shall the guest run? Give a command behind --, as in: -- cat /etc/motd")
    request = _Request(command=shell_text(command), questions=_questions(values), **values)
    with working("looking for the kernel") as progress:
        path = options.kernel_path(progress)
        progress(Progress("reading the kernel's symbols"))
        knowledge = KernelKnowledge.load(path)
        records = ImageRecords(knowledge)
        ips = select(records, request.include, request.exclude)
        if options.dispatch == "breakpoint":
            options.check_sites(len(ips))
        # What is wrong with an expression is told before anything boots.
        Judge(request.questions, knowledge, ips, records.name_at, entry_only=request.entry_only)
    if dry_run:
        click.echo(argv_dry_run(options.machine_spec(path)))
        click.echo(f"# {len(ips)} functions: {', '.join(records.name_at(ip) for ip in ips)}")
        return ExitCode.OK
    with open_sink(format_, output) as sink:
        _trace(options, request, knowledge, sink)
    return ExitCode.OK


def _trace(options: BootOptions, request: _Request, knowledge: KernelKnowledge, sink: EventSink) -> None:
    with working("booting the guest") as progress:
        k = Kernel.boot(options=options, knowledge=knowledge, progress=progress)
    with k:
        # The guest's addresses may be others than the image's, so this is made anew for it.
        ips = select(k.records, request.include, request.exclude)
        judge = None
        if request.questions:
            judge = Judge(request.questions, k.knowledge, ips, k.records.name_at, entry_only=request.entry_only)
        tracer = Tracer(
            k,
            sink,
            entry_only=request.entry_only,
            nr_maxactive=request.nr_maxactive,
            max_hits=request.max_hits,
            judge=judge,
        )
        _follow(k, tracer, request, ips)


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


# Run until the command or the trace ends, and write the summary, however that is.
def _follow(k: Kernel, tracer: Tracer, request: _Request, ips: Sequence[int]) -> None:
    ended, status = "interrupted", None
    try:
        deadline = Deadline(request.timeout_sec)
        running = start_at_gate(k, request.command, deadline)
        tracer.register(ips)
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
