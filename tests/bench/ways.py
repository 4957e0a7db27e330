"""The ways to be told of a hit. Each takes a number of hits and gives the seconds from each hit to the next.

One of them is to be told of none.

In all of them a hit yields three arguments and the word at the stack pointer (the return address), and the guest gets
past the breakpoint and runs on. A pair is an entry and its return, both with a handler.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pygdbmi.gdbcontroller import GdbController

from emu.deadline import Deadline
from emu.pdeathsig import die_with_parent
from fprobe_gdb import Fprobe, Kernel
from fprobe_gdb.target.base import BreakpointKind
from tests.bench.guests import FUNCTION, LIMIT_SEC, loaded_kernel, loaded_machine, probed_address

__all__ = ["WAYS", "Way", "call_mode", "gdb_python", "ours", "pygdbmi_defaults"]

#: Runs so many hits and returns the seconds between them.
Way = Callable[[int], list[float]]

NOP_BYTES = 5
_SCRIPT = Path(__file__).with_name("in_gdb.py")
WAYS = (
    "gdb Python", "pygdbmi", "gdb", "rsp", "gdb, fprobe", "rsp, fprobe", "gdb, pair", "rsp, pair", "call, fprobe",
    "call, pair", "none",
)  # fmt: skip
# So many times as many calls as hits are asked for: a call takes microseconds, the guest's shell tells 10 ms.
_UNPROBED_FACTOR = 10


def _between(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(times)]


@contextlib.contextmanager
def gdb_python(kernel: str, addr: int) -> Iterator[dict[str, Way]]:
    """gdb's own Python breakpoints: ``stop()`` returns False, in the process of gdb, which measures itself."""
    ours, theirs = socket.socketpair()
    with loaded_machine(kernel) as path, ours, theirs:
        program = f"DESCRIPTOR, SOCKET, ADDRESS = {theirs.fileno()}, {str(path)!r}, {addr:#x}"
        argv = ["gdb", "-nx", "-nh", "-q", "-batch", "-ex", f"python {program}", "-x", str(_SCRIPT)]
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
        theirs.close()
        answers = ours.makefile("r")

        def run(hits: int) -> list[float]:
            ours.sendall(f"{hits}\n".encode())
            return _between([float(word) for word in answers.readline().split()])

        ours.settimeout(LIMIT_SEC)
        try:
            yield {"gdb Python": run}
        finally:
            answers.close()
            process.kill()
            process.wait()


@contextlib.contextmanager
def pygdbmi_defaults(kernel: str, addr: int) -> Iterator[dict[str, Way]]:
    """pygdbmi as its README shows it: ``write()`` returns when nothing has come for 0.2 s."""
    with loaded_machine(kernel) as path:
        gdb = GdbController(["gdb", "-nx", "-nh", "-q", "--interpreter=mi3"])
        try:
            gdb.write(f"-target-select remote {path}", timeout_sec=10)
            gdb.write(f"-break-insert *{addr:#x}")

            def run(hits: int) -> list[float]:
                times = []
                for _ in range(hits + 1):
                    stopped = gdb.write("-exec-continue", timeout_sec=10)
                    while not any(record["message"] == "stopped" for record in stopped):
                        stopped = gdb.get_gdb_response(timeout_sec=10)
                    gdb.write('-data-evaluate-expression "{$rdi, $rsi, $rdx}"')
                    gdb.write("-data-read-memory-bytes $rsp 8")
                    times.append(time.monotonic())
                return _between(times)

            yield {"pygdbmi": run}
        finally:
            gdb.exit()


@contextlib.contextmanager
def ours(kernel: str, backend: str) -> Iterator[dict[str, Way]]:
    """One of our targets, by breakpoints: alone, under the whole stack with an entry handler, with an exit one too."""
    with loaded_kernel(kernel, backend, dispatch="breakpoint") as k:
        yield {
            backend: lambda hits: _target(k, hits),
            f"{backend}, fprobe": lambda hits: _fprobe(k, hits, pair=False),
            f"{backend}, pair": lambda hits: _fprobe(k, hits, pair=True),
        }


@contextlib.contextmanager
def call_mode(kernel: str) -> Iterator[dict[str, Way]]:
    """Trampolines: a Python handler while the guest runs. The time between hits has the guest's own work in it."""
    with loaded_kernel(kernel, "rsp", dispatch="trampoline") as k:
        yield {
            "call, fprobe": lambda hits: _fprobe(k, hits, pair=False),
            "call, pair": lambda hits: _fprobe(k, hits, pair=True),
            "none": lambda hits: _unprobed(k, hits * _UNPROBED_FACTOR),
        }


# The same loop without probes, by the guest's own clock.
def _unprobed(k: Kernel, calls: int) -> list[float]:
    timed = f"time dd if=/dev/zero of=/dev/null bs=1 count={calls}"
    said = k.shell(f"kill -STOP $(pidof dd); {timed}; kill -CONT $(pidof dd)", timeout_sec=LIMIT_SEC).text
    minutes, seconds = re.findall(r"real\s+(\d+)m ([\d.]+)s", said)[0]
    return [(60 * int(minutes) + float(seconds)) / calls] * calls


def _target(k: Kernel, hits: int) -> list[float]:
    target, addr, deadline = k.target, probed_address(k), Deadline(LIMIT_SEC)
    target.insert_breakpoint(addr, BreakpointKind.SOFTWARE)
    times = []
    for _ in range(hits + 1):
        target.resume()
        stop = target.wait(deadline)
        assert stop is not None
        registers = target.registers(stop.vcpu)
        assert registers["ip"] == addr
        target.read_memory(registers["sp"], 8, vcpu=stop.vcpu)
        target.write_registers(stop.vcpu, {"ip": addr + NOP_BYTES})
        times.append(time.monotonic())
    target.remove_breakpoint(addr, BreakpointKind.SOFTWARE)
    return _between(times)


def _fprobe(k: Kernel, hits: int, *, pair: bool) -> list[float]:
    ends: list[float] = []
    seen: list[tuple[int, int, int]] = []
    values: list[int] = []

    # The clock is looked at at the first and the last hit: in trampolines a look costs as much as two registers.
    def on_entry(fp: Fprobe, entry_ip: int, ret_ip: int, regs, data) -> None:  # type: ignore[no-untyped-def]
        if not len(seen) % hits:
            ends.append(time.monotonic())
            if seen:
                k.stop()
        seen.append((regs.di, regs.si, regs.dx))

    def on_exit(fp: Fprobe, entry_ip: int, ret_ip: int, regs, data) -> None:  # type: ignore[no-untyped-def]
        values.append(regs.ax)

    fp = Fprobe(on_entry, on_exit if pair else None, nr_maxactive=8)
    k.register_fprobe(fp, FUNCTION)
    k.run(timeout_sec=LIMIT_SEC)
    k.unregister_fprobe(fp)
    # Breakpoints go when the guest is about to run next; the way that comes next uses the target without that.
    k.run(timeout_sec=LIMIT_SEC, until=lambda: True)
    assert fp.hits == len(seen) == hits + 1
    assert len(values) == (hits if pair else 0)
    return [(ends[1] - ends[0]) / hits] * hits
