"""``fprobe-gdb list``: what can be probed, and why the rest cannot. No guest is booted."""

from __future__ import annotations

import rich_click as click

from fprobe_gdb.cli.options import kernel_option
from fprobe_gdb.cli.progress import reporting
from fprobe_gdb.errors import InvalidProbe
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from fprobe_gdb.kernel.locations import Location
from fprobe_gdb.probe.glob import MatchType, matcher, parse_filter
from fprobe_gdb.session.options import BootOptions
from fprobe_gdb.session.records import ImageRecords

__all__ = ["list_"]


@click.command("list")
@click.option("-v", "--verbose", is_flag=True, help="Also what cannot be probed, and why.")
@kernel_option
@click.argument("patterns", nargs=-1, required=True, metavar="PATTERN...")
def list_(verbose: bool, kernel: str | None, patterns: tuple[str, ...]) -> None:
    """Show the functions that match, with their ftrace location and the kind of site.

    \b
    fprobe-gdb list 'vfs_*'
    fprobe-gdb list -v schedule __schedule 'preempt_schedule*'
    fprobe-gdb list -k 6.12 'tcp_v[46]_rcv'

    Patterns are those of register_fprobe(): * ? [a-z] [!a-z] and backslash.
    """
    with reporting() as progress:
        path = BootOptions(kernel=kernel).kernel_path(progress)
        knowledge = KernelKnowledge.load(path)
    found: dict[int, Location] = {}
    untraceable: dict[str, str] = {}
    for pattern in patterns:
        found |= {record.ip: record for record in _matching(knowledge, pattern)}
        if verbose:
            untraceable |= _untraceable(knowledge, pattern)
    for ip in sorted(found):
        location = found[ip]
        click.echo(f"{ip:016x}  {location.kind.value:<11} {location.name}")
    for name, why in sorted(untraceable.items()):
        click.echo(f"{'-':>16}  {'-':<11} {name}: {why}")
    if not found and not untraceable:
        raise _nothing(knowledge, patterns)


def _matching(knowledge: KernelKnowledge, pattern: str) -> list[Location]:
    parsed = parse_filter(pattern)
    if parsed.type is MatchType.INDEX:
        return []
    matches = matcher(parsed)
    return [record for record in knowledge.locations.records if matches(record.name)]


# Symbols that match and have no location of their own. Aliases of a traceable function are reached by its first name.
def _untraceable(knowledge: KernelKnowledge, pattern: str) -> dict[str, str]:
    parsed = parse_filter(pattern)
    if parsed.type is MatchType.INDEX:
        return {}
    matches = matcher(parsed)
    names = {symbol.name for symbol in knowledge.symbols if matches(symbol.name)}
    reasons = {name: knowledge.locations.why_not(name) for name in names}
    return {name: why for name, why in reasons.items() if why}


def _nothing(knowledge: KernelKnowledge, patterns: tuple[str, ...]) -> InvalidProbe:
    records = ImageRecords(knowledge)
    reasons = [f"{pattern!r} matches no traceable function" for pattern in patterns]
    for i, pattern in enumerate(patterns):
        if why := records.why_not(pattern):
            reasons[i] += f": {why}"
    error = InvalidProbe("; ".join(reasons))
    error.no_match = True
    return error
