"""``fprobe-gdb attach``: trace a guest that somebody else started."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from fprobe_gdb.cli.exits import ExitCode
from fprobe_gdb.cli.options import kernel_option
from fprobe_gdb.cli.progress import working
from fprobe_gdb.cli.sinks import FORMATS, open_sink
from fprobe_gdb.dispatch.base import RunEnd
from fprobe_gdb.errors import TargetLost
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from fprobe_gdb.session.guest import Kernel
from fprobe_gdb.session.options import BACKENDS, DEFAULT_MAX_SITES, BootOptions
from fprobe_gdb.session.records import ImageRecords
from fprobe_gdb.session.tracer import Tracer, select
from images.progress import Progress

__all__ = ["attach"]


@click.command("attach")
@click.argument("socket", type=click.Path(path_type=Path))
@kernel_option
@click.option(
    "-i", "--include", multiple=True, required=True, metavar="PATTERN", help="Functions to probe; repeatable."
)
@click.option("-x", "--exclude", multiple=True, metavar="PATTERN", help="Functions to leave out; repeatable.")
@click.option("--entry-only", is_flag=True, help="No returns: half the stops.")
@click.option("--max-hits", metavar="N", type=click.IntRange(1), help="Stop after N calls.")
@click.option(
    "--timeout", "timeout_sec", default=10.0, show_default=True, metavar="S", type=float, help="Seconds to trace for."
)
@click.option("--backend", type=click.Choice(BACKENDS), default="rsp", show_default=True, help="As of trace.")
@click.option("--breakpoint", type=click.Choice(("sw", "hw")), default="sw", show_default=True, help="As of trace.")
@click.option(
    "--max-sites",
    default=DEFAULT_MAX_SITES,
    show_default=True,
    metavar="N",
    type=click.IntRange(1),
    help="As of trace.",
)
@click.option(
    "-f", "--format", "format_", type=click.Choice(FORMATS), default="text", show_default=True, help="As of trace."
)
@click.option("-o", "--output", metavar="FILE", help="Write events there instead of standard output.")
def attach(
    socket: Path,
    kernel: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    entry_only: bool,
    max_hits: int | None,
    timeout_sec: float,
    backend: str,
    breakpoint: str,
    max_sites: int,
    format_: str,
    output: str | None,
) -> int:
    """Trace a guest that runs already, through the unix socket of its gdbstub. It runs on when the trace ends.

    The kernel's image is checked against the guest before anything is planted, and KASLR is found.

    Examples:

    \b
    qemu-system-x86_64 ... -gdb unix:/run/user/1000/gdb.sock,server=on,wait=off
    fprobe-gdb attach /run/user/1000/gdb.sock -k ./bzImage -i 'vfs_*'
    """
    options = BootOptions(kernel=kernel, backend=backend, breakpoint=breakpoint, max_sites=max_sites)
    with working("looking for the kernel") as progress:
        path = options.kernel_path(progress)
        progress(Progress("reading the kernel's symbols"))
        knowledge = KernelKnowledge.load(path)
        options.check_sites(len(select(ImageRecords(knowledge), include, exclude)))
    with (
        open_sink(format_, output) as sink,
        Kernel.attach(socket, options=options, knowledge=knowledge) as k,
    ):
        tracer = Tracer(k, sink, entry_only=entry_only, max_hits=max_hits)
        tracer.register(select(k.records, include, exclude))
        _follow(k, tracer, timeout_sec)
    return ExitCode.OK


# Trace for a time, and write the summary however that ends. The end of the time is what was asked for, no failure.
def _follow(k: Kernel, tracer: Tracer, timeout_sec: float) -> None:
    ended = "interrupted"
    try:
        ended = "timeout" if k.run(timeout_sec=timeout_sec) is RunEnd.TIMEOUT else "max-hits"
        k.unregister_fprobe(tracer.fprobe)
    except TargetLost:
        ended = "guest died"
        raise
    finally:
        tracer.finish(ended, None)
