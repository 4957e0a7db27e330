"""``fprobe-gdb list``: what can be probed, and why the rest cannot. No guest is booted."""

from __future__ import annotations

import contextlib

import rich_click as click

from fprobe_gdb.cli.list_modules import module_lines
from fprobe_gdb.cli.options import kernel_option
from fprobe_gdb.cli.progress import working
from fprobe_gdb.errors import BtfError, InvalidProbe, TypeLookupError
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from fprobe_gdb.probe.filters import match_filter
from fprobe_gdb.probe.glob import MatchType, matcher, parse_filter
from fprobe_gdb.probe.module_patterns import parse_module_pattern
from fprobe_gdb.session.options import BootOptions
from fprobe_gdb.session.records import ImageRecords
from images.progress import Progress

__all__ = ["list_"]


@click.command("list")
@click.option("-v", "--verbose", is_flag=True, help="Prototypes; also what cannot be probed, and why.")
@kernel_option
@click.argument("patterns", nargs=-1, required=True, metavar="PATTERN...")
def list_(verbose: bool, kernel: str | None, patterns: tuple[str, ...]) -> None:
    """Show the functions that match, with their ftrace location and the kind of site.

    Examples:

    \b
    fprobe-gdb list 'vfs_*'
    fprobe-gdb list -v schedule __schedule 'preempt_schedule*'
    fprobe-gdb list -k 6.12 'tcp_v[46]_rcv'
    fprobe-gdb list -v 'dummy_* [dummy]'

    Patterns are those of register_fprobe(): * ? [a-z] [!a-z] and backslash. 'FUNC [MODULE]' and 'FUNC:mod:MODULE' are
    read from the module's file; what stands for the location then is the place in that.
    """
    with working("looking for the kernel") as progress:
        path = BootOptions(kernel=kernel).kernel_path(progress)
        progress(Progress("reading the kernel's symbols"))
        knowledge = KernelKnowledge.load(path)
        knowledge.locations  # noqa: B018  (made at its first use, which takes a second)
    records = ImageRecords(knowledge)
    ips: set[int] = set()
    untraceable: dict[str, str] = {}
    unmatched: list[InvalidProbe] = []
    for pattern in patterns:
        if module_pattern := parse_module_pattern(pattern):
            try:
                for line in module_lines(module_pattern, kernel, knowledge, verbose):
                    click.echo(line)
            except InvalidProbe as error:
                unmatched.append(error)
            continue
        reasons = _untraceable(knowledge, pattern) if verbose else {}
        untraceable |= reasons
        try:
            ips |= match_filter(records, pattern, what="pattern", any_function=True)
        except InvalidProbe as error:
            if not reasons:
                unmatched.append(error)
    for ip in sorted(ips):
        location = records.location_at(ip)
        assert location is not None
        click.echo(f"{ip:016x}  {location.kind.value:<11} {_text(knowledge, location.name, verbose)}")
    for name, why in sorted(untraceable.items()):
        click.echo(f"{'-':>16}  {'-':<11} {name}: {why}")
    if unmatched:
        raise _together(unmatched)


# The function's name, or its C prototype where that is wanted and known.
def _text(knowledge: KernelKnowledge, name: str, verbose: bool) -> str:
    if verbose:
        with contextlib.suppress(BtfError, TypeLookupError):
            return f"{knowledge.btf.function(name)}"
    return name


# Symbols that match and have no location of their own. Aliases of a traceable function are reached by its first name.
def _untraceable(knowledge: KernelKnowledge, pattern: str) -> dict[str, str]:
    parsed = parse_filter(pattern)
    if parsed.type is MatchType.INDEX:
        return {}
    matches = matcher(parsed)
    names = {symbol.name for symbol in knowledge.symbols if matches(symbol.name)}
    reasons = {name: knowledge.locations.why_not(name) for name in names}
    return {name: why for name, why in reasons.items() if why}


def _together(errors: list[InvalidProbe]) -> InvalidProbe:
    error = InvalidProbe("; ".join(str(one.args[0]) for one in errors))
    error.no_match = True
    return error
