"""Debian's 6.12 kernel, which has fprobe: our probes against the kernel's own, as ``f:`` events of tracefs.

The same fprobes, in the same run: theirs in the kernel, ours outside. The events must agree in number, in order, in the
arguments at entry and in the value returned, and the two pools must run dry at the same calls.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import pytest

from fprobe_gdb import Fprobe, Kernel, PtRegs
from fprobe_gdb.probe.fprobe import FPROBE_FL_ANY_FUNCTION
from images.workload_counts import Count, counts
from tests.integration.call_recorder import CallRecorder, Seen, btf
from tests.integration.guest_tracer import GROUP, Record, run, tracing

pytestmark = pytest.mark.qemu

MASK64 = (1 << 64) - 1
RSP = {"kernel": "6.12", "backend": "rsp", "smp": 2, "breakpoint": "sw"}
GDB = RSP | {"backend": "gdb"}
COMMANDS = [
    ("pipe", "6"),
    ("args", "6"),
    ("nested", "2"),
    ("recursive", "4", "2"),
    ("killed", "3"),
    ("migrate", "5"),
    ("interleave", "4"),
]
CASES = [pytest.param(RSP, command, id="rsp " + " ".join(command)) for command in COMMANDS]
CASES += [pytest.param(GDB, command, id="gdb " + " ".join(command)) for command in COMMANDS[:1] + COMMANDS[-1:]]

# What happened in a task: function, whether it returned, and the first three arguments or the value returned.
Step = tuple[str, bool, tuple[int, ...]]


def event_definitions(functions: Iterable[str], maxactive: int = 100) -> list[str]:
    """An entry and a return event for each function, with the raw registers as values."""
    definitions = []
    for name in functions:
        arguments = " ".join(f"a{i}=$arg{i}:x64" for i in (1, 2, 3))
        definitions.append(f"f:{GROUP}/e_{name} {name} {arguments}")
        definitions.append(f"f{maxactive}:{GROUP}/x_{name} {name}%return ret=$retval:x64")
    return definitions


def our_steps(seen: Sequence[Seen]) -> dict[int, list[Step]]:
    """By process id."""
    tasks = defaultdict(list)
    for s in seen:
        tasks[s.pid].append((s.function, s.is_exit, s.values[:3]))
    return tasks


def their_steps(records: Sequence[Record]) -> dict[int, list[Step]]:
    """By process id."""
    tasks = defaultdict(list)
    for r in records:
        assert r.name[:2] in ("e_", "x_"), r
        tasks[r.pid].append((r.name[2:], r.name[0] == "x", tuple(value & MASK64 for value in r.fields.values())))
    return tasks


@pytest.mark.gdb
@pytest.mark.parametrize(("way", "command"), CASES)
def test_same_steps_in_each_task(
    guest: Callable[..., Kernel], way: dict[str, object], command: tuple[str, ...]
) -> None:
    """Entries with ``$arg1`` to ``$arg3`` and returns with ``$retval``: task by task the same, in the same order."""
    k = guest(**way)
    table = counts(command)
    functions = [count.function for count in table]
    with tracing(k, events=event_definitions(functions)) as tracer:
        recorder = CallRecorder(k, functions)
        run(k, "workload " + " ".join(command))
        ours = our_steps(recorder.stop())
        theirs = their_steps(tracer.stop())
    assert recorder.missed == 0
    assert ours == theirs
    happened = Counter((name, is_exit) for steps in ours.values() for name, is_exit, _ in steps)
    assert happened == Counter(_happens(table))


def _happens(table: Sequence[Count]) -> dict[tuple[str, bool], int]:
    return {(c.function, is_exit): n for c in table for is_exit, n in ((False, c.entries), (True, c.exits))}


@pytest.mark.parametrize("maxactive", [1, 2, 3, 4])
def test_pools_run_dry_at_the_same_calls(guest: Callable[..., Kernel], maxactive: int) -> None:
    """Recursion four deep with one to four nodes: the same calls get them, and ``nmissed`` is the kernel's.

    The kernel's counter is in no file of tracefs; it is read out of its ``struct fprobe``, whose address we learn from
    the call of ``register_fprobe()`` that creates the event.
    """
    k = guest(**RSP)
    name, depth, times = "ep_loop_check_proc", 4, 3
    definition = f"f{maxactive}:{GROUP}/x_{name} {name}%return ret=$retval:x64"
    created = FprobesCreated(k)
    with tracing(k, events=[definition]) as tracer:
        (theirs,) = created.stop()
        recorder = CallRecorder(k, [name], nr_maxactive=maxactive)
        run(k, f"workload recursive {depth} {times}")
        nmissed = k.read_u64(theirs + btf(k).struct("fprobe").find_member("nmissed").byte_offset)
        seen = recorder.stop()
        records = tracer.stop()
    fp = recorder.fprobes[name]
    calls = depth - 1 + times * depth
    # Of a recursion the outermost calls get the nodes; the others, one deep, always get one.
    hits = depth - 1 + times * maxactive
    assert (fp.hits, fp.exits, fp.nmissed, fp.lost) == (hits, hits, calls - hits, 0)
    assert nmissed == fp.nmissed
    assert len(records) == hits
    ours = {pid: [step for step in steps if step[1]] for pid, steps in our_steps(seen).items()}
    assert ours == their_steps(records)


class FprobesCreated:
    """Addresses of the ``struct fprobe`` that the guest registers while this watches."""

    def __init__(self, k: Kernel) -> None:
        self._k = k
        self._addrs: list[int] = []
        # The kernel does not trace its tracing: this function has no fentry NOP.
        self._fprobe = Fprobe(self._on_entry, flags=FPROBE_FL_ANY_FUNCTION)
        k.register_fprobe(self._fprobe, "register_fprobe")

    def stop(self) -> list[int]:
        """Stop watching."""
        self._k.unregister_fprobe(self._fprobe)
        return self._addrs

    def _on_entry(self, fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: bytearray | None) -> None:
        self._addrs.append(regs.di)
