"""The tool is stopped and continued in the middle of its work: no call is lost uncounted, none is counted twice."""

from __future__ import annotations

import itertools
import select
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emu.deadline import Deadline
from fprobe_gdb import Fprobe, Kernel
from fprobe_gdb.dispatch.trampoline.pads import Field
from fprobe_gdb.dispatch.trampoline.slots import Slots
from tests.bench.cpu_time import cpu_seconds
from tests.integration.guest_tracer import run
from tests.integration.tool import Tool

pytestmark = pytest.mark.qemu

ROUNDS, CALLS, NESTED = 24, 500, 80
#: What the rounds call, ``workload calls`` and ``workload nested`` at the same time on two CPUs.
COUNTS = {
    "__x64_sys_personality": ROUNDS * CALLS,
    "__sys_sendmmsg": ROUNDS * NESTED,
    "___sys_sendmsg": 4 * ROUNDS * NESTED,
    "unix_dgram_sendmsg": 4 * ROUNDS * NESTED,
}
ROUND = f"echo round $i.; workload calls {CALLS} & workload nested {NESTED}; wait; sleep 0.1; i=$((i+1))"
# Behind these rounds' beginnings; for longer than pads wait for a host that has begun with a hit, and until the guest
# has got on by itself, however busy the machine is.
STOPS = (2, 7, 12, 17)
STOPPED_SEC = 0.4
WORKED_SEC = 0.1


def test_a_host_that_is_stopped_and_continued(tmp_path: Path) -> None:
    """Two CPUs, four functions, waits of 20 ms: the host is stopped with hits that wait and hits that it handles."""
    patterns = [word for name in COUNTS for word in ("-i", name)]
    options = ("--backend", "rsp", "--smp", "2", "--dispatch", "trampoline", "--answer-within", "0.02", "-f", "summary")
    command = f"i=0; while [ $i -lt {ROUNDS} ]; do {ROUND}; done; echo end"
    with Tool("trace", *options, *patterns, "--maxactive", "64", "--", command, tmp=tmp_path) as tool:
        qemu = tool.until_child("qemu-system")
        for number in STOPS:
            tool.until_output(f"round {number}.")
            tool.kill(signal.SIGSTOP)
            stopped, worked_sec = Deadline(STOPPED_SEC), cpu_seconds([qemu]) + WORKED_SEC
            tool.until(lambda: stopped.expired and cpu_seconds([qemu]) > worked_sec, "work of QEMU")  # noqa: B023
            tool.kill(signal.SIGCONT)
        outcome = tool.finish()
    assert outcome.status == 0, outcome.err
    assert any(line.endswith("| end") for line in outcome.lines)
    rows = {}
    for line in outcome.lines:
        name, *numbers = line.split() or [""]
        if name in COUNTS:
            rows[name] = [int(number.replace(",", "")) for number in numbers[:4]]
    assert {name: sum(row[:3]) for name, row in rows.items()} == COUNTS
    assert sum(lost for _, _, lost, _ in rows.values()) > 0
    assert all(exits <= hits for hits, _, _, exits in rows.values())


# A pad that waits for a host that has begun leaves it after 8 times the one; the host stands still for the other.
BOUND_SEC, STILL_SEC = 0.005, 0.05
# So many accesses to slots it does without standing still: no multiple of what a call takes, so that each has its turn.
ACCESSES = 997
# What is left of a round is lost, and the next one, too.
SHORT_ROUNDS, SHORT_CALLS = 60, 100


class Hesitant:
    """Words of a slot, with a host that stands still in front of some of its accesses."""

    def __init__(self, words: Any, turns: itertools.count[int]) -> None:
        self.words = words
        self.turns = turns

    def hesitate(self) -> None:
        if next(self.turns) % ACCESSES == 0:
            select.select([], [], [], STILL_SEC)

    def __getitem__(self, index: int) -> int:
        # These are read again and again while a pad has yet to see its answer.
        if 8 * index not in (Field.USE, Field.ANSWERED):
            self.hesitate()
        value: int = self.words[index]
        return value

    def __setitem__(self, index: int, value: int) -> None:
        self.hesitate()
        self.words[index] = value

    def release(self) -> None:
        self.words.release()


@pytest.fixture
def hesitant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts that stand still in front of some of their accesses to slots."""
    turns, made = itertools.count(1), Slots.__init__

    def make(slots: Slots, *arguments: Any) -> None:
        made(slots, *arguments)
        for slot in slots._slots:
            slot.words = Hesitant(slot.words, turns)  # type: ignore[assignment]

    monkeypatch.setattr(Slots, "__init__", make)


@pytest.mark.usefixtures("hesitant")
def test_a_host_that_stands_still_between_two_accesses(guest: Callable[..., Kernel]) -> None:
    """In the middle of taking a hit, of answering it, of saying what shall be changed: each call is counted once."""
    k = guest(kernel="6.1", smp=2, dispatch="trampoline", answer_sec=BOUND_SEC)
    probe = Fprobe(lambda *_: None, lambda *_: None, nr_maxactive=64)
    k.register_fprobe(probe, "__x64_sys_personality")
    both = f"workload calls {SHORT_CALLS} & workload calls {SHORT_CALLS}; wait"
    run(k, f"i=0; while [ $i -lt {SHORT_ROUNDS} ]; do {both}; usleep 20000; i=$((i+1)); done")
    calls = 2 * SHORT_ROUNDS * SHORT_CALLS
    k.unregister_fprobe(probe)
    assert probe.hits + probe.nmissed + probe.lost == calls
    assert probe.lost > 0
    assert calls // 10 < probe.exits <= probe.hits
