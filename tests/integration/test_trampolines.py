"""What only trampolines have: the guest goes on while a handler runs, and it goes on without us when we are silent."""

from __future__ import annotations

import resource
from collections.abc import Callable

import pytest

from emu.deadline import Deadline
from fprobe_gdb import EntryData, Fprobe, Kernel, PtRegs
from fprobe_gdb.dispatch.base import RunEnd
from fprobe_gdb.dispatch.trampoline.dispatch import TrampolineDispatch
from fprobe_gdb.errors import GuestCallError, MemoryFault
from fprobe_gdb.events import MissReason
from fprobe_gdb.probe.hit import Hit
from fprobe_gdb.session.find_kernel import kernel_root
from fprobe_gdb.session.trampolines import kernel_cr3
from images.workload_counts import counts

pytestmark = pytest.mark.qemu

Guest = Callable[..., Kernel]
KERNELS = pytest.mark.parametrize("kernel", ["6.1", "6.12"])
_SEC = 120


def trampolines(k: Kernel) -> TrampolineDispatch:
    assert isinstance(k._dispatch, TrampolineDispatch)
    return k._dispatch


def let_run_without_us(k: Kernel, command: str) -> None:
    """Run a command in the guest, and look at no slot meanwhile."""
    trampolines(k).sync()
    running = k.start(command)
    k.target.resume()
    running.wait(Deadline(_SEC))
    k.target.interrupt()
    k.target.wait(Deadline(_SEC))


@KERNELS
def test_the_guest_goes_on_without_us(guest: Guest, kernel: str) -> None:
    """Nobody answers: every call is let through, whole and counted, and so are returns that we were waiting for."""
    k = guest(kernel=kernel, dispatch="trampoline", answer_sec=0.05)
    missed: list[tuple[int, MissReason, int]] = []

    def on_missed(fp: Fprobe, ip: int, hit: Hit, reason: MissReason) -> None:
        missed.append((ip, reason, hit.calls))

    k.on_missed = on_missed
    command = ("recursive", "4", "3")
    (count,) = counts(command)
    fp = Fprobe(lambda *_: None, lambda *_: None, nr_maxactive=64)
    k.register_fprobe_syms(fp, [count.function])
    let_run_without_us(k, "workload " + " ".join(command))
    # The next run counts them, and works as ever.
    assert k.shell("workload " + " ".join(command)).status == 0
    assert (fp.lost, fp.hits, fp.exits, fp.nmissed) == (count.entries, count.entries, count.exits, 0)
    assert missed == [(k.locations(fp)[0], MissReason.HOST_AWAY, count.entries)]
    assert k.calls_in_flight == 0


def test_returns_that_nobody_takes(guest: Guest) -> None:
    """We go silent while calls are in flight: they return to where they belong, and their nodes come back."""
    k = guest(dispatch="trampoline", answer_sec=0.05)
    fp = Fprobe(lambda *_: k.stop(), lambda *_: None, nr_maxactive=64)
    k.register_fprobe(fp, "vfs_read")
    running = k.start("cat /etc/motd")
    while fp.hits < 3:
        assert k.run(timeout_sec=_SEC) is RunEnd.DONE
    assert k.calls_in_flight
    k.target.resume()
    running.wait(Deadline(_SEC))
    k.target.interrupt()
    k.target.wait(Deadline(_SEC))
    fp.entry_handler = None
    assert k.shell("true").status == 0
    hits, exits = fp.hits, fp.exits
    assert hits > exits
    assert fp.lost > 0
    k.unregister_fprobe(fp)
    assert k.shell("true").status == 0
    assert (fp.hits, fp.exits) == (hits, exits)


