"""``python -m tests.bench.recording``: record mode against the guest's own tracers, in several guests."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.table import Table

from tests.bench.cpu_time import cpu_seconds
from tests.bench.loops import FORKS, NOTHING, READS, Guest, Times, Way, booted, measure, spread, table

TRACING = "/sys/kernel/tracing"
CALL_GOALS = {"record, entry": ("function", 0.5), "record, entry and exit": ("function_graph", 0.5)}
LOOP_GOALS = {"record, entry": 2.5, "record, entry and exit": 5.0, "removed again": 1.3}


class Watching:
    """What can watch a guest with trampolines."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._k = guest.k
        self.all_ips = [location.ip for location in self._k.records.records]
        self.plant_sec: list[float] = []
        self.remove_sec: list[float] = []

    @contextmanager
    def nothing(self) -> Iterator[None]:
        """Nobody watches."""
        yield

    @contextmanager
    def own_tracer(self, tracer: str, functions: str) -> Iterator[None]:
        """The guest's own tracer."""
        which = f"echo {functions} >set_ftrace_filter" if functions else ": >set_ftrace_filter"
        start = f"echo 8192 >buffer_size_kb; {which}; echo {tracer} >current_tracer; echo 1 >tracing_on"
        self._guest.do(f"cd {TRACING}; {start}")
        yield
        self._guest.do(f"cd {TRACING}; echo 0 >tracing_on; echo nop >current_tracer; : >set_ftrace_filter; : >trace")

    @contextmanager
    def recorded(self, function: str, *, returns: bool, counted: bool = False) -> Iterator[None]:
        """Record mode, the smallest records, or only the figures of functions; an empty name is all there are."""
        ips = [self._k.records.ftrace_location(self._k.address(function))] if function else self.all_ips
        started = self._used_sec()
        probe = self._k.record(
            ips,
            lambda batch: None,
            entry_only=not returns,
            block=True,
            ordered=False,
            tables=() if counted else None,
        )
        self.plant_sec += [] if function else [self._used_sec() - started]
        yield
        started = self._used_sec()
        self._k.stop_recording(probe)
        self.remove_sec += [] if function else [self._used_sec() - started]
        assert probe.hits > 0
        click.echo(
            f"  {probe.hits:,} hits, {probe.exits:,} exits, {probe.nmissed:,} missed, {probe.lost:,} lost", err=True
        )

    # Processor time, ours and QEMU's, which take turns while something is planted.
    def _used_sec(self) -> float:
        return time.process_time() + cpu_seconds(self._guest.processes)


def one_function(watching: Watching) -> dict[str, Way]:
    """Ways to watch ``vfs_read``."""
    return {
        NOTHING: watching.nothing,
        "function": lambda: watching.own_tracer("function", "vfs_read"),
        "record, entry": lambda: watching.recorded("vfs_read", returns=False),
        "function_graph": lambda: watching.own_tracer("function_graph", "vfs_read"),
        "record, entry and exit": lambda: watching.recorded("vfs_read", returns=True),
    }


def all_functions(watching: Watching) -> dict[str, Way]:
    """Ways to watch everything."""
    return {
        NOTHING: watching.nothing,
        "function": lambda: watching.own_tracer("function", ""),
        "record, entry": lambda: watching.recorded("", returns=False),
        "count, entry": lambda: watching.recorded("", returns=False, counted=True),
        "removed again": watching.nothing,
        "function_graph": lambda: watching.own_tracer("function_graph", ""),
        "record, entry and exit": lambda: watching.recorded("", returns=True),
        "count, entry and exit": lambda: watching.recorded("", returns=True, counted=True),
    }


def per_call(times: dict[str, Times], calls: int) -> Table:
    """What each way adds to a call."""
    made = table("vfs_read under dd bs=1: what is added to a call", "us (guest)", "us (cpu)", "ratio (cpu)", "goal")
    added = {name: of.added_us(times[NOTHING], calls) for name, of in times.items() if name != NOTHING}
    for name, (by_guest, by_cpu) in added.items():
        against, goal = CALL_GOALS.get(name, ("", 0.0))
        ratio = statistics.median(by_cpu) / statistics.median(added[against][1]) if against else 0.0
        verdict = (f"{ratio:.2f}", f"<= {goal} of {against}") if against else ("", "")
        made.add_row(name, spread(by_guest, 3), spread(by_cpu, 3), *verdict)
    return made


def slowdown(times: dict[str, Times]) -> Table:
    """How much longer a loop takes."""
    made = table("a loop of forks, all functions: times as long", "guest", "cpu", "goal")
    for name, of in times.items():
        if name != NOTHING:
            by_guest, by_cpu = of.slowdown(times[NOTHING])
            goal = f"<= {LOOP_GOALS[name]}" if name in LOOP_GOALS else ""
            made.add_row(name, spread(by_guest, 2), spread(by_cpu, 2), goal)
    return made


@click.command()
@click.option("--guests", default=3, show_default=True, type=click.IntRange(1))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="In each guest.")
@click.option("--reads", default=200_000, show_default=True, type=click.IntRange(1))
@click.option("--forks", default=30, show_default=True, type=click.IntRange(1))
@click.option("--kernel", default="6.1", show_default=True)
def main(guests: int, rounds: int, reads: int, forks: int, kernel: str) -> None:
    """Measure record mode against the guest's own tracers."""
    calls: dict[str, Times] = defaultdict(Times)
    loops: dict[str, Times] = defaultdict(Times)
    plant_sec: list[float] = []
    remove_sec: list[float] = []
    count = 0
    for number in range(guests):
        click.echo(f"guest {number + 1} of {guests}", err=True)
        with booted(kernel, dispatch="trampoline") as guest:
            watching = Watching(guest)
            measure(guest, one_function(watching), READS.format(reads), rounds, calls)
            measure(guest, all_functions(watching), FORKS.format(forks), rounds, loops)
            plant_sec += watching.plant_sec
            remove_sec += watching.remove_sec
            count = len(watching.all_ips)
    console = Console(width=None if Console().is_terminal else 120)
    console.print(per_call(calls, reads))
    console.print(slowdown(loops))
    console.print(
        f"{count:,} functions planted in {spread(plant_sec, 2)} s, removed in {spread(remove_sec, 2)} s of processor "
        "time, ours and QEMU's; goal: <= 2"
    )


if __name__ == "__main__":
    main()
