"""Exact counts and exact pairing on real kernels: the workload says how often it calls what, and we must see just that.

The workload's own table (images.workload_counts) is checked against the guest's tracers in test_images.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import pytest

from fprobe_gdb import Fprobe, Kernel, PtRegs
from images.workload_counts import EXAMPLES, Count, counts

pytestmark = pytest.mark.qemu

WAYS = [
    pytest.param(
        {"kernel": name, "backend": backend, "smp": smp, "dispatch": dispatch, "breakpoint": kind},
        id=f"{name}-{backend}-{smp}-{dispatch}-{kind}",
    )
    for name, backend, smp, dispatch, kind in (
        ("6.1", "rsp", 2, "breakpoint", "sw"),
        ("6.12", "rsp", 2, "breakpoint", "sw"),
        ("6.1", "gdb", 2, "breakpoint", "sw"),
        ("6.12", "gdb", 1, "breakpoint", "hw"),
        ("6.1", "rsp", 1, "breakpoint", "hw"),
        ("6.1", "rsp", 2, "trampoline", "sw"),
        ("6.12", "rsp", 2, "trampoline", "sw"),
        ("6.1", "gdb", 1, "trampoline", "sw"),
    )
]  # fmt: skip


class Recorder:
    """An fprobe on one function that pairs each exit with its own entry, by what entry_data carried over."""

    def __init__(self, k: Kernel, function: str, *, flags: int = 0) -> None:
        self._k = k
        self.entries: list[tuple[int, int, int]] = []
        self.retvals: list[int] = []
        self.open: dict[int, tuple[int, int, int]] = {}
        self.depth: dict[int, int] = defaultdict(int)
        self.deepest = 0
        # More nodes than any workload needs: by default two on a uniprocessor, and recursion would be missed.
        self.fprobe = Fprobe(
            self._on_entry, self._on_exit, entry_data_size=8, nr_maxactive=64, name=function, flags=flags
        )
        k.register_fprobe(self.fprobe, function)

    def _on_entry(self, fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: bytearray | None) -> None:
        assert data is not None
        number = len(self.entries)
        data[:] = number.to_bytes(8, "little")
        call = (self._k.task, regs.sp, ret_ip)
        # The word at [sp] is the return address, as the kernel's contract has it.
        assert self._k.read_u64(regs.sp) == ret_ip
        self.entries.append(call)
        self.open[number] = call
        self.depth[self._k.task] += 1
        self.deepest = max(self.deepest, self.depth[self._k.task])

    def _on_exit(self, fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: bytearray | None) -> None:
        assert data is not None
        task, sp, entry_ret_ip = self.open.pop(int.from_bytes(data, "little"))
        assert (task, sp + 8, entry_ret_ip) == (self._k.task, regs.sp, regs.ip)
        assert ret_ip == regs.ip
        self.depth[task] -= 1
        self.retvals.append(regs.ax - (1 << 64) if regs.ax >> 63 else regs.ax)

    def check(self, count: Count) -> None:
        fp = self.fprobe
        assert (fp.hits, fp.exits, fp.nmissed, fp.lost) == (count.entries, count.exits, 0, 0)
        assert len(self.entries) == count.entries
        assert len(self.open) == count.entries - count.exits
        assert self.deepest == count.depth or count.exits < count.entries
        if count.retval is not None:
            assert {value & 0xFFFFFFFF for value in self.retvals} <= {count.retval & 0xFFFFFFFF}


@pytest.mark.parametrize("command", EXAMPLES, ids=" ".join)
@pytest.mark.parametrize("way", WAYS)
def test_workload_is_counted_exactly(
    guest: Callable[..., Kernel], way: dict[str, object], command: tuple[str, ...]
) -> None:
    """Entries, exits, return values and nesting depth of every subcommand equal what the workload says it did."""
    if command[0] in ("migrate", "interleave") and way["smp"] == 1:
        pytest.skip(f"workload {command[0]} needs two CPUs")
    k = guest(**way)
    recorders = [(Recorder(k, count.function), count) for count in counts(command)]
    result = k.shell("workload " + " ".join(command), timeout_sec=120)
    assert result.status == 0, result.text
    for recorder, count in recorders:
        recorder.check(count)
    # Tasks that died inside a probed function have given their nodes back.
    assert k.calls_in_flight == 0
