"""Rounds and medians: what one run measures, as numbers without units in their way."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import images
from fprobe_gdb import Kernel
from fprobe_gdb.kernel.btf import Btf
from fprobe_gdb.kernel.image import KernelImage
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from tests.bench.cpu_time import children, cpu_seconds
from tests.bench.guests import loaded_kernel
from tests.bench.typed import typed_accesses
from tests.bench.ways import WAYS, Way, call_mode, gdb_python, ours, pygdbmi_defaults

__all__ = ["Cost", "boot_costs", "hit_costs", "symbol_costs", "type_costs", "typed_access_costs"]

# A way that takes 0.6 s a hit is as well known after a few of them.
_SLOW = {"pygdbmi"}
_SLOW_ROUNDS, _SLOW_HITS = 3, 2
# And one that takes microseconds only after many: to each round belongs that guest code is translated again.
_FAST = {"call, fprobe", "call, pair", "none"}
_FAST_FACTOR = 1000

Progress = Callable[[str], None]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Cost:
    """What one thing costs: the median of several rounds, each of which is a mean.

    A mean, because hits are of two kinds: with the guest's timer tick between it and the next one, or without. A median
    would show the one or the other.
    """

    name: str
    seconds: float
    #: The cheapest and the dearest round.
    least_seconds: float
    most_seconds: float
    #: How many single measurements.
    samples: int
    #: Processor time of all processes that take part, the median of the rounds; 0 where it was not looked at.
    cpu_seconds: float = 0.0

    @classmethod
    def of(cls, name: str, rounds: list[list[float]], cpu: Sequence[float] = (0.0,)) -> Cost:
        """:param rounds: the measurements of each round, and the processor time of one measurement in each."""
        means = [statistics.fmean(times) for times in rounds]
        return cls(
            name, statistics.median(means), min(means), max(means), sum(map(len, rounds)), statistics.median(cpu)
        )


def hit_costs(kernel: str, rounds: int, hits: int, progress: Progress) -> list[Cost]:
    """Seconds for each hit by each way, the ways taking turns, so that a noisy minute hits them all.

    All guests are booted first; one whose turn it is not stands still.
    """
    measured: dict[str, list[list[float]]] = {name: [] for name in WAYS}
    cpu: dict[str, list[float]] = {name: [] for name in WAYS}
    with _all_ways(kernel, progress) as (ways, processes):
        for number in range(rounds):
            for name in WAYS:
                if name in _SLOW and number >= _SLOW_ROUNDS:
                    continue
                progress(f"round {number + 1} of {rounds}: {name}")
                before = cpu_seconds(processes[name])
                times = ways[name](_SLOW_HITS if name in _SLOW else hits * _FAST_FACTOR if name in _FAST else hits)
                # One hit more than there are times between hits.
                cpu[name].append((cpu_seconds(processes[name]) - before) / (len(times) + 1))
                measured[name].append(times)
    return [Cost.of(name, measured[name], cpu[name]) for name in WAYS]


# The ways by name, and the processes that each of them keeps busy.
@contextlib.contextmanager
def _all_ways(kernel: str, progress: Progress) -> Iterator[tuple[dict[str, Way], dict[str, set[int]]]]:
    knowledge = KernelKnowledge.load(images.kernel(kernel).vmlinuz)
    addr = knowledge.locations.ftrace_location(knowledge.symbols.one("vfs_read"))
    ways: dict[str, Way] = {}
    processes: dict[str, set[int]] = {}
    with contextlib.ExitStack() as stack:
        for name, guest in (
            ("gdb Python", gdb_python(kernel, addr)),
            ("pygdbmi", pygdbmi_defaults(kernel, addr)),
            ("gdb", ours(kernel, "gdb")),
            ("rsp", ours(kernel, "rsp")),
            ("call", call_mode(kernel)),
        ):
            progress(f"booting the guest of {name}")
            before = children()
            new = stack.enter_context(guest)
            ways |= new
            processes |= {way: {*(children() - before), os.getpid()} for way in new}
        yield ways, processes


def boot_costs(kernels: tuple[str, ...], rounds: int, progress: Progress) -> list[Cost]:
    """Seconds from nothing to a guest that takes commands, symbols loaded before."""
    measured: dict[str, list[list[float]]] = {}
    cpu: dict[str, list[float]] = {}
    known = {kernel: KernelKnowledge.load(images.kernel(kernel).vmlinuz) for kernel in kernels}
    for number in range(rounds):
        for kernel in kernels:
            for backend in ("gdb", "rsp"):
                name = f"{kernel}, {backend}"
                progress(f"boot {number + 1} of {rounds}: {name}")
                started, before, others = time.monotonic(), time.process_time(), children()
                with Kernel.boot(kernel, backend=backend, knowledge=known[kernel]):
                    measured.setdefault(name, []).append([time.monotonic() - started])
                    theirs = cpu_seconds(children() - others)
                    cpu.setdefault(name, []).append(time.process_time() - before + theirs)
    return [Cost.of(name, times, cpu[name]) for name, times in measured.items()]


def symbol_costs(kernels: tuple[str, ...], rounds: int, progress: Progress) -> list[tuple[Cost, int]]:
    """Seconds to read a kernel image: symbols, locations and per-CPU layout; and how many symbols it has."""
    costs = []
    for kernel in kernels:
        path = images.kernel(kernel).vmlinuz
        times: list[list[float]] = []
        cpu: list[float] = []
        symbols = 0
        for number in range(rounds):
            progress(f"symbols {number + 1} of {rounds}: {kernel}")
            knowledge, (seconds, cpu_seconds_) = _timed(lambda: _read(path))  # noqa: B023
            times.append([seconds])
            cpu.append(cpu_seconds_)
            symbols = sum(1 for _ in knowledge.symbols)
        costs.append((Cost.of(kernel, times, cpu), symbols))
    return costs


def type_costs(kernels: tuple[str, ...], rounds: int, progress: Progress) -> list[Cost]:
    """Seconds to open a kernel image's BTF, and to look up a first prototype and structure in it."""
    steps: tuple[tuple[str, Callable[[Btf], object]], ...] = (
        ("a first function", lambda btf: btf.function("vfs_read")),
        ("a first structure", lambda btf: btf.struct("task_struct")),
    )
    measured: dict[str, list[tuple[float, float]]] = {}
    for kernel in kernels:
        image = KernelImage.open(images.kernel(kernel).vmlinuz)
        for number in range(rounds):
            progress(f"types {number + 1} of {rounds}: {kernel}")
            btf, spent = _timed(lambda: Btf.of_image(image))  # noqa: B023
            measured.setdefault(f"{kernel}: opened, {len(btf):,} types", []).append(spent)
            for name, step in steps:
                _, spent = _timed(lambda: step(btf))  # noqa: B023
                measured.setdefault(f"{kernel}: {name}", []).append(spent)
    return [Cost.of(name, [[wall] for wall, _ in spent], [cpu for _, cpu in spent]) for name, spent in measured.items()]


