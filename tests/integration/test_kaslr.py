"""A guest that chose its own address: symbols, probes, exits, stacks and the task reaper follow it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fprobe_gdb import EntryData, Fprobe, Kernel, PtRegs
from images.workload_counts import counts
from tests.integration.test_dispatch_counts import Recorder

pytestmark = pytest.mark.qemu

DISPATCHES = ("breakpoint", "trampoline")


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_probes_follow_kaslr(guest_of_each_dispatch: Callable[..., Kernel], kernel: str) -> None:
    k = guest_of_each_dispatch(kernel=kernel)
    # /proc/kallsyms is the judge.
    line = k.shell("grep ' vfs_readv$' /proc/kallsyms").text
    assert k.address("vfs_readv") == int(line.split()[0], 16)
    assert k.slide % (2 << 20) == 0
    stacks: list[list[str]] = []

    def on_entry(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
        assert k.records.name_at(ip) == "vfs_readv"
        stacks.append([k.symbolize(frame.ip).split("+")[0] for frame in k.stack()])

    k.register_fprobe(Fprobe(on_entry), "vfs_readv")
    for command in (["pipe", "5"], ["killed", "3"], ["exit_in", "3"]):
        recorders = [(Recorder(k, count.function), count) for count in counts(command)]
        assert k.shell("workload " + " ".join(command)).status == 0
        for recorder, count in recorders:
            recorder.check(count)
            k.unregister_fprobe(recorder.fprobe)
    assert len(stacks) == 10 + 3
    assert {stack[0] for stack in stacks} == {"vfs_readv"}
    assert {stack[-1] for stack in stacks} == {"entry_SYSCALL_64_after_hwframe"}
    assert k.calls_in_flight == 0


def test_boots_choose_different_addresses(guest: Callable[..., Kernel]) -> None:
    """Not all of four boots choose the same one of some 500."""
    slides = [guest(kernel=kernel, dispatch=way).slide for kernel in ("6.1", "6.12") for way in DISPATCHES]
    assert len(set(slides)) > 1


@pytest.mark.gdb
def test_the_boot_is_probed_where_kaslr_has_put_it() -> None:
    """The first function is planted before it runs, through gdb too."""
    with Kernel.boot("6.1", backend="gdb", wait=False) as k:
        order: list[str] = []
        fp = Fprobe(lambda fp, ip, *_: order.append(k.records.name_at(ip)))
        k.register_fprobe_syms(fp, ["start_kernel", "rest_init"])
        k.wait_boot()
        assert order == ["start_kernel", "rest_init"]
        assert k.address("start_kernel") == k.knowledge.symbols.one("start_kernel") + k.slide
        assert "start_kernel" in k.shell(f"grep {k.address('start_kernel'):x} /proc/kallsyms").text


def test_without_kaslr_the_addresses_are_those_of_the_image(guest: Callable[..., Kernel]) -> None:
    k = guest(kaslr=False)
    assert k.slide == 0
    assert f"{k.knowledge.symbols.one('vfs_read'):x} T vfs_read\n" in k.shell("grep vfs_read /proc/kallsyms").text
