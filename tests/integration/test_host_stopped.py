"""The tool is stopped and continued in the middle of its work: no call is lost uncounted, none is counted twice."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from emu.deadline import Deadline
from tests.bench.cpu_time import cpu_seconds
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
