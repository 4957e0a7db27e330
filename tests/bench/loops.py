"""Loops of work in guests, and what they take while something watches: ways take turns, and guests do.

Times are the guest's own (``/proc/uptime`` around the loop) and the processor time of its QEMU, which other programs on
the machine blur less. Each way is compared with the bare loop in the same guest: how fast a guest is depends on where
its code happens to lie.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import click
from rich.table import Table

from fprobe_gdb import Kernel
from tests.bench.cpu_time import children, cpu_seconds

__all__ = [
    "FORKS",
    "LIMIT_SEC",
    "NOTHING",
    "READS",
    "Added",
    "Guest",
    "Times",
    "Way",
    "added_table",
    "added_to_reads",
    "booted",
    "measure",
    "spread",
    "table",
]

LIMIT_SEC = 300.0
#: The way that all others are compared with.
NOTHING = "nothing"
READS = "dd if=/dev/zero of=/dev/null bs=1 count={} 2>/dev/null"
FORKS = "i=0; while [ $i -lt {} ]; do /bin/busybox true; i=$((i+1)); done"
_RUNS = 4

Way = Callable[[], AbstractContextManager[object]]
#: Microseconds in each guest: by its time, and by processor time.
Added = tuple[list[float], list[float]]


@dataclass
class Times:
    """The least that a loop took, for each guest, in seconds."""

    guest: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def added_us(self, bare: Times, calls: int) -> Added:
        """What is added to each of so many calls, in each guest: by its time, and by processor time."""
        by_guest, by_cpu = (zip(*pair, strict=True) for pair in ((self.guest, bare.guest), (self.cpu, bare.cpu)))
        return [(a - b) / calls * 1e6 for a, b in by_guest], [(a - b) / calls * 1e6 for a, b in by_cpu]

    def slowdown(self, bare: Times) -> tuple[list[float], list[float]]:
        """How many times as long it takes, in each guest: by its time, and by processor time."""
        by_guest, by_cpu = (zip(*pair, strict=True) for pair in ((self.guest, bare.guest), (self.cpu, bare.cpu)))
        return [a / b for a, b in by_guest], [a / b for a, b in by_cpu]


class Guest:
    """A guest that runs loops."""

    def __init__(self, k: Kernel, processes: set[int]) -> None:
        self.k = k
        self.processes = processes

    def run(self, loop: str) -> tuple[float, float]:
        """Seconds of the guest's time, and of QEMU's processor time."""
        cpu = cpu_seconds(self.processes)
        text = self.do(f"read a b </proc/uptime; {loop}; read c d </proc/uptime; echo $a $c").split()
        return float(text[-1]) - float(text[-2]), cpu_seconds(self.processes) - cpu

    def do(self, command: str) -> str:
        """What a command that has to succeed writes."""
        result = self.k.shell(command, timeout_sec=LIMIT_SEC)
        assert result.status == 0, result.text
        return result.text


@contextmanager
def booted(kernel: str, **options: object) -> Iterator[Guest]:
    """A guest of target ``rsp``."""
    before = children()
    with Kernel.boot(kernel, backend="rsp", **options) as k:  # type: ignore[arg-type]
        yield Guest(k, children() - before)


def measure(guest: Guest, ways: dict[str, Way], loop: str, rounds: int, times: dict[str, Times]) -> None:
    """Each way once a round. Its quickest run counts: whatever else the machine does only makes it slower."""
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            click.echo(f"round {number + 1} of {rounds}: {name}", err=True)
            with way():
                # What was not translated yet, or thrown away by planting, is by now.
                guest.run(loop)
                took[name] += [guest.run(loop) for _ in range(_RUNS)]
    for name, runs in took.items():
        guest_sec, cpu_sec = zip(*runs, strict=True)
        times[name].guest.append(min(guest_sec))
        times[name].cpu.append(min(cpu_sec))


def added_to_reads(
    kernel: str,
    guests: int,
    rounds: int,
    reads: tuple[int, int],
    ways_in: Callable[[Guest], tuple[dict[str, Way], dict[str, Way]]],
) -> dict[str, Added]:
    """What ways add to each call of ``vfs_read``, in guests with trampolines.

    :param reads: how many calls each of the cheap ways gets, and each of those that cost the host's time.
    :param ways_in: makes both kinds of ways in a guest; each of them with :data:`NOTHING`.
    """
    times: tuple[dict[str, Times], dict[str, Times]] = defaultdict(Times), defaultdict(Times)
    for number in range(guests):
        click.echo(f"guest {number + 1} of {guests}", err=True)
        with booted(kernel, dispatch="trampoline") as guest:
            cheap, dear = ways_in(guest)
            measure(guest, cheap, READS.format(reads[0]), rounds, times[0])
            measure(guest, dear, READS.format(reads[1]), 1, times[1])
    return {
        name: took.added_us(of[NOTHING], calls)
        for of, calls in zip(times, reads, strict=True)
        for name, took in of.items()
        if name != NOTHING
    }


def added_table(title: str, added: dict[str, Added], against: Callable[[str], str]) -> Table:
    """The same as a table.

    :param against: which other way a way is compared with; "" for none.
    """
    made = table(title, "us (guest)", "us (cpu)", "ratio (cpu)", "of")
    for name, (by_guest, by_cpu) in added.items():
        other = against(name)
        ratio = f"{statistics.median(by_cpu) / statistics.median(added[other][1]):.2f}" if other else ""
        made.add_row(name, spread(by_guest, 3), spread(by_cpu, 3), ratio, other)
    return made


def spread(values: list[float], digits: int) -> str:
    """The median, and the least and the most."""
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low}-{high})"


def table(title: str, *columns: str) -> Table:
    """A table of ways."""
    made = Table(title=title, title_justify="left")
    made.add_column("way")
    for column in columns:
        made.add_column(column, justify="right")
    return made
