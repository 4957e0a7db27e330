"""Kernels beside the two that all tests run on: the oldest and the newest. Slow, since each is fetched first (60 MB).

``pytest -m slow tests/integration/test_other_kernels.py``
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emu.deadline import Deadline
from fprobe_gdb import Fprobe, Kernel
from fprobe_gdb.dispatch.base import RunEnd
from fprobe_gdb.probe.regs import PtRegs
from fprobe_gdb.session.record_tracer import RecordTracer
from fprobe_gdb.session.selection import Selection
from images.workload_counts import counts
from tests.integration.guest_tracer import TRACING
from tests.integration.list_sink import ListSink
from tests.integration.stranger import PAGE_BYTES, Stranger

pytestmark = [pytest.mark.qemu, pytest.mark.slow]

Guest = Callable[..., Kernel]
OTHERS = ("5.10", "newest")
# KASLR moves per-CPU variables of the newest kernels.
WAYS = ({"dispatch": "breakpoint"}, {"dispatch": "trampoline"}, {"dispatch": "trampoline", "kaslr": False})


@pytest.fixture(params=[(kernel, way) for kernel in OTHERS for way in WAYS], ids=lambda it: f"{it[0]}-{it[1]}")
def k(request: pytest.FixtureRequest, guest: Guest) -> Iterator[Kernel]:
    kernel, way = request.param
    found = guest(kernel=kernel, modules=("dummy",), **way)
    yield found
    found.unregister_all()
    found.shell("rmmod dummy")


def test_locations_are_those_of_the_guest(k: Kernel) -> None:
    lines = k.shell(f"cat {TRACING}/available_filter_functions", timeout_sec=300).text.split("\n")[:-1]
    ours = [record.name for record in k.records.records]
    table = k.knowledge.locations
    assert len(lines) == table.line_count
    # Up to 5.19 overridden weak functions are listed under the name of the symbol before, at which nothing is ever hit.
    assert not Counter(ours) - Counter(lines)
    if len(ours) == table.line_count:
        assert ours == lines


def test_counts_types_tasks_and_stacks(k: Kernel) -> None:
    seen: Counter[str] = Counter()

    def on_entry(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: object) -> object:
        comm, args, stack = k.current.comm, k.args(regs, ip), k.stack()
        assert k.symbolize(stack[-1].ip).startswith("entry_SYSCALL_64_after_hwframe")
        assert stack.complete
        if comm != "workload":
            return True
        seen[f"count={int(args['count'])}"] += 1
        return False

    returns: Counter[int] = Counter()
    fp = Fprobe(on_entry, lambda fp, ip, ret_ip, regs, data: returns.update((int(k.retval(regs, ip) or 0),)))
    k.register_fprobe(fp, "vfs_read")
    k.shell("workload read 5 100")
    assert seen["count=100"] == 5
    assert returns[100] == 5
    assert not fp.nmissed


def test_modules_come_and_go(k: Kernel) -> None:
    changes: list[tuple[str, bool, int]] = []
    k.on_module = lambda change: changes.append((change.module.name, change.loaded, len(change.sites)))
    fp = Fprobe(lambda *_: None, lambda *_: None)
    k.register_fprobe_mod(fp, "dummy_setup [dummy]", "dummy_dev_init [dummy]")
    k.shell("modprobe dummy; ip link add d1 type dummy; rmmod dummy")
    assert changes == [("dummy", True, 2), ("dummy", False, 2)]
    assert (fp.hits, fp.exits, fp.nmissed) == (4, 4, 0)
    assert k.locations(fp) == []


@pytest.mark.parametrize("kernel", OTHERS)
def test_a_guest_of_others_lends_and_gets_back(kernel: str, tmp_path: Path) -> None:
    guest = Stranger(kernel, tmp_path / "gdb.sock", smp=2)
    with guest.machine as machine:
        machine.wait_boot(Deadline(120))
        before, free_mib = guest.text(), guest.free_mib()
        (count,) = counts(("pipe", "10"))
        with guest.attach(recording=True) as k:
            probe = Fprobe(None, lambda *_: None, nr_maxactive=64)
            k.register_fprobe(probe, count.function)
            tracer = RecordTracer(k, ListSink(), quiet=True, block=True)
            functions = Selection(("*",), (count.function,)).now(k.records)
            places = [ip - k.address("_stext") for ip in functions]
            tracer.register(functions)
            running = machine.agent.start("workload pipe 10")
            assert k.run(timeout_sec=120, until=guest.ended(running)) is RunEnd.DONE
            summary = tracer.finish("done", None)
        assert guest.opened("cat /etc/motd") >= {"motd", "/etc/motd"}
        assert (probe.hits, probe.exits, probe.nmissed, probe.lost) == (count.entries, count.exits, 0, 0)
        assert len(functions) > 25_000
        assert summary.hits > 1000
        # These kernels patch some of their text by themselves, seconds after they are up (7.3: a branch on the clock).
        after = guest.text()
        assert [after[at : at + 5] for at in places] == [before[at : at + 5] for at in places]
        assert after[-2 * PAGE_BYTES :] == before[-2 * PAGE_BYTES :]
        assert guest.free_mib() >= free_mib - 3, "the zone takes 36"