def _read(path: Path) -> KernelKnowledge:
    knowledge = KernelKnowledge.load(path)
    assert knowledge.locations.records
    return knowledge


# What it gives, and its seconds by the clock and of processor time.
def _timed(function: Callable[[], _T]) -> tuple[_T, tuple[float, float]]:
    started, before = time.monotonic(), time.process_time()
    result = function()
    return result, (time.monotonic() - started, time.process_time() - before)


def typed_access_costs(kernel: str, rounds: int, hits: int, progress: Progress) -> list[Cost]:
    """Seconds that each kind of typed access takes in the handler of a hit, on top of what the hit costs."""
    measured: dict[str, list[list[float]]] = {}
    cpu: dict[str, list[float]] = {}
    for dispatch in ("trampoline", "breakpoint"):
        progress(f"typed access: {dispatch}")
        with loaded_kernel(kernel, "rsp", dispatch=dispatch) as k:
            typed_accesses(k, hits)  # types are made, names looked up
            for _ in range(rounds):
                for what, times in typed_accesses(k, hits).items():
                    name = f"{dispatch}: {what}"
                    measured.setdefault(name, []).append([wall for wall, _ in times])
                    cpu.setdefault(name, []).append(statistics.fmean(own for _, own in times))
    return [Cost.of(name, times, cpu[name]) for name, times in measured.items()]
