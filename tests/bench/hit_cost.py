"""What one stop and continue costs, by way: our targets and gdb's in-process Python breakpoints.

Each way gets a guest of its own, booted the same, in which ``vfs_read`` is called 500 times by
``dd if=/dev/zero of=/dev/null bs=1 count=500``. At each hit the registers and 8 bytes at ``sp`` are read and ``ip`` is
moved past the fentry NOP. Only hits in a row that are that dd's count (``count`` is 1: between two of them the guest
does the same work, whatever else it is at). A cost is the median of the times from hit to hit, so that another
program's turn on the processor does not count.

gdb's own way is a ``gdb.Breakpoint`` whose ``stop()`` reads ``$rsp`` and that word and returns False, in a gdb without
any other settings; gdb then steps over the NOP itself.

A measuring run: ``python -m tests.bench.hit_cost VMLINUZ INITRAMFS VFS_READ_ADDRESS``, the initramfs being one whose
init runs that dd again and again once it is up. Other programs give :func:`cost_of_target` and
:func:`cost_of_gdb_python` a way to boot instead.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from emu.deadline import Deadline
from emu.pdeathsig import die_with_parent
from fprobe_gdb.errors import WaitTimeout
from fprobe_gdb.target.base import BreakpointKind, Target
from fprobe_gdb.target.gdb import GdbTarget
from fprobe_gdb.target.rsp import RspTarget
from fprobe_gdb.transport.process import PrivateSocket

__all__ = ["booted", "cost_of_gdb_python", "cost_of_target", "gdb_target", "measure", "rsp_target"]

NOP_BYTES = 5

# Runs inside gdb. It measures itself, so that gdb's start does not count.
_GDB_PYTHON = """
import gdb, time
class Hit(gdb.Breakpoint):
    times = []
    def stop(self):
        sp = int(gdb.parse_and_eval("$rsp"))
        bytes(gdb.selected_inferior().read_memory(sp, 8))
        Hit.times.append((int(gdb.parse_and_eval("$rdx")), time.monotonic()))
        return len(Hit.times) > {hits}
gdb.execute("set pagination off")
gdb.execute("target remote {path}")
Hit("*{addr:#x}")
gdb.execute("continue")
import statistics
pairs = zip(Hit.times, Hit.times[1:])
print("SECONDS_PER_HIT", statistics.median(t2 - t1 for (dx1, t1), (dx2, t2) in pairs if dx1 == dx2 == 1))
gdb.execute("kill")
"""


def cost_of_target(target: Target, addr: int, hits: int, deadline: Deadline) -> float:
    """Seconds for each of ``hits`` stops at a fentry NOP, after one that does not count.

    :param target: of a stopped guest that calls the function often enough; left stopped.
    :param addr: the ftrace location.
    """
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
        times.append((registers["dx"], time.monotonic()))
    target.remove_breakpoint(addr, BreakpointKind.SOFTWARE)
    return statistics.median(t2 - t1 for (dx1, t1), (dx2, t2) in itertools.pairwise(times) if dx1 == dx2 == 1)


def cost_of_gdb_python(socket_path: Path, addr: int, hits: int, deadline: Deadline) -> float:
    """Seconds for each hit of a Python breakpoint inside gdb whose ``stop()`` returns False. Ends the guest.

    :param socket_path: where QEMU listens for gdb.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(_GDB_PYTHON.format(hits=hits, path=socket_path, addr=addr))
        script.flush()
        run = subprocess.run(
            ["gdb", "-nx", "-nh", "-q", "-batch", "-x", script.name],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=deadline.timeout_sec(),
            preexec_fn=die_with_parent(),
        )
    for line in run.stdout.splitlines():
        if line.startswith("SECONDS_PER_HIT "):
            return float(line.split()[1])
    raise RuntimeError(f"gdb did not measure: {run.stderr[-500:]}")


