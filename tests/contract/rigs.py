"""Guests for the contract tests: the same program on the fake, and on the small guest of guest.S under a real QEMU."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from emu.deadline import Deadline
from emu.pdeathsig import die_with_parent
from fprobe_gdb.target.base import BreakpointKind, Target
from fprobe_gdb.target.fake import FakeTarget
from fprobe_gdb.target.gdb import GdbTarget
from fprobe_gdb.target.rsp import RspTarget
from fprobe_gdb.transport.process import PrivateSocket
from fprobe_gdb.transport.relay import GdbRelay
from tests.contract.program import COUNTERS, END_OF_RAM, GS_BASES, SCRATCH, SCRATCH_BYTES, STACK_TOP, program

__all__ = ["Rig", "build_guest", "fake_rig", "qemu_rig"]

RAM_BYTES = END_OF_RAM
_PAGE = 4096


@dataclass
class Rig:
    """A target with its guest stopped at ``main`` on every vCPU."""

    target: Target
    #: Rounds of a vCPU's loop, seen from outside, with the guest in any state.
    rounds: Callable[[int], int]
    #: Let a detached guest run for a moment: real ones do that by themselves.
    let_run: Callable[[], None]
    #: End QEMU as SIGKILL does.
    kill: Callable[[], None]


def fake_rig(vcpus: int) -> Rig:
    """The program on the fake."""
    fake = FakeTarget(vcpus=vcpus, run_limit=3000)
    memory = fake.memory
    for addr, size_bytes in ((COUNTERS, _PAGE), (SCRATCH, SCRATCH_BYTES), (END_OF_RAM - _PAGE, _PAGE)):
        memory.map(addr, size_bytes, physical=addr)
    for vcpu in range(vcpus):
        memory.map(STACK_TOP[vcpu] - _PAGE, _PAGE, physical=STACK_TOP[vcpu] - _PAGE)
        asm = program(vcpu)
        fake.load(asm.origin, asm.assemble(), physical=asm.origin)
        fake.set_registers(
            vcpu, ip=asm.address("main"), sp=STACK_TOP[vcpu], gs_base=GS_BASES[vcpu], cr3=0x10000, cs=0x8, ss=0x10
        )

    def rounds(vcpu: int) -> int:
        return int.from_bytes(memory.read(COUNTERS + 8 * vcpu, 8), "little")

    return Rig(fake, rounds, lambda: fake.run(500), fake.lose)


def build_guest(directory: Path) -> Path:
    """Assemble guest.S."""
    source, image = Path(__file__).with_name("guest.S"), directory / "guest.bin"
    objects = directory / "guest.o"
    subprocess.run(["gcc", "-c", source, "-o", objects], check=True, timeout=60)
    link = ["ld", "-Ttext=0x100000", "--oformat", "binary", "-o", image, objects]
    subprocess.run(link, check=True, timeout=60)
    return image


@contextlib.contextmanager
def qemu_rig(kind: str, qemu: Sequence[str], image: Path, vcpus: int, *, monitor: bool = True) -> Iterator[Rig]:
    """The program on a real QEMU, seen through a real target, which has a monitor beside the gdbstub or has not."""
    ram_fd = os.memfd_create("ram")
    os.ftruncate(ram_fd, RAM_BYTES)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, ram_fd)
        ram = stack.enter_context(mmap.mmap(ram_fd, RAM_BYTES))
        ours, theirs = socket.socketpair()
        place = stack.enter_context(PrivateSocket()) if kind == "gdb" else None
        relayed = place is not None and monitor
        our_monitor, their_monitor = socket.socketpair()
        fds = [ram_fd, theirs.fileno(), their_monitor.fileno()]
        if place is not None and not relayed:
            gdb = ["-gdb", f"unix:{place.path},server=on,wait=off"]
        else:
            gdb = ["-chardev", f"socket,id=gdb,fd={theirs.fileno()}", "-gdb", "chardev:gdb"]
        argv = [
            *qemu, "-S", "-display", "none", "-nodefaults", "-no-user-config", "-m", "64M", "-smp", str(vcpus),
            "-object", f"memory-backend-file,id=ram,size=64M,mem-path=/dev/fd/{ram_fd},share=on",
            "-machine", "pc,memory-backend=ram", "-kernel", str(image), *gdb,
            "-chardev", f"socket,id=qmp,fd={their_monitor.fileno()}", "-mon", "chardev=qmp,mode=control",
        ]  # fmt: skip
        process = subprocess.Popen(argv, pass_fds=fds, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent())
        stack.callback(lambda: (process.kill(), process.wait()))
        theirs.close()
        their_monitor.close()
        stack.callback(our_monitor.close)
        target = stack.enter_context(_connect(ours, our_monitor if monitor else None, place, process))
        _run_to_main(target, vcpus)

        def kill() -> None:
            process.kill()
            process.wait()

        def rounds(vcpu: int) -> int:
            return int.from_bytes(ram[COUNTERS + 8 * vcpu : COUNTERS + 8 * vcpu + 8], "little")

        yield Rig(target, rounds, lambda: None, kill)


@contextlib.contextmanager
def _connect(
    ours: socket.socket, monitor: socket.socket | None, place: PrivateSocket | None, process: subprocess.Popen[bytes]
) -> Iterator[RspTarget | GdbTarget]:
    if place is None:
        with RspTarget(ours, monitor=monitor) as rsp:
            yield rsp
        return
    if monitor is not None:
        with GdbTarget(place.path, relay=GdbRelay(ours, place.path, monitor=monitor)) as gdb:
            place.remove()
            yield gdb
        return
    ours.close()
    deadline = Deadline(20)
    while not place.path.exists():
        assert process.poll() is None
        assert not deadline.expired
        os.sched_yield()
    with GdbTarget(place.path) as gdb:
        place.remove()
        yield gdb


# Lets each vCPU get to its program, which is put there first, and no further.
def _run_to_main(target: Target, vcpus: int) -> None:
    mains = []
    for vcpu in range(vcpus):
        asm = program(vcpu)
        mains.append(asm.address("main"))
        target.insert_breakpoint(mains[vcpu], BreakpointKind.HARDWARE)
    _load_once(target)
    arrived: set[int] = set()
    while len(arrived) < vcpus:
        target.resume(hold=arrived)
        target.wait(Deadline(20))
        arrived = {vcpu for vcpu, ip in enumerate(target.instruction_pointers()) if ip == mains[vcpu]}
    for main in mains:
        target.remove_breakpoint(main, BreakpointKind.HARDWARE)


# Before the guest has paging on, virtual addresses are physical ones.
def _load_once(target: Target) -> None:
    for vcpu in range(len(target.vcpus)):
        asm = program(vcpu)
        target.write_memory(asm.origin, asm.assemble())
