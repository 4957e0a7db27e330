"""``python -m tests.bench.planted``: what probes cost that nobody hits: by number, disabled, and in idle guests."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click
from rich.console import Console
from rich.table import Table

from fprobe_gdb import Fprobe
from fprobe_gdb.dispatch.trampoline.record_format import record_ip
from fprobe_gdb.dispatch.trampoline.ring import Batch
from tests.bench.cpu_time import cpu_seconds
from tests.bench.loops import FORKS, NOTHING, Guest, Times, Way, booted, measure, spread, table

COUNTS = (10, 100, 1_000, 10_000)
#: Each one slows the whole guest.
BREAKPOINT_COUNTS = (10, 32, 100, 256)
IDLE_SEC = 10.0


@contextmanager
def nothing() -> Iterator[None]:
    """No probe."""
    yield


@contextmanager
def recorded(guest: Guest, ips: Sequence[int]) -> Iterator[None]:
    """Record functions, entries and returns."""
    probe = guest.k.record(ips, lambda batch: None, ordered=False)
    yield
    guest.k.stop_recording(probe)
    click.echo(f"  {len(ips):,} functions, {probe.hits:,} hits", err=True)


@contextmanager
def disabled(guest: Guest, ips: Sequence[int]) -> Iterator[None]:
    """The same, disabled."""
    probe = guest.k.record(ips, lambda batch: None, ordered=False)
    guest.k.disable_recording(probe)
    yield
    guest.k.stop_recording(probe)


@contextmanager
def handled(guest: Guest, ips: Sequence[int]) -> Iterator[None]:
    """Handlers at entries and returns."""
    fp = Fprobe(lambda *_: None, lambda *_: None, nr_maxactive=16)
    guest.k.register_fprobe_ips(fp, ips)
    yield
    guest.k.unregister_fprobe(fp)
    guest.do("true")
    click.echo(f"  {len(ips):,} functions, {fp.hits:,} hits", err=True)


def uncalled(guest: Guest, loop: str) -> list[int]:
    """Functions that the loop does not call, nor anybody else meanwhile, as offsets into the kernel's text."""
    called: set[int] = set()
    ips = [location.ip for location in guest.k.records.records]

    def consume(batch: Batch) -> None:
        words = memoryview(batch.data).cast("Q")[:: probe.form.size_bytes // 8].tolist()
        called.update(map(record_ip, set(words)))

    probe = guest.k.record(ips, consume, entry_only=True, block=True, ordered=False)
    for _ in range(3):
        guest.run(loop)
    guest.k.stop_recording(probe)
    text = guest.k.address("_text")
    return [ip - text for ip in ips if ip not in called]


def some(guest: Guest, offsets: Sequence[int], count: int) -> list[int]:
    """So many of these functions, from everywhere; where the kernel lies is another place in each guest."""
    text = guest.k.address("_text")
    return [text + offsets[number * len(offsets) // count] for number in range(count)]


def by_number(kernel: str, rounds: int, loop: str) -> tuple[Table, Sequence[int]]:
    """Functions that are planted and not called, by trampolines; all that there are, disabled."""
    times: dict[str, Times] = defaultdict(Times)
    with booted(kernel, dispatch="trampoline") as guest:
        offsets = uncalled(guest, loop)
        everything = [location.ip for location in guest.k.records.records]
        ways: dict[str, Way] = {NOTHING: nothing}
        for count in (*COUNTS, len(offsets)):
            ways[f"{count:,} recorded"] = lambda count=count: recorded(guest, some(guest, offsets, count))  # type: ignore[misc]
        for count in COUNTS[:3]:
            ways[f"{count:,} with handlers"] = lambda count=count: handled(guest, some(guest, offsets, count))  # type: ignore[misc]
        ways[f"{len(everything):,} recorded, disabled"] = lambda: disabled(guest, everything)
        measure(guest, ways, loop, rounds, times)
    return slowdowns("trampolines: a loop of forks, times as long", times), offsets


def by_breakpoints(kernel: str, rounds: int, loop: str, offsets: Sequence[int]) -> Table:
    """The same with breakpoints."""
    times: dict[str, Times] = defaultdict(Times)
    with booted(kernel, dispatch="breakpoint", max_sites=max(BREAKPOINT_COUNTS)) as guest:
        ways: dict[str, Way] = {NOTHING: nothing}
        for count in BREAKPOINT_COUNTS:
            ways[f"{count:,} with handlers"] = lambda count=count: handled(guest, some(guest, offsets, count))  # type: ignore[misc]
        measure(guest, ways, loop, rounds, times)
    return slowdowns("breakpoints: a loop of forks, times as long", times)


def slowdowns(title: str, times: dict[str, Times]) -> Table:
    """How much longer the loop takes."""
    made = table(title, "guest", "cpu")
    for name, of in times.items():
        if name != NOTHING:
            by_guest, by_cpu = of.slowdown(times[NOTHING])
            made.add_row(name, spread(by_guest, 2), spread(by_cpu, 2))
    return made


def idle(kernel: str, offsets: Sequence[int]) -> Table:
    """Processor time in a guest that does nothing."""
    made = table(f"an idle guest, two CPUs, {IDLE_SEC:g} s: % of a core", "tool", "QEMU", "goal (tool)")
    with booted(kernel, dispatch="trampoline", smp=2) as guest:
        few = some(guest, offsets, 1000)
        ways: dict[str, Way] = {
            NOTHING: nothing,
            "1,000 with handlers": lambda: handled(guest, few),
            "1,000 recorded": lambda: recorded(guest, few),
        }
        for name, way in ways.items():
            with way():
                guest.k.run(timeout_sec=1.0)
                own_sec, qemu_sec = time.process_time(), cpu_seconds(guest.processes)
                guest.k.run(timeout_sec=IDLE_SEC)
                used = time.process_time() - own_sec, cpu_seconds(guest.processes) - qemu_sec
            made.add_row(name, *(f"{sec / IDLE_SEC:.2%}" for sec in used), "< 2 %")
    return made


@click.command()
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--forks", default=20, show_default=True, type=click.IntRange(1))
@click.option("--kernel", default="6.1", show_default=True)
def main(rounds: int, forks: int, kernel: str) -> None:
    """Measure what probes cost that nobody hits."""
    loop = FORKS.format(forks)
    console = Console(width=None if Console().is_terminal else 120)
    numbers, offsets = by_number(kernel, rounds, loop)
    console.print(numbers)
    console.print(by_breakpoints(kernel, rounds, loop, offsets))
    console.print(idle(kernel, offsets))


if __name__ == "__main__":
    main()
