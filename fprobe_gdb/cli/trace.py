"""``fprobe-gdb trace``: entries and returns of functions while a command runs in the guest."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

import rich_click as click

from emu.agent import RunningCommand
from emu.argv import dry_run as argv_dry_run
from fprobe_gdb.cli.exits import ExitCode
from fprobe_gdb.cli.options import boot_options, guest_options
from fprobe_gdb.cli.progress import reporting, status
from fprobe_gdb.cli.sinks import FORMATS, open_sink
from fprobe_gdb.dispatch.breakpoint import RunEnd
from fprobe_gdb.errors import GuestPanic, TargetLost
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from fprobe_gdb.output.base import EventSink
from fprobe_gdb.session.guest import Kernel
from fprobe_gdb.session.options import BootOptions
from fprobe_gdb.session.records import ImageRecords
from fprobe_gdb.session.tracer import Tracer, select

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


@click.command("trace")
@click.option(
    "-i", "--include", multiple=True, required=True, metavar="PATTERN", help="Functions to probe; repeatable."
)
@click.option("-x", "--exclude", multiple=True, metavar="PATTERN", help="Functions to leave out; repeatable.")
@click.option("--entry-only", is_flag=True, help="No returns: half the stops.")
@click.option(
    "--maxactive",
    "nr_maxactive",
    default=0,
    metavar="N",
    type=click.IntRange(0),
    help="Calls in flight at once; more are missed. [dim]Default: functions x CPUs x 2, as the kernel.[/dim]",
)
@click.option("--max-hits", metavar="N", type=click.IntRange(1), help="Stop after N calls.")
@click.option("--timeout", "timeout_sec", default=600.0, show_default=True, metavar="S", help="For the command.")
@click.option("-f", "--format", "format_", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option("-o", "--output", metavar="FILE", help="Write events there instead of standard output.")
@click.option("--dry-run", is_flag=True, help="Show what would be booted and probed, and do nothing.")
@guest_options
@click.argument("command", nargs=-1, required=True, metavar="-- COMMAND...", type=click.UNPROCESSED)
def trace(command: tuple[str, ...], format_: str, output: str | None, dry_run: bool, **values: Any) -> int:
    """Boot a kernel, run COMMAND in it, and show each entry and return of the functions that match.

    \b
    fprobe-gdb trace -i 'vfs_*' -x '*_iter' -- cat /etc/motd
    fprobe-gdb trace -k ./bzImage -i kernel_clone --smp 2 -f jsonl -o forks.jsonl -- sh -c 'ls | wc'
    fprobe-gdb trace -i vfs_read --entry-only --max-hits 10 --backend rsp -- cat /proc/cpuinfo

    One word after -- is given to the guest's shell as it is; several are quoted, so that the guest sees just these
    words. Hits of all tasks are shown, not of the command's alone.
    """
    options = boot_options(values)
    text = command[0] if len(command) == 1 else shlex.join(command)
    request = _Request(command=text, **values)
    with reporting() as progress:
        path = options.kernel_path(progress)
        with status("reading the kernel's symbols"):
            knowledge = KernelKnowledge.load(path)
            ips = select(ImageRecords(knowledge), request.include, request.exclude)
        if dry_run:
            click.echo(argv_dry_run(options.machine_spec(path, progress=progress)))
            records = ImageRecords(knowledge)
            click.echo(f"# {len(ips)} functions: {', '.join(records.name_at(ip) for ip in ips)}")
            return ExitCode.OK
    with open_sink(format_, output) as sink:
        return _trace(options, request, knowledge, sink)


def _trace(options: BootOptions, request: _Request, knowledge: KernelKnowledge, sink: EventSink) -> ExitCode:
    with reporting() as progress, status("booting the guest"):
        k = Kernel.boot(options=options, knowledge=knowledge, progress=progress)
    with k:
        tracer = Tracer(
            k,
            sink,
            entry_only=request.entry_only,
            nr_maxactive=request.nr_maxactive,
            max_hits=request.max_hits,
        )
        ips = select(k.records, request.include, request.exclude)
        running = k.start(request.command)
        tracer.register(ips)
        return _follow(k, tracer, running, request.timeout_sec)


# Run until the command or the trace ends, however it ends, and write the summary.
def _follow(k: Kernel, tracer: Tracer, running: RunningCommand, timeout_sec: float) -> ExitCode:
    def done() -> bool:
        result = running.poll()
        tracer.output(running.take_output())
        return result is not None

    ended = "guest died"
    code = ExitCode.OK
    try:
        end = k.run(timeout_sec=timeout_sec, until=done)
        k.unregister_fprobe(tracer.fprobe)
        if end is RunEnd.TIMEOUT:
            ended, code = "timeout", ExitCode.TIMEOUT
        else:
            ended = "max-hits" if tracer.full else "command finished"
    except KeyboardInterrupt:
        ended, code = "interrupted", ExitCode.INTERRUPTED
    except (TargetLost, GuestPanic):
        raise
    except BaseException as error:
        ended = f"failed: {type(error).__name__}"
        raise
    finally:
        result = running.poll() if ended == "command finished" else None
        tracer.finish(ended, result.status if result else None)
    return code
