"""Watchpoints, which our own client of the remote protocol has: on two QEMUs, with and without a monitor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from emu.deadline import Deadline
from fprobe_gdb.errors import WaitTimeout
from fprobe_gdb.target.base import BreakpointKind, Stop, StopKind
from fprobe_gdb.target.rsp import RspTarget
from tests.contract.program import COUNTERS, program
from tests.contract.rigs import qemu_rig

LIMIT_SEC = 20.0
#: The counters are somewhere in it.
RANGE = COUNTERS - 0x80000, 0x100000


@pytest.mark.qemu
@pytest.mark.parametrize(("qemu", "monitor"), [("installed", True), ("installed", False), ("qemu-10.0", True)])
def test_the_guest_stops_behind_each_access_to_a_large_range(
    qemu: str, monitor: bool, guest_image: Path, qemu_argv: Callable[[str], list[str]]
) -> None:
    with qemu_rig("rsp", qemu_argv(qemu), guest_image, 1, monitor=monitor) as rig:
        target = rig.target
        assert isinstance(target, RspTarget)
        target.insert_watchpoint(*RANGE)
        for rounds in (1, 2, 3):
            target.resume()
            assert target.wait(Deadline(LIMIT_SEC)) == Stop(StopKind.BREAKPOINT, 0)
            assert (rig.rounds(0), target.instruction_pointers()) == (rounds, [program(0).address("counted")])
        target.remove_watchpoint(*RANGE)
        target.insert_breakpoint(program(0).address("f"), BreakpointKind.SOFTWARE)
        target.resume()
        target.wait(Deadline(LIMIT_SEC))
        assert target.instruction_pointers() == [program(0).address("f")]
        target.remove_breakpoint(program(0).address("f"), BreakpointKind.SOFTWARE)
        target.resume()
        with pytest.raises(WaitTimeout):
            target.wait(Deadline(0.05))
