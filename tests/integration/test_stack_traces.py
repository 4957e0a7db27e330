"""Our stack traces equal, frame by frame, those that the guest's own tracer takes of the same calls.

The guest has a kprobe event on a function and the trace option ``stacktrace``; we have an fprobe on the same function.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable

import pytest

from fprobe_gdb import Fprobe, Kernel
from fprobe_gdb.kernel.unwind import Frame, Recover, StackTrace, Unwinder

pytestmark = pytest.mark.qemu

TRACING = "/sys/kernel/tracing"
KERNELS = ("6.1", "6.12")
Trace = tuple[str, ...]

_STACK = re.compile(r"^.+-\d+ +\[(\d+)\] .*: <stack trace>$")
_FRAME = re.compile(r"^ => ([^/]+)")


class Stacks:
    """An fprobe that keeps the stack of each of its hits, by CPU."""

    def __init__(self, k: Kernel, function: str, recover: Recover | None = None) -> None:
        self._k = k
        self._recover = recover
        self.unwinder = Unwinder.of(k.knowledge.image, k.knowledge.symbols, slide=k.slide)
        self.traces: dict[int, list[Trace]] = defaultdict(list)
        self.walks: list[StackTrace] = []
        #: The same without anybody who knows hooked return slots.
        self.alone: list[StackTrace] = []
        k.register_fprobe_syms(Fprobe(self._on_entry, name=function), [function])

    def _on_entry(self, *_args: object) -> None:
        registers = self._k._dispatch.current.registers
        self.alone.append(self.unwinder.walk(registers, self._k.read_memory))
        walk = self.unwinder.walk(registers, self._k.read_memory, recover=self._recover)
        self.walks.append(walk)
        # tracefs looks up the return address itself.
        self.traces[self._k.cpu].append(tuple(self._k.symbolize(frame.ip) for frame in walk))


def guest_traces(text: str) -> dict[int, list[Trace]]:
    """The stack traces in the text of a ``trace`` file, by CPU."""
    found: dict[int, list[list[str]]] = defaultdict(list)
    cpu = 0
    for line in text.splitlines():
        if stack := _STACK.match(line):
            cpu = int(stack[1])
            found[cpu].append([])
        elif frame := _FRAME.match(line):
            found[cpu][-1].append(frame[1])
    return {cpu: [tuple(trace) for trace in traces] for cpu, traces in found.items()}


def trace_in_guest(
    k: Kernel, function: str, command: str, before: str = "true", after: str = "true"
) -> dict[int, list[Trace]]:
    """What the guest's tracer sees of a function while a command runs."""
    event = f"{TRACING}/events/kprobes/oracle/enable"
    result = k.shell(
        f"cd {TRACING}; echo 'p:oracle {function}' >kprobe_events; echo 1 >options/stacktrace; "
        f"echo 1 >options/sym-offset; {before}; echo >trace; echo 1 >{event}; {command} >/dev/null; echo 0 >{event}; "
        f"cat trace; {after}; "
        "echo >trace; echo 0 >options/stacktrace; echo 0 >options/sym-offset; echo >kprobe_events",
        timeout_sec=300,
    )
    assert result.status == 0, result.text
    return guest_traces(result.text)


def counted(traces: dict[int, list[Trace]], function: str) -> Counter[tuple[int, Trace]]:
    """Traces of a function by CPU, in no order.

    Between a hit of ours and the guest's record of it an interrupt may come. The first frame's offset is left out: a
    location is not where the kprobe is.
    """
    return Counter(
        (cpu, (function, *trace[1:]))
        for cpu, found in traces.items()
        for trace in found
        if trace[0].partition("+")[0] == function
    )


CASES = [
    pytest.param("vfs_read", "workload read 5 100", 5, "entry_SYSCALL_64_after_hwframe", id="system-call"),
    pytest.param("unix_dgram_sendmsg", "workload nested 3", 12, "___sys_sendmsg", id="nested"),
    pytest.param("ep_loop_check_proc", "workload recursive 4 2", 11, "ep_loop_check_proc", id="recursive"),
    pytest.param("handle_mm_fault", "cat /etc/motd", 20, "asm_exc_page_fault", id="page-fault"),
    pytest.param("update_process_times", "usleep 100000", 3, "asm_sysvec_apic_timer_interrupt", id="hard-interrupt"),
    # An idle guest has three to ten timers a second.
    pytest.param("run_timer_softirq", "usleep 2000000", 3, "__irq_exit_rcu", id="soft-interrupt"),
    # The file's reader has work done on each CPU (mm/vmstat.c, vmstat_refresh).
    pytest.param("process_one_work", "cat /proc/sys/vm/stat_refresh", 1, "ret_from_fork", id="kernel-thread"),
]


