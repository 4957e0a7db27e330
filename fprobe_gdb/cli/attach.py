"""``fprobe-gdb attach``: trace a guest that somebody else started."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import rich_click as click

from fprobe_gdb.cli.exits import ExitCode
from fprobe_gdb.cli.options import answer_option, dispatch_option, kernel_option
from fprobe_gdb.cli.progress import working
from fprobe_gdb.cli.question_options import question_options
from fprobe_gdb.cli.record_options import record_options
from fprobe_gdb.cli.sinks import open_sink
from fprobe_gdb.cli.trace_options import ProbesCommand, call_options, form_options, what_options
from fprobe_gdb.cli.tracing import AnyTracer, Begin, TraceRequest, prepare
from fprobe_gdb.dispatch.base import RunEnd
from fprobe_gdb.errors import InvalidProbe, TargetLost
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from fprobe_gdb.session.guest import Kernel
from fprobe_gdb.session.options import BACKENDS, DEFAULT_MAX_SITES, BootOptions
from fprobe_gdb.session.records import ImageRecords
from fprobe_gdb.session.tracer import Tracer
from images.progress import Progress

__all__ = ["attach"]


@click.command("attach", cls=ProbesCommand)
@click.argument("socket", type=click.Path(path_type=Path))
@click.argument("definitions", nargs=-1, metavar="[EVENT]...")
@kernel_option
@what_options
@call_options
@question_options
@click.option(
    "--timeout", "timeout_sec", default=10.0, show_default=True, metavar="S", type=float, help="Seconds to trace for."
)
@click.option(
    "--qmp",
    metavar="SOCKET",
    type=click.Path(path_type=Path),
    help="The socket of a QMP monitor that nobody else uses: stops cost a fraction then.",
)
@click.option("--backend", type=click.Choice(BACKENDS), default="rsp", show_default=True, help="As of trace.")
@dispatch_option
@click.option("--breakpoint", type=click.Choice(("sw", "hw")), default="sw", show_default=True, help="As of trace.")
@click.option(
    "--max-sites",
    default=DEFAULT_MAX_SITES,
    show_default=True,
    metavar="N",
    type=click.IntRange(1),
    help="As of trace.",
)
@answer_option
@record_options
@form_options
def attach(
    socket: Path,
    kernel: str | None,
    timeout_sec: float,
    qmp: Path | None,
    backend: str,
    dispatch: str,
    breakpoint: str,
    max_sites: int,
    answer_sec: float,
    **values: Any,
) -> int:
    """Trace a guest that runs already, through the unix socket of its gdbstub. It runs on when the trace ends.

    The kernel's image is checked against the guest before anything is planted, and KASLR is found. Trampolines take
    4 MiB of memory, which the guest's kernel lends (36 with many functions or --record, more with more than 8 CPUs),
    and the right to reach QEMU's memory: the same user, or root.

    Examples:

    \b
    qemu-system-x86_64 ... -gdb unix:/run/user/1000/gdb.sock,server=on,wait=off
    fprobe-gdb attach /run/user/1000/gdb.sock -k ./bzImage -i 'vfs_*'
    fprobe-gdb attach gdb.sock --qmp qmp.sock -k 6.1 -i vfs_read --max-hits 10
    fprobe-gdb attach gdb.sock -k ./bzImage -i '*' -f summary --timeout 5
    fprobe-gdb attach gdb.sock -k ./bzImage -i vfs_read -f summary --count-by comm --hist count
    """
    request = TraceRequest.take(values)
    what, form = request.what, request.form
    options = BootOptions(
        kernel=kernel, backend=backend, dispatch=dispatch, breakpoint=breakpoint, max_sites=max_sites,
        answer_sec=answer_sec,
    )  # fmt: skip
    count, ordered = 0, True
    with working("looking for the kernel") as progress:
        path = options.kernel_path(progress)
        progress(Progress("reading the kernel's symbols"))
        knowledge = KernelKnowledge.load(path)
        records = ImageRecords(knowledge)
        definitions = what.definitions_in_image(knowledge, records)
        # What is wrong is told before the guest is stopped, but for names that modules of the guest may have.
        with contextlib.suppress(InvalidProbe):
            count = len(what.locations(records, definitions))
            if dispatch == "breakpoint":
                options.check_sites(count)
            judge = request.judge(knowledge, records)
            ordered = judge is None or not judge.at_exit
            request.check_events(definitions, knowledge, records)
    options = replace(options, recording=request.wants_record(count))
    with (
        open_sink(
            form.format,
            form.output,
            lambda: len(k.target.vcpus),
            graph=form.graph,
            functions=bool(what.include),
            ordered=ordered,
        ) as sink,
        Kernel.attach(socket, qmp=qmp, options=options, knowledge=knowledge, on_note=_tell) as k,
    ):
        _follow(k, *prepare(k, sink, request), timeout_sec)
    return ExitCode.OK


def _tell(note: str) -> None:
    click.echo(f"note: {note}", err=True)


# Trace for a time, and write the summary however that ends. The end of the time is what was asked for, no failure.
def _follow(k: Kernel, tracer: AnyTracer, begin: Begin, timeout_sec: float) -> None:
    ended = "interrupted"
    try:
        tracer = begin()
        ended = "timeout" if k.run(timeout_sec=timeout_sec) is RunEnd.TIMEOUT else "max-hits"
        if isinstance(tracer, Tracer):
            tracer.unregister()
    except TargetLost:
        ended = "guest died"
        raise
    except Exception as error:
        ended = f"failed: {type(error).__name__}"
        raise
    finally:
        tracer.finish(ended, None)
