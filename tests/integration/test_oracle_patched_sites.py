"""The guest's own tracers patch the very instructions at which our breakpoints are: neither side loses a call by that.

A function that the guest traces begins with a call into a trampoline, and while it is patched with an INT3 (arch/x86/
kernel/alternative.c, text_poke_bp_batch()). Our dispatch carries the call out itself and steps over the INT3.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fprobe_gdb import Fprobe, Kernel, PtRegs
from tests.integration.guest_tracer import GROUP, TRACING, run, tracing

pytestmark = pytest.mark.qemu

FUNCTION = "__x64_sys_personality"
NOP = bytes.fromhex("0f1f440000")
CALL_REL32, INT3 = 0xE8, 0xCC
RETURN = f"r100:{GROUP}/x {FUNCTION} ret=$retval:s64"

# With a tracer of its own, a function calls that tracer's trampoline; with several, the one that calls them all.
TRACERS: dict[str, tuple[list[str], list[str]]] = {
    "function tracer": ([FUNCTION], []),
    "kretprobe": ([], [RETURN]),
    "all": ([FUNCTION], [RETURN, f"p:{GROUP}/p {FUNCTION}"]),
}
CASES = [
    *(("6.1", "rsp", tracer) for tracer in TRACERS),
    *(("6.12", "rsp", tracer) for tracer in TRACERS),
    ("6.12", "gdb", "all"),
]


class Sites:
    """An fprobe that keeps the bytes at its location, as the task found them, for each hit."""

    def __init__(self, k: Kernel) -> None:
        self._k = k
        self.bytes: list[bytes] = []
        self.ips: list[tuple[int, int]] = []
        self.retvals: list[int] = []
        self.fprobe = Fprobe(self._on_entry, self._on_exit, nr_maxactive=16)
        k.register_fprobe_syms(self.fprobe, [FUNCTION])
        (self.location,) = k.locations(self.fprobe)

    def now(self) -> bytes:
        """The bytes there now."""
        return self._k.read_memory(self.location, len(NOP))

    def stop(self) -> None:
        self._k.unregister_fprobe(self.fprobe)

    def _on_entry(self, fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: bytearray | None) -> None:
        self.bytes.append(self.now())
        self.ips.append((ip, regs.ip))

    def _on_exit(self, fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: bytearray | None) -> None:
        self.retvals.append(regs.ax)


@pytest.mark.gdb
@pytest.mark.parametrize(("name", "backend", "tracers"), CASES, ids=lambda word: word)
def test_both_see_every_call(
    guest_of_each_dispatch: Callable[..., Kernel], name: str, backend: str, tracers: str
) -> None:
    """A breakpoint on an instruction that the guest's tracer has made a call: both count all, and the guest lives."""
    k = guest_of_each_dispatch(kernel=name, backend=backend, smp=2, breakpoint="sw")
    functions, events = TRACERS[tracers]
    with tracing(k, functions=functions, events=events) as tracer:
        sites = Sites(k)
        assert sites.now()[0] == CALL_REL32
        run(k, "workload threads 3 5")
        sites.stop()
        records = tracer.stop()
        if events:
            assert set(tracer.kprobe_misses().values()) == {0}
    assert (sites.fprobe.hits, sites.fprobe.exits, sites.fprobe.nmissed) == (15, 15, 0)
    assert {code[0] for code in sites.bytes} == {CALL_REL32}
    assert set(sites.ips) == {(sites.location, sites.location + len(NOP))}
    assert sites.retvals == [0] * 15
    seen = [record.name for record in records]
    expected = {FUNCTION: 15} if functions else {}
    expected |= {definition.split()[0].split("/")[1]: 15 for definition in events}
    assert {name: seen.count(name) for name in seen} == expected
    assert sites.now() == NOP


def test_our_probe_comes_first_and_the_tracer_second(guest_of_each_dispatch: Callable[..., Kernel]) -> None:
    """The guest patches a location that has our breakpoint, and restores it, three times: each call is counted."""
    k = guest_of_each_dispatch(kernel="6.1", backend="rsp", smp=2, breakpoint="sw")
    with tracing(k, functions=[FUNCTION]) as tracer:
        run(k, f"echo nop >{TRACING}/current_tracer")
        sites = Sites(k)
        theirs = []
        for _ in range(3):
            run(k, "workload calls 4")
            run(k, f"echo function >{TRACING}/current_tracer; echo 1 >{TRACING}/tracing_on; workload calls 5")
            theirs += [record.name for record in tracer.stop()]
            run(k, f"echo nop >{TRACING}/current_tracer")
        sites.stop()
    assert [code == NOP for code in sites.bytes] == ([True] * 4 + [False] * 5) * 3
    assert (sites.fprobe.hits, sites.fprobe.exits) == (27, 27)
    assert theirs == [FUNCTION] * 15


@pytest.mark.parametrize("name", ["6.1", "6.12"])
def test_calls_while_the_guest_patches(guest_of_each_dispatch: Callable[..., Kernel], name: str) -> None:
    """One task calls all the time while another switches the tracer on and off: half patched sites are passed, too."""
    k = guest_of_each_dispatch(kernel=name, backend="rsp", smp=2, breakpoint="sw")
    # Two calls of its own in each state, so that both are met; the other's hundred come whenever they come.
    switch = "; ".join(f"echo {tracer} >current_tracer; workload calls 2" for tracer in ("nop", "function") * 3)
    with tracing(k, functions=[FUNCTION]):
        sites = Sites(k)
        run(k, f"cd {TRACING}; workload calls 100 & {switch}; wait")
        sites.stop()
    assert (sites.fprobe.hits, sites.fprobe.exits, sites.fprobe.nmissed) == (112, 112, 0)
    # Whether a call met an INT3 is chance.
    opcodes = {code[0] for code in sites.bytes}
    assert {NOP[0], CALL_REL32} <= opcodes <= {NOP[0], CALL_REL32, INT3}
    assert sites.now() == NOP
