"""fprobe's rules on real guests: what handlers see, which writes take effect, recursion, kprobes, calls in flight."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fprobe_gdb import FPROBE_FL_ANY_FUNCTION, FPROBE_FL_KPROBE_SHARED, EntryData, Fprobe, Kernel, PtRegs
from fprobe_gdb.dispatch.base import RunEnd
from fprobe_gdb.errors import GuestCallError, InvalidProbe, MemoryFault, TooManySites
from fprobe_gdb.events import MissReason
from tests.integration.guest_calls import TRIGGER, in_handler

pytestmark = pytest.mark.qemu

KERNELS = pytest.mark.parametrize("kernel", ["6.1", "6.12"])
Guest = Callable[..., Kernel]


class Log:
    """Fprobes that note the order of their handlers."""

    def __init__(self, k: Kernel) -> None:
        self.k = k
        self.lines: list[str] = []

    def fprobe(self, name: str, **more: int) -> Fprobe:
        def on_entry(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
            self.lines.append(f"{name} entry {self.k.records.name_at(ip)}")

        def on_exit(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
            self.lines.append(f"{name} exit {self.k.records.name_at(ip)}")

        return Fprobe(on_entry, on_exit, name=name, nr_maxactive=16, **more)


@KERNELS
def test_registers_as_handlers_see_them(guest_of_each_dispatch: Guest, kernel: str) -> None:
    """ip behind the fentry instruction and sp at the return slot at entry; ip and sp of the caller at exit."""
    k = guest_of_each_dispatch(kernel=kernel)
    seen: list[tuple[int, ...]] = []

    def on_entry(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
        assert regs.ip == ip + 5
        assert k.read_u64(regs.sp) == ret_ip
        assert (regs.orig_ax, regs.cs, regs.ss) == (0, 0x10, 0x18)
        seen.append((regs.di, regs.si, regs.sp, ret_ip))

    def on_exit(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
        assert regs.ip == ret_ip
        assert regs.orig_ax == (1 << 64) - 1
        seen.append((regs.ax, regs.sp, ret_ip))

    fp = Fprobe(on_entry, on_exit)
    k.register_fprobe(fp, "gcd")
    in_handler(k, lambda: k.call("gcd", 12, 18))
    (di, si, sp, entry_ret_ip), (ax, exit_sp, exit_ret_ip) = seen
    assert (di, si, ax) == (12, 18, 6)
    assert (exit_sp, exit_ret_ip) == (sp + 8, entry_ret_ip)


@KERNELS
@pytest.mark.parametrize("backend", ["rsp", "gdb"])
def test_writes_that_take_effect(guest_of_each_dispatch: Guest, kernel: str, backend: str) -> None:
    """Arguments at entry reach the function, ax at exit reaches the caller; ip at exit reaches nobody but handlers."""
    k = guest_of_each_dispatch(kernel=kernel, backend=backend)
    exit_ips: list[int] = []

    def change_argument(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
        regs.di = 100

    def change_result(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
        regs.ax += 4242
        regs.ip = 0x1234

    def look(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
        exit_ips.append(regs.ip)

    first, second = Fprobe(change_argument, change_result), Fprobe(None, look)
    k.register_fprobe(first, "gcd")
    k.register_fprobe(second, "gcd")
    # Exits run oldest first, so the second one sees the first one's ip.
    assert in_handler(k, lambda: k.call("gcd", 12, 75)) == 25 + 4242
    assert exit_ips == [0x1234]


@KERNELS
def test_ip_written_at_entry_is_where_the_guest_goes_on(guest_of_each_dispatch: Guest, kernel: str) -> None:
    """As the kernel's: execution continues at regs->ip."""
    k = guest_of_each_dispatch(kernel=kernel)
    other = k.records.ftrace_location(k.address("int_sqrt"))

    def detour(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
        regs.ip = other + 5

    k.register_fprobe(Fprobe(detour), "gcd")
    assert in_handler(k, lambda: k.call("gcd", 144, 5)) == 12


@KERNELS
@pytest.mark.parametrize("backend", ["rsp", "gdb"])
def test_override_return_skips_the_function(guest_of_each_dispatch: Guest, kernel: str, backend: str) -> None:
    """The function's body does not run, exit handlers do, and the program in the guest sees the error."""
    k = guest_of_each_dispatch(kernel=kernel, backend=backend)
    retvals: list[int] = []

    def on_entry(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
        regs.override_return(-1)

    def on_exit(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
        retvals.append(regs.ax)

    fp = Fprobe(on_entry, on_exit)
    k.register_fprobe(fp, TRIGGER)
    result = k.shell("workload calls 1")
    assert result.status == 1
    assert "Operation not permitted" in result.text
    assert retvals == [(1 << 64) - 1]
    assert (fp.hits, fp.exits) == (1, 1)
    k.unregister_fprobe(fp)
    assert k.shell("workload calls 3").status == 0


@KERNELS
def test_entries_newest_first_exits_oldest_first(guest_of_each_dispatch: Guest, kernel: str) -> None:
    """Several fprobes on one function."""
    k = guest_of_each_dispatch(kernel=kernel)
    log = Log(k)
    for name in "ABC":
        k.register_fprobe(log.fprobe(name), "gcd")
    in_handler(k, lambda: k.call("gcd", 12, 18))
    assert log.lines == [f"{name} entry gcd" for name in "CBA"] + [f"{name} exit gcd" for name in "ABC"]


@KERNELS
def test_tail_call(guest_of_each_dispatch: Guest, kernel: str) -> None:
    """__x64_sys_readv jumps to do_readv: one return ends both, the inner first; ret_ip is the real one for both.

    The reads block, so two tasks are inside at once.
    """
    k = guest_of_each_dispatch(kernel=kernel)
    calls: dict[int, list[tuple[str, int, int]]] = {}

    def note(what: str) -> Callable[..., None]:
        def handler(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
            frame = regs.sp if what == "entry" else regs.sp - 8
            calls.setdefault(k.task, []).append((f"{what} {k.records.name_at(ip)}", frame, ret_ip))

        return handler

    fp = Fprobe(note("entry"), note("exit"), nr_maxactive=16)
    k.register_fprobe_syms(fp, ["__x64_sys_readv", "do_readv"])
    assert k.shell("workload pipe 5").status == 0
    assert (fp.hits, fp.exits, fp.nmissed, len(calls)) == (20, 20, 0, 2)
    order = ["entry __x64_sys_readv", "entry do_readv", "exit do_readv", "exit __x64_sys_readv"]
    for lines in calls.values():
        assert [what for what, _, _ in lines] == order * 5
        for first in range(0, len(lines), 4):
            assert len({(frame, ret_ip) for _, frame, ret_ip in lines[first : first + 4]}) == 1


@KERNELS
@pytest.mark.parametrize("backend", ["rsp", "gdb"])
def test_handler_that_calls_its_own_function(guest_of_each_dispatch: Guest, kernel: str, backend: str) -> None:
    """It runs once more inside itself, the third time is a miss: here the trigger's handler is the first level."""
    k = guest_of_each_dispatch(kernel=kernel, backend=backend)
    depth: list[int] = []

    def on_entry(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
        depth.append(len(depth))
        assert k.call("gcd", 12, 18) == 6

    trigger, fp = Fprobe(on_entry), Fprobe(on_entry)
    k.register_fprobe(fp, "gcd")
    k.register_fprobe(trigger, TRIGGER)
    assert k.shell("workload calls 1").status == 0
    assert (trigger.hits, fp.hits, fp.nmissed) == (1, 1, 1)


@KERNELS
def test_two_fprobes_that_call_their_own_function(guest_of_each_dispatch: Guest, kernel: str) -> None:
    """The recursion guard counts a miss for each fprobe at each refused hit."""
    k = guest_of_each_dispatch(kernel=kernel)
    reasons: list[MissReason] = []
    k.on_missed = lambda fp, ip, hit, reason: reasons.append(reason)
    runs: list[str] = []

    def handler(name: str) -> Callable[..., None]:
        def on_entry(*_args: object) -> None:
            runs.append(name)
            k.call("gcd", 12, 18)

        return on_entry

    first, second = Fprobe(handler("first")), Fprobe(handler("second"))
    k.register_fprobe(first, "gcd")
    k.register_fprobe(second, "gcd")
    in_handler(k, lambda: k.call("gcd", 12, 18))
    # The trigger's handler holds the callbacks' normal bit, so they have the transition bit alone: the outer call runs
    # both handlers (newest first), each of which calls gcd, where the list function still lets in (its transition bit)
    # but the callbacks do not; what calls gcd from there does not exist, so nothing is lost here.
    assert runs == ["second", "first"]
    assert (first.hits, first.nmissed, first.lost) == (second.hits, second.nmissed, second.lost) == (1, 2, 0)
    assert reasons == [MissReason.RECURSION] * 4


@KERNELS
def test_kprobe_shared_reads_the_guests_current_kprobe(guest_of_each_dispatch: Guest, kernel: str) -> None:
    """A kprobe event of the guest's own that fetches a string runs strncpy_from_kernel_nofault inside its handler."""
    k = guest_of_each_dispatch(kernel=kernel)
    shared = Fprobe(lambda *_: None, flags=FPROBE_FL_KPROBE_SHARED)
    plain = Fprobe(lambda *_: None)
    k.shell(
        f"cd /sys/kernel/tracing && echo 'p:shared {TRIGGER} s=+0(%di):string' >kprobe_events &&"
        " echo 1 >events/kprobes/shared/enable"
    )
    try:
        k.register_fprobe(shared, "strncpy_from_kernel_nofault")
        k.register_fprobe(plain, "strncpy_from_kernel_nofault")
        assert k.shell("workload calls 4").status == 0
    finally:
        k.unregister_all()
        k.shell("cd /sys/kernel/tracing && echo 0 >events/kprobes/shared/enable; echo >kprobe_events; echo >trace")
    assert plain.hits >= 4
    assert (shared.hits, shared.nmissed) == (0, plain.hits)


@KERNELS
def test_calls_in_flight_at_unregister_and_disable(guest_of_each_dispatch: Guest, kernel: str) -> None:
    """Unregister or disable between entry and exit: the call returns normally, unseen, and is no miss."""
    k = guest_of_each_dispatch(kernel=kernel)
    gone, quiet, witness = Fprobe(None, lambda *_: None), Fprobe(None, lambda *_: None), Fprobe(None, lambda *_: None)

    def inside(*_args: object) -> None:
        k.unregister_fprobe(gone)
        k.disable_fprobe(quiet)

    k.register_fprobe_syms(gone, ["lcm"])
    k.register_fprobe_syms(quiet, ["lcm"])
    k.register_fprobe_syms(witness, ["lcm"])
    k.register_fprobe(Fprobe(inside), "gcd")
    assert in_handler(k, lambda: k.call("lcm", 12, 18)) == 36
    assert (gone.hits, gone.exits, gone.nmissed) == (1, 0, 0)
    assert (quiet.hits, quiet.exits, quiet.nmissed) == (1, 0, 0)
    assert (witness.hits, witness.exits) == (1, 1)
    assert k.calls_in_flight == 0


def test_unregister_while_a_task_sleeps_in_the_function(guest_of_each_dispatch: Guest) -> None:
    """The sleeping call is in flight across runs; after unregister it returns unseen."""
    k = guest_of_each_dispatch()
    fp = Fprobe(lambda *_: k.stop(), lambda *_: None)
    k.register_fprobe(fp, "vfs_readv")
    running = k.start("workload pipe 1")
    done = lambda: running.poll() is not None  # noqa: E731
    assert k.run(timeout_sec=60, until=done) is RunEnd.DONE
    assert fp.hits == 1
    assert k.calls_in_flight == 1
    k.unregister_fprobe(fp)
    assert k.run(timeout_sec=60, until=done) is RunEnd.DONE
    result = running.poll()
    assert result is not None
    assert result.status == 0
    assert fp.exits == 0
    assert k.calls_in_flight == 0


@KERNELS
@pytest.mark.parametrize("backend", ["rsp", "gdb"])
def test_functions_without_fentry(guest_of_each_dispatch: Guest, kernel: str, backend: str) -> None:
    """An assembly function and a noinstr one, probed at their first instruction and stepped over correctly."""
    k = guest_of_each_dispatch(kernel=kernel, backend=backend)
    with pytest.raises(InvalidProbe, match="no fentry"):
        k.register_fprobe(Fprobe(lambda *_: None), "__sw_hweight32")
    results: list[int] = []
    weight = Fprobe(None, lambda fp, ip, ret_ip, regs, data: results.append(regs.ax), flags=FPROBE_FL_ANY_FUNCTION)
    k.register_fprobe(weight, "__sw_hweight32")
    values = [0xFF, 0x8000_0001, (1 << 32) - 1]
    assert in_handler(k, lambda: [k.call("__sw_hweight32", value) for value in values]) == [8, 2, 32]
    assert weight.hits >= 3
    assert [value for value in results if value in (8, 2, 32)][-3:] == [8, 2, 32]
    k.unregister_fprobe(weight)

    # do_syscall_64(struct pt_regs *regs, int nr), noinstr: personality is 135 in arch/x86/entry/syscalls.
    numbers: list[int] = []
    syscalls = Fprobe(lambda fp, ip, ret_ip, regs, data: numbers.append(regs.si), flags=FPROBE_FL_ANY_FUNCTION)
    k.register_fprobe(syscalls, "do_syscall_64")
    assert k.shell("workload calls 5").status == 0
    assert numbers.count(135) == 5


def test_call_outside_handlers_is_refused(guest_of_each_dispatch: Guest) -> None:
    k = guest_of_each_dispatch()
    with pytest.raises(GuestCallError, match="handler"):
        k.call("gcd", 1, 2)


def test_call_that_sleeps(guest_of_each_dispatch: Guest) -> None:
    """A guest function that schedules: msleep. Other vCPUs and tasks run meanwhile."""
    k = guest_of_each_dispatch()
    before_ns = []

    def body() -> int:
        before_ns.append(k.time_ns)
        k.call("msleep", 20)
        return k.call("gcd", 9, 6)

    assert in_handler(k, body) == 3
    assert k.time_ns - before_ns[0] >= 20_000_000


def test_unmapped_memory_is_a_typed_error(guest_of_each_dispatch: Guest) -> None:
    k = guest_of_each_dispatch()
    faults: list[int] = []

    def on_entry(*_args: object) -> None:
        with pytest.raises(MemoryFault) as caught:
            k.read_memory(0xDEAD_0000_0000, 8)
        faults.append(caught.value.addr)

    fp = Fprobe(on_entry)
    k.register_fprobe(fp, TRIGGER)
    assert k.shell("workload calls 2").status == 0
    assert len(faults) == 2


def test_too_many_functions_are_refused(guest: Guest) -> None:
    """The limit of this dispatch is told, nothing is planted, and it can be raised."""
    k = guest()
    with pytest.raises(TooManySites) as caught:
        k.register_fprobe(Fprobe(lambda *_: None), "*")
    assert caught.value.count > 30_000
    assert str(caught.value.limit) in str(caught.value)
    assert "--max-sites" in str(caught.value)
    assert not k.fprobes


@KERNELS
def test_default_pool_counts_functions_and_possible_cpus(guest_of_each_dispatch: Guest, kernel: str) -> None:
    """functions x possible CPUs x 2 nodes: recursion four deep on one function with two CPUs just fits."""
    k = guest_of_each_dispatch(kernel=kernel)
    assert k.num_possible_cpus() == 2
    fp, small = Fprobe(None, lambda *_: None), Fprobe(None, lambda *_: None, nr_maxactive=2)
    k.register_fprobe(fp, "ep_loop_check_proc")
    k.register_fprobe(small, "ep_loop_check_proc")
    assert k.shell("workload recursive 4 3").status == 0
    assert (fp.hits, fp.exits, fp.nmissed) == (15, 15, 0)
    # The outermost two of each chain of four have the nodes.
    assert (small.hits, small.exits, small.nmissed) == (3 + 3 * 2, 3 + 3 * 2, 3 * 2)


@pytest.mark.parametrize(("kernel", "kaslr"), [("6.1", False), ("6.12", True)])
def test_probes_from_the_first_instruction(kernel: str, kaslr: bool, dispatch: str) -> None:
    """Functions of early boot, before and after ftrace_init() turns calls into NOPs; ``__init`` ones too."""
    with Kernel.boot(kernel, backend="rsp", dispatch=dispatch, kaslr=kaslr, wait=False) as k:
        order: list[str] = []

        def on_entry(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
            order.append(k.records.name_at(ip))

        def on_exit(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: EntryData | None) -> None:
            order.append(f"/{k.records.name_at(ip)}")

        fp = Fprobe(on_entry, on_exit)
        k.register_fprobe_syms(fp, ["start_kernel", "trap_init", "console_init", "rest_init"])
        k.wait_boot()
        assert order == ["start_kernel", "trap_init", "/trap_init", "console_init", "/console_init", "rest_init"]
        assert k.shell("echo up").output == b"up\n"
        with pytest.raises(InvalidProbe, match="gone after boot"):
            k.register_fprobe(Fprobe(lambda *_: None), "start_kernel")