@contextlib.contextmanager
def booted(argv: list[str], place: PrivateSocket | None) -> Iterator[socket.socket | None]:
    """QEMU, with its gdbstub at a private socket or at the socket that this gives."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if place is not None:
            gdb = ["-gdb", f"unix:{place.path},server=on,wait=off"]
        else:
            gdb = ["-chardev", f"socket,id=gdb,fd={theirs.fileno()}", "-gdb", "chardev:gdb"]
        process = subprocess.Popen(
            [*argv, "-S", *gdb],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            preexec_fn=die_with_parent(),
        )
        theirs.close()
        try:
            while place is not None and not place.path.exists():
                assert process.poll() is None
                time.sleep(0.01)
            yield ours if place is None else None
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def rsp_target(argv: list[str]) -> Iterator[RspTarget]:
    """Our own client on a stopped machine."""
    with booted(argv, None) as sock:
        assert sock is not None
        with RspTarget(sock) as target:
            yield target


@contextlib.contextmanager
def gdb_target(argv: list[str]) -> Iterator[GdbTarget]:
    """gdb over MI on a stopped machine."""
    with PrivateSocket() as place, booted(argv, place), GdbTarget(place.path) as target:
        place.remove()
        yield target


# Lets the guest run until the dd is at work. A breakpoint slows the boot, so one is there for a look now and then only.
def _boot(target: Target, addr: int, deadline: Deadline) -> None:
    while not _dd_runs(target, addr):
        if deadline.expired:
            raise WaitTimeout(deadline.seconds, "dd bs=1 in the guest")
        target.resume()
        with contextlib.suppress(WaitTimeout):
            target.wait(deadline.within(2))
        target.interrupt()
        target.wait(deadline)


def _dd_runs(target: Target, addr: int) -> bool:
    ones = 0
    target.insert_breakpoint(addr, BreakpointKind.SOFTWARE)
    for _ in range(20):
        target.resume()
        try:
            target.wait(Deadline(0.5))
        except WaitTimeout:
            target.interrupt()
            target.wait(Deadline(10))
        registers = target.registers(0)
        if registers["ip"] == addr:
            ones += registers["dx"] == 1
            target.write_registers(0, {"ip": addr + NOP_BYTES})
    target.remove_breakpoint(addr, BreakpointKind.SOFTWARE)
    return ones > 10


def measure(argv: list[str], addr: int, hits: int, boot_deadline_sec: float) -> dict[str, float]:
    """All ways in one run, in seconds a hit.

    :param argv: QEMU's command line without gdbstub, for a guest that calls the function all the time once it is up.
    :param boot_deadline_sec: how long that may take.
    """
    costs: dict[str, float] = {}
    ways: list[tuple[str, Callable[[list[str]], contextlib.AbstractContextManager[Target]]]] = [
        ("rsp", rsp_target),
        ("gdb", gdb_target),
    ]
    for name, connect in ways:
        with connect(argv) as target:
            _boot(target, addr, Deadline(boot_deadline_sec))
            costs[name] = cost_of_target(target, addr, hits, Deadline(120))
    with PrivateSocket() as place, booted(argv, place):
        with GdbTarget(place.path) as booter:
            _boot(booter, addr, Deadline(boot_deadline_sec))
            booter.detach()
        costs["gdb-python"] = cost_of_gdb_python(place.path, addr, hits, Deadline(120))
    return costs


def main() -> None:
    """Measure and print."""
    vmlinuz, initramfs, addr = sys.argv[1:4]
    argv = ["qemu-system-x86_64", "-display", "none", "-nodefaults", "-no-user-config", "-m", "256M"]
    argv += ["-kernel", vmlinuz, "-initrd", initramfs, "-append", "nokaslr quiet"]
    costs = measure(argv, int(addr, 0), 400, 60.0)
    for name, seconds in costs.items():
        print(f"{name:12} {seconds * 1e6:8.0f} us  {seconds / costs['gdb-python']:.2f}x")


if __name__ == "__main__":
    main()
