"""``python -m tests.bench.recording``: record mode against the guest's own tracers, in one guest, ways taking turns.

Times are the guest's own (``/proc/uptime`` around the loop), which ratios are of; beside them processor time of QEMU,
which other programs on the machine blur less.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import click
from rich.console import Console
from rich.table import Table

from fprobe_gdb import Kernel
from tests.bench.cpu_time import children, cpu_seconds

LIMIT_SEC = 300.0
READS = "dd if=/dev/zero of=/dev/null bs=1 count={} 2>/dev/null"
FORKS = "i=0; while [ $i -lt {} ]; do /bin/busybox true; i=$((i+1)); done"
TRACING = "/sys/kernel/tracing"

Way = Callable[[], AbstractContextManager[object]]


@dataclass
class Times:
    """What a loop took, each round."""

    guest: list[float]
    cpu: list[float]


class Guest:
    """A guest with trampolines, and what can watch it."""

    def __init__(self, k: Kernel, processes: set[int]) -> None:
        self.k = k
        self._processes = processes
        self.all_ips = [location.ip for location in k.records.records]
        self.plant_sec: list[float] = []
        self.remove_sec: list[float] = []

    def run(self, loop: str) -> tuple[float, float]:
        """Seconds of the guest's time, and of QEMU's processor time."""
        cpu = cpu_seconds(self._processes)
        text = self.k.shell(
            f"read a b </proc/uptime; {loop}; read c d </proc/uptime; echo $a $c", timeout_sec=LIMIT_SEC
        ).text.split()
        return float(text[-1]) - float(text[-2]), cpu_seconds(self._processes) - cpu

    @contextmanager
    def nothing(self) -> Iterator[None]:
        """Nobody watches."""
        yield

    @contextmanager
    def own_tracer(self, tracer: str, functions: str) -> Iterator[None]:
        """The guest's own tracer."""
        which = f"echo {functions} >set_ftrace_filter" if functions else ": >set_ftrace_filter"
        self._do(f"cd {TRACING}; echo 8192 >buffer_size_kb; {which}; echo {tracer} >current_tracer; echo 1 >tracing_on")
        yield
        self._do(f"cd {TRACING}; echo 0 >tracing_on; echo nop >current_tracer; : >set_ftrace_filter; : >trace")

    @contextmanager
    def recorded(self, function: str, *, returns: bool) -> Iterator[None]:
        """Record mode, the smallest records; an empty name is all functions there are."""
        ips = [self.k.records.ftrace_location(self.k.address(function))] if function else self.all_ips
        started = time.monotonic()
        probe = self.k.record(ips, lambda batch: None, entry_only=not returns, block=True, ordered=False)
        self.plant_sec += [] if function else [time.monotonic() - started]
        yield
        started = time.monotonic()
        self.k.stop_recording(probe)
        self.remove_sec += [] if function else [time.monotonic() - started]
        assert probe.hits > 0
        click.echo(
            f"  {probe.hits:,} hits, {probe.exits:,} exits, {probe.nmissed:,} missed, {probe.lost:,} lost", err=True
        )

    def _do(self, command: str) -> None:
        result = self.k.shell(command, timeout_sec=LIMIT_SEC)
        assert result.status == 0, result.text


def measure(guest: Guest, ways: dict[str, Way], loop: str, rounds: int) -> dict[str, Times]:
    """Each way once a round."""
    times: dict[str, Times] = defaultdict(lambda: Times([], []))
    for number in range(rounds):
        for name, way in ways.items():
            click.echo(f"round {number + 1} of {rounds}: {name}", err=True)
            with way():
                # What was not translated yet, or thrown away by planting, is by now.
                guest.run(loop)
                guest_sec, cpu_sec = guest.run(loop)
            times[name].guest.append(guest_sec)
            times[name].cpu.append(cpu_sec)
    return times


def per_call(times: dict[str, Times], calls: int, goals: dict[str, tuple[str, float]]) -> Table:
    """What each way adds to a call."""
    table = _table("vfs_read under dd bs=1: what is added to a call", "us (guest)", "us (cpu)", "ratio", "goal")
    base = times["nothing"]
    added = {
        name: (
            (statistics.median(of.guest) - statistics.median(base.guest)) / calls * 1e6,
            (statistics.median(of.cpu) - statistics.median(base.cpu)) / calls * 1e6,
        )
        for name, of in times.items()
    }
    for name, (guest_us, cpu_us) in added.items():
        against, goal = goals.get(name, ("", 0.0))
        ratio = f"{guest_us / added[against][0]:.2f}" if against else ""
        table.add_row(name, f"{guest_us:.3f}", f"{cpu_us:.3f}", ratio, f"<= {goal} of {against}" if against else "")
    return table


def slowdown(times: dict[str, Times], goals: dict[str, float]) -> Table:
    """How much longer a loop takes."""
    table = _table(
        "a loop of forks, all functions", "s (guest)", "s (cpu)", "slowdown (guest)", "slowdown (cpu)", "goal"
    )
    base = times["nothing"]
    for name, of in times.items():
        guest_sec, cpu_sec = statistics.median(of.guest), statistics.median(of.cpu)
        by_guest, by_cpu = guest_sec / statistics.median(base.guest), cpu_sec / statistics.median(base.cpu)
        goal = f"<= {goals[name]}" if name in goals else ""
        table.add_row(name, f"{guest_sec:.2f}", f"{cpu_sec:.2f}", f"{by_guest:.2f}", f"{by_cpu:.2f}", goal)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("way")
    for column in columns:
        table.add_column(column, justify="right")
    return table


@click.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--reads", default=700_000, show_default=True, type=click.IntRange(1))
@click.option("--forks", default=100, show_default=True, type=click.IntRange(1))
@click.option("--kernel", default="6.1", show_default=True)
def main(rounds: int, reads: int, forks: int, kernel: str) -> None:
    """Measure record mode against the guest's own tracers."""
    before = children()
    with Kernel.boot(kernel, backend="rsp", dispatch="trampoline") as k:
        guest = Guest(k, children() - before)
        one: dict[str, Way] = {
            "nothing": guest.nothing,
            "function": lambda: guest.own_tracer("function", "vfs_read"),
            "record, entry": lambda: guest.recorded("vfs_read", returns=False),
            "function_graph": lambda: guest.own_tracer("function_graph", "vfs_read"),
            "record, entry and exit": lambda: guest.recorded("vfs_read", returns=True),
        }
        calls = measure(guest, one, READS.format(reads), rounds)
        everything: dict[str, Way] = {
            "nothing": guest.nothing,
            "function": lambda: guest.own_tracer("function", ""),
            "record, entry": lambda: guest.recorded("", returns=False),
            "removed again": guest.nothing,
            "function_graph": lambda: guest.own_tracer("function_graph", ""),
            "record, entry and exit": lambda: guest.recorded("", returns=True),
        }
        loops = measure(guest, everything, FORKS.format(forks), rounds)
    console = Console(width=None if Console().is_terminal else 120)
    goals = {"record, entry": ("function", 0.5), "record, entry and exit": ("function_graph", 0.5)}
    console.print(per_call(calls, reads, goals))
    console.print(slowdown(loops, {"record, entry": 2.5, "record, entry and exit": 5, "removed again": 1.3}))
    console.print(
        f"{len(guest.all_ips):,} functions planted in {statistics.median(guest.plant_sec):.2f} s "
        f"({min(guest.plant_sec):.2f}-{max(guest.plant_sec):.2f}), and removed in "
        f"{statistics.median(guest.remove_sec):.2f} s; goal: <= 2"
    )


if __name__ == "__main__":
    main()
