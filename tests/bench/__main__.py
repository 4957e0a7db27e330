"""``python -m tests.bench``: one run, five tables, or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from tests.bench.measure import Cost, boot_costs, hit_costs, symbol_costs, type_costs, typed_access_costs

KERNELS = ("6.1", "6.12")
WHAT = {
    "gdb Python": "gdb.Breakpoint.stop() returning False",
    "pygdbmi": "write() with its defaults, 3 commands",
    "gdb": "our target through gdb, alone",
    "rsp": "our own client of the protocol, alone",
    "gdb, fprobe": "whole stack, entry handler",
    "rsp, fprobe": "whole stack, entry handler",
    "gdb, pair": "whole stack, entry and exit: two stops",
    "rsp, pair": "whole stack, entry and exit: two stops",
    "call, fprobe": "trampoline, entry handler",
    "call, pair": "trampoline, entry and exit handler",
    "none": "the loop itself, without probes",
}
#: What the project promises: at most so many times what gdb's Python breakpoints add to a call.
GOALS = {"gdb": 1.0, "rsp": 0.6, "call, fprobe": 1 / 900}


def us(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f}"


def hits_table(costs: list[Cost]) -> Table:
    table = Table(title="vfs_read under dd bs=1: one hit, or one pair", title_justify="left")
    for column in ("way", "what"):
        table.add_column(column)
    for column in ("us", "rounds: least-most", "cpu us", "hits/s", "added us", "ratio", "goal"):
        table.add_column(column, justify="right")
    loop = costs[-1].seconds
    base = costs[0].seconds - loop
    for cost in costs:
        added = cost.seconds - loop
        ratio, goal = added / base, GOALS.get(cost.name)
        verdict = "" if goal is None else f"<= {goal:.2g} {'ok' if ratio <= goal else 'MISSED'}"
        spread = f"{us(cost.least_seconds)}-{us(cost.most_seconds)}"
        times = (us(cost.seconds), spread, us(cost.cpu_seconds), f"{1 / cost.seconds:,.0f}")
        numbers = (*times, f"{added * 1e6:,.1f}", f"{ratio:.3g}")
        table.add_row(cost.name, WHAT[cost.name], *numbers, verdict)
    return table


def table_of(title: str, unit: str, text: Callable[[float], str], rows: list[tuple[Cost, str]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("what")
    for column in (unit, "rounds: least-most", f"cpu {unit}"):
        table.add_column(column, justify="right")
    for cost, name in rows:
        spread = f"{text(cost.least_seconds)}-{text(cost.most_seconds)}"
        table.add_row(name, text(cost.seconds), spread, text(cost.cpu_seconds))
    return table


def seconds_table(title: str, rows: list[tuple[Cost, str]]) -> Table:
    return table_of(title, "s", lambda seconds: f"{seconds:.2f}", rows)


def ms_table(title: str, costs: list[Cost]) -> Table:
    return table_of(title, "ms", lambda seconds: f"{seconds * 1e3:,.2f}", [(cost, cost.name) for cost in costs])


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Numbers in seconds instead of tables.")
@click.option("--rounds", default=25, show_default=True, type=click.IntRange(1))
@click.option("--hits", default=20, show_default=True, type=click.IntRange(2), help="Hits of each way in each round.")
@click.option("--kernel", default="6.1", show_default=True, help="For the hits.")
@click.option("--hits-only", is_flag=True, help="Neither boots nor symbols nor types.")
@click.option("--no-hits", is_flag=True, help="All but the cost of a hit.")
def main(as_json: bool, rounds: int, hits: int, kernel: str, hits_only: bool, no_hits: bool) -> None:
    """Measure what hits, boots, symbols and types cost. The machine should have nothing else to do."""
    with Console(stderr=True).status("") as status:
        per_hit = [] if no_hits else hit_costs(kernel, rounds, hits, status.update)
        few = min(rounds, 3)
        boots = [] if hits_only else boot_costs(KERNELS, few, status.update)
        symbols = [] if hits_only else symbol_costs(KERNELS, few, status.update)
        types = [] if hits_only else type_costs(KERNELS, few, status.update)
        typed = [] if hits_only else typed_access_costs(kernel, few, hits, status.update)
    if as_json:
        named = {"hits": per_hit, "boots": boots, "symbols": [cost for cost, _ in symbols]}
        named |= {"types": types, "typed access": typed}
        click.echo(json.dumps({key: [asdict(cost) for cost in costs] for key, costs in named.items()}, indent=1))
        return
    console = Console(width=None if Console().is_terminal else 120)
    if per_hit:
        console.print(hits_table(per_hit))
    if boots:
        console.print(seconds_table("boot to a guest that takes commands", [(cost, cost.name) for cost in boots]))
        rows = [(cost, f"{cost.name}: {count:,} symbols") for cost, count in symbols]
        console.print(seconds_table("kernel image read: symbols, locations, per-CPU layout", rows))
        console.print(ms_table("types of a kernel image (BTF)", types))
        console.print(ms_table("typed access in a handler, beside the cost of the hit", typed))


if __name__ == "__main__":
    main()
