"""Recordings that are refused: each for its own reason, and nothing is left of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from fprobe_gdb.dispatch.trampoline.pad_expr import Asked, Caller, Compare, Imm
from fprobe_gdb.dispatch.trampoline.record_format import RecordForm
from fprobe_gdb.dispatch.trampoline.recorder import RecordProbe
from fprobe_gdb.dispatch.trampoline.zone import HOST_NODES, MAX_NODES, MAX_PROBES
from fprobe_gdb.errors import RecordNoNodes, RecordNoRing, RecordRefused, RecordTooMany, SiteNoCode
from tests.unit.dispatch.record_machine import FUNCTION, TASK_DEAD, TEXT, RecordMachine


def add(machine: RecordMachine, *ips: int, returns: bool = False, **more: Any) -> RecordProbe:
    return machine.recorder.add(ips, RecordForm(returns), lambda batch: None, nr_maxactive=1 << 20, **more)


def test_questions_that_do_not_fit_are_refused() -> None:
    """Nothing is left of them, and others find as much room as before."""
    machine = RecordMachine(cpus=1)
    ips = range(TEXT, TEXT + 16 * 4096, 16)
    asked = {ip: Asked(at_entry=Compare("==", Caller(), Imm(ip), False)) for ip in ips}
    for _ in range(2):
        with pytest.raises(SiteNoCode) as caught:
            add(machine, *ips, asked=asked)
        assert caught.value.ip in asked
        assert not machine.recorder.ips
        first = add(machine, *ips[:700], asked=asked)
        machine.recorder.remove(first)
    probe = machine.record(FUNCTION)
    machine.call(FUNCTION)
    machine.take()
    assert probe.hits == 1


# Record one function after the other until that is refused, and give the probes.
def add_until(
    machine: RecordMachine, error: type[RecordRefused], ips: Iterable[int], *, returns: bool
) -> list[RecordProbe]:
    probes = []
    try:
        for ip in ips:
            probes.append(add(machine, ip, returns=returns))
    except error:
        return probes
    pytest.fail("nothing was refused")


def test_a_recording_that_does_not_fit_is_refused() -> None:
    machine = RecordMachine(cpus=1)
    ips = iter(range(TEXT, TEXT + 4096, 16))
    taken = add_until(machine, RecordNoNodes, ips, returns=True)
    assert sum(probe.nr_maxactive for probe in taken) == MAX_NODES - HOST_NODES
    assert machine.recorder.ips == {ip for probe in taken for ip in probe.ips} | {TASK_DEAD}
    taken += add_until(machine, RecordTooMany, ips, returns=False)
    assert len(taken) == MAX_PROBES - 1
    for probe in taken:
        machine.recorder.remove(probe)
    assert machine.recorder.pools.free == MAX_NODES - HOST_NODES
    assert not machine.recorder.ips


def test_a_zone_without_rings_records_nothing() -> None:
    with pytest.raises(RecordNoRing, match="1 CPUs"):
        add(RecordMachine(zone_mib=4, cpus=1), FUNCTION)
