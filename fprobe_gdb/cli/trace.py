"""``fprobe-gdb trace``: entries and returns of functions while a command runs in the guest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import rich_click as click

from emu.argv import dry_run as argv_dry_run
from emu.deadline import Deadline
from emu.errors import AgentLost, CommandTimeout
from fprobe_gdb.cli.exits import ExitCode
from fprobe_gdb.cli.guest_command import follow, shell_text
from fprobe_gdb.cli.options import boot_options, guest_options, timeout_option
from fprobe_gdb.cli.progress import working
from fprobe_gdb.cli.question_options import question_options
from fprobe_gdb.cli.record_options import record_options
from fprobe_gdb.cli.sinks import open_sink
from fprobe_gdb.cli.trace_options import TraceCommand, call_options, form_options, what_options
from fprobe_gdb.cli.tracing import AnyTracer, Begin, TraceRequest, prepare
from fprobe_gdb.errors import GuestPanic, TargetLost
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from fprobe_gdb.output.base import EventSink
from fprobe_gdb.session.command_gate import start_at_gate
from fprobe_gdb.session.guest import Kernel
from fprobe_gdb.session.options import BootOptions
from fprobe_gdb.session.records import ImageRecords
from images.progress import Progress

__all__ = ["trace"]


# When, beside what.
@dataclass(frozen=True, slots=True)
class _Course:
    command: str
    timeout_sec: float
    from_boot: bool = False


@click.command("trace", cls=TraceCommand)
@what_options
@call_options
@click.option(
    "--from-boot",
    is_flag=True,
    help="Trace the boot too, __init functions among them: from the kernel's first C function on.",
)
@question_options
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
    request = TraceRequest.take(values)
    course = _Course(shell_text(command), **values)
    what, form = request.what, request.form
    if course.from_boot and what.selection.waits:
        raise click.UsageError("--from-boot cannot wait for modules: they are found once the guest is up")
    with working("looking for the kernel") as progress:
        path = options.kernel_path(progress)
        progress(Progress("reading the kernel's symbols"))
        knowledge = KernelKnowledge.load(path)
        records = ImageRecords(knowledge, boot=course.from_boot)
        # What is wrong with a definition or an expression is told before anything boots.
        definitions = what.definitions_in_image(knowledge, records)
        if course.from_boot and any(it.is_tracepoint for it in definitions):
            raise click.UsageError("--from-boot cannot have t: events: the guest has to be up to switch tracepoints on")
        ips = what.locations(records, definitions)
        if options.dispatch == "breakpoint":
            options.check_sites(len(ips))
        judge = request.judge(knowledge, records)
        request.check_events(definitions, knowledge, records)
    if dry_run:
        click.echo(argv_dry_run(options.machine_spec(path)))
        click.echo(f"# {len(ips)} functions: {', '.join(records.name_at(ip) for ip in ips)}")
        if waits := what.selection.waits:
            click.echo(f"# and those of modules, once they are loaded: {', '.join(waits)}")
        return ExitCode.OK
    # An entry about which its return decides is told late.
    ordered = judge is None or not judge.at_exit
    functions, cpus = bool(what.include), lambda: options.smp
    with open_sink(form.format, form.output, cpus, graph=form.graph, functions=functions, ordered=ordered) as sink:
        _trace(options, request, course, knowledge, sink)
    return ExitCode.OK


def _trace(
    options: BootOptions, request: TraceRequest, course: _Course, knowledge: KernelKnowledge, sink: EventSink
) -> None:
    with working("booting the guest") as progress:
        k = Kernel.boot(options=options, knowledge=knowledge, progress=progress, wait=not course.from_boot)
    with k:
        # At the gate the guest's shell is busy, and could not switch tracepoints on.
        tracer, begin = prepare(k, sink, request)
        _follow(k, tracer, course, begin)


# Run until the command or the trace ends, and write the summary, however that is.
def _follow(k: Kernel, tracer: AnyTracer, course: _Course, begin: Begin) -> None:
    ended, status = "interrupted", None
    try:
        if course.from_boot:
            tracer = begin()
            if not k.wait_boot(k.options.boot_timeout_sec):
                ended = "max-hits"
                return
        deadline = Deadline(course.timeout_sec)
        if course.from_boot:
            running = k.start(course.command, keep_output=False)
        else:
            running = start_at_gate(k, course.command, deadline)
            tracer = begin()
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