@pytest.mark.parametrize(("function", "command", "least", "through"), CASES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_trace_is_what_the_guest_says(
    guest: Callable[..., Kernel], kernel: str, function: str, command: str, least: int, through: str
) -> None:
    k = guest(kernel=kernel)
    stacks = Stacks(k, function)
    theirs = counted(trace_in_guest(k, function, command), function)
    # The guest's event is enabled for less time than our probe.
    assert theirs.total() >= least
    assert not theirs - counted(stacks.traces, function)
    assert any(through in frame for _, trace in theirs for frame in trace)
    # Thunks that the kernel has no unwind information for may be interrupted too; its own trace ends there as well.
    assert [walk.why for walk in stacks.walks if not walk.complete and " __x86_indirect_thunk" not in walk.why] == []
    assert all(frame.reliable for walk in stacks.walks for frame in walk)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_return_has_the_callers_of_its_entry(guest_of_each_dispatch: Callable[..., Kernel], kernel: str) -> None:
    """At the return address the same frames are left, without the function that returned."""
    k = guest_of_each_dispatch(kernel=kernel)
    unwinder = Unwinder.of(k.knowledge.image, k.knowledge.symbols, slide=k.slide)
    open_calls: list[tuple[Frame, ...]] = []
    checked = 0

    def walk() -> StackTrace:
        return unwinder.walk(k._dispatch.current.registers, k.read_memory, recover=k._dispatch.recover_return)

    def on_entry(*_args: object) -> None:
        open_calls.append(walk()[1:])

    def on_exit(*_args: object) -> None:
        nonlocal checked
        checked += 1
        trace = walk()
        assert trace.complete
        assert [(f.ip, f.sp) for f in trace] == [(f.ip, f.sp) for f in open_calls.pop()]

    k.register_fprobe_syms(Fprobe(on_entry, on_exit, nr_maxactive=64), ["ep_loop_check_proc"])
    result = k.shell("workload recursive 4 2")
    assert result.status == 0, result.text
    assert checked == 11


@pytest.mark.parametrize("tracer", ["kretprobe", "function_graph"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_return_slots_that_the_guests_tracers_took(guest: Callable[..., Kernel], kernel: str, tracer: str) -> None:
    """Without help a trace says that it ends at a hook; with the slots' old contents it is what the guest says."""
    inner = "rw_verify_area"
    k = guest(kernel=kernel)
    slots: dict[int, int] = {}
    # Ours comes first at the location, so it sees the slot before the guest's tracer takes it.
    k.register_fprobe_syms(Fprobe(lambda fp, ip, ret_ip, regs, data: slots.update({regs.sp: ret_ip})), ["vfs_read"])
    stacks = Stacks(k, inner, lambda slot, value: slots.get(slot))
    before, after = {
        "kretprobe": (
            "echo 'r:taker vfs_read' >>kprobe_events; echo 1 >events/kprobes/taker/enable",
            "echo 0 >events/kprobes/taker/enable",
        ),
        "function_graph": (
            "echo vfs_read >set_ftrace_filter; echo function_graph >current_tracer",
            "echo nop >current_tracer; echo >set_ftrace_filter",
        ),
    }[tracer]
    theirs = counted(trace_in_guest(k, inner, "workload read 5 100", before, after), inner)
    assert theirs.total() >= 5
    assert not theirs - counted(stacks.traces, inner)
    hooked = [walk for walk in stacks.walks if any(frame.hooked for frame in walk)]
    assert len(hooked) >= 5
    assert all(walk.complete and all(frame.reliable for frame in walk) for walk in hooked)
    alone = [walk for walk in stacks.alone if any(frame.hooked for frame in walk)]
    assert len(alone) == len(hooked)
    for walk in alone:
        assert not walk.complete
        assert "nobody knows where" in walk.why
        assert (walk[-1].hooked, walk[-1].reliable) == (True, False)


@pytest.mark.parametrize("kernel", KERNELS)
def test_through_an_ftrace_trampoline(guest: Callable[..., Kernel], kernel: str) -> None:
    """A function that the guest's own kprobe handler calls: kprobe and trampoline lie between it and vfs_read."""
    k = guest(kernel=kernel)
    stacks = Stacks(k, "strncpy_from_kernel_nofault")
    event = f"{TRACING}/events/kprobes/oracle"
    # The trigger takes the stack a little later in the same handler, from where it is.
    result = k.shell(
        f"cd {TRACING}; echo 'p:oracle vfs_read text=+0(%sp):string' >kprobe_events; echo stacktrace >{event}/trigger; "
        f"echo 1 >options/sym-offset; echo >trace; echo 1 >{event}/enable; workload read 5 100 >/dev/null; "
        f"echo 0 >{event}/enable; echo '!stacktrace' >{event}/trigger; cat trace; "
        "echo >trace; echo 0 >options/sym-offset; echo >kprobe_events",
        timeout_sec=120,
    )
    theirs = guest_traces(result.text)
    assert sum(map(len, theirs.values())) >= 5
    assert {cpu: [tail(trace) for trace in traces] for cpu, traces in theirs.items()} == {
        cpu: [tail(trace) for trace in traces] for cpu, traces in stacks.traces.items()
    }
    for walk in stacks.walks:
        assert walk.complete
        assert all(frame.reliable for frame in walk)
        assert "[FTRACE TRAMPOLINE]" in map(stacks.unwinder.symbolize, walk)


# What the two have in common.
def tail(trace: Trace) -> Trace:
    start = next(index for index, frame in enumerate(trace) if frame.startswith("kprobe_dispatcher"))
    assert len(trace) - start >= 6
    return trace[start:]


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_trace_is_one_read(guest: Callable[..., Kernel], kernel: str) -> None:
    """A read may be a round trip to the guest, so all of the stack comes in one."""
    k = guest(kernel=kernel)
    unwinder = Unwinder.of(k.knowledge.image, k.knowledge.symbols, slide=k.slide)
    reads: list[int] = []
    frames = 0

    def read(addr: int, size_bytes: int) -> bytes:
        reads[-1] += 1
        return k.read_memory(addr, size_bytes)

    def on_entry(*_args: object) -> None:
        nonlocal frames
        reads.append(0)
        frames += len(unwinder.walk(k.target.registers(k.cpu), read))

    k.register_fprobe_syms(Fprobe(on_entry), ["unix_dgram_sendmsg"])
    k.shell("workload nested 10")
    assert len(reads) == 40
    assert set(reads) == {1}
    assert frames >= 5 * len(reads)