def test_two_cpus_wait_at_the_same_time(guest: Guest) -> None:
    """Handlers run one after the other, and each hit gets its own answer."""
    k = guest(dispatch="trampoline", smp=2)
    waiting: list[int] = []

    def on_entry(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
        deadline = Deadline(2.0)
        # The other vCPU reaches its own pad while this one waits here.
        while 2 not in waiting and len(trampolines(k).waiting) < 2 and not deadline.expired:
            pass
        waiting.append(len(trampolines(k).waiting))

    fp = Fprobe(on_entry, None)
    k.register_fprobe(fp, "__x64_sys_personality")
    assert k.shell("workload calls 20 & workload calls 20; wait").status == 0
    assert fp.hits == 40
    assert max(waiting) == 2


def test_an_idle_guest_costs_next_to_nothing(guest: Guest) -> None:
    """With probes that nothing hits we sleep: less than 2 % of a core."""
    k = guest(dispatch="trampoline")
    fp = Fprobe(lambda *_: None)
    k.register_fprobe(fp, "vfs_symlink")
    # One of some: what this test session does beside it (collecting garbage) only adds.
    assert any(_processor_time_sec(lambda: k.run(timeout_sec=1.5)) < 0.03 for _ in range(5))


def _processor_time_sec(body: Callable[[], RunEnd]) -> float:
    before = resource.getrusage(resource.RUSAGE_SELF)
    assert body() is RunEnd.TIMEOUT
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_ten_times_the_functions_of_breakpoints(guest: Guest) -> None:
    """More than breakpoints would serve, planted and removed; text is what it was."""
    k = guest(dispatch="trampoline")
    fp = Fprobe(lambda *_: None)
    k.register_fprobe(fp, "*_read*")
    ips = k.locations(fp)
    before = {ip: k.read_memory(ip, 5) for ip in ips}
    assert len(ips) > 500
    assert k.shell("true").status == 0
    assert fp.hits > 0
    k.unregister_fprobe(fp)
    assert k.shell("true").status == 0
    assert {ip: k.read_memory(ip, 5) for ip in ips} == before


@pytest.mark.parametrize("backend", ["rsp", "gdb"])
def test_isolated_page_tables(backend: str) -> None:
    """CPUs that are in user mode whenever we plant have page tables then that do not map the kernel."""
    with Kernel.boot("6.1", backend=backend, dispatch="trampoline", smp=2, cmdline=("pti=on",)) as k:
        assert "isolation: enabled" in k.shell("dmesg").text
        k.shell("for i in 1 2; do (while :; do :; done) </dev/null >/dev/null 2>&1 & done")
        for _ in range(3):
            fp = Fprobe(lambda *_: None, lambda *_: None)
            k.register_fprobe(fp, "__x64_sys_personality")
            assert k.shell("workload calls 20").status == 0
            k.unregister_fprobe(fp)
            assert (fp.hits, fp.exits) == (20, 20)
            k.shell(":")


def test_a_cpu_in_user_mode_leads_to_the_kernels_page_tables() -> None:
    """It may be in user mode when a zone is to be mapped, too."""
    with Kernel.boot("6.1", backend="rsp", dispatch="trampoline", smp=2, cmdline=("pti=on",)) as k:
        k.shell("for i in 1 2; do (while :; do :; done) </dev/null >/dev/null 2>&1 & done")
        root = k.target.registers(0)["cr3"]
        deadline = Deadline(30)
        while not root & 1 << 12 and not deadline.expired:
            k.run(timeout_sec=0.02)
            root = k.target.registers(0)["cr3"]
        ram, addr = trampolines(k).ram, k.symbols.one("init_top_pgt")
        with pytest.raises(MemoryFault):
            ram.translate(root, addr)
        assert kernel_cr3(ram, kernel_root(k.target, 0), k.symbols) == trampolines(k).kernel_cr3


@pytest.mark.parametrize("side", ["entry", "exit"])
def test_a_guest_function_that_comes_back_when_nobody_waits_for_it(guest: Guest, side: str) -> None:
    """The handler that has called it has given up. Its hit is one all the same, and the call goes on."""
    k = guest(dispatch="trampoline")
    errors: list[GuestCallError] = []

    def call_once(*_: object) -> None:
        if not errors:
            with pytest.raises(GuestCallError, match="has not come back") as caught:
                k.call("msleep", 300, timeout_sec=0.05)
            errors.append(caught.value)
            with pytest.raises(GuestCallError, match="last guest call has not come back"):
                k.call("gcd", 9, 6)

    handlers = (call_once, lambda *_: None) if side == "entry" else (lambda *_: None, call_once)
    fp = Fprobe(*handlers)
    k.register_fprobe(fp, "__x64_sys_personality")
    assert k.shell("workload calls 20").status == 0
    assert len(errors) == 1
    # The return of a call whose entry was given up is not awaited.
    assert (fp.hits, fp.exits, fp.nmissed, fp.lost) == (20, 20 - (side == "entry"), 0, 0)
    assert k.calls_in_flight == 0
