"""A guest that is somebody else's: what tests of ``attach`` need to look after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import images
from emu.agent import RunningCommand
from emu.deadline import Deadline
from emu.machine import Machine
from emu.spec import MachineSpec
from fprobe_gdb import Fprobe, Kernel
from fprobe_gdb.dispatch.base import RunEnd
from fprobe_gdb.events import EntryEvent
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from fprobe_gdb.kernel.patched_text import PatchedText
from fprobe_gdb.probe.regs import PtRegs
from fprobe_gdb.session.probe_event_runner import events_for
from fprobe_gdb.session.record_tracer import RecordTracer
from fprobe_gdb.session.recorded_events import recorded_events
from images.initramfs import build
from tests.integration.list_sink import ListSink

__all__ = ["BUSY", "NOT_BUSY", "PAGE_BYTES", "Stranger"]

#: Starts a loop of calls, and ends it.
BUSY = "(while workload calls 1; do :; done) </dev/null >/dev/null 2>&1 & echo $! > /tmp/busy"
NOT_BUSY = "kill -9 $(cat /tmp/busy)"

PAGE_BYTES = 4096
# A static branch or call.
PATCHED_BYTES = 5


class Stranger:
    """A guest whose QEMU listens at a socket, as if somebody else had started it."""

    def __init__(self, kernel: str, path: Path, **options: object) -> None:
        self.kernel = kernel
        self.path = path
        vmlinuz = images.kernel(kernel).vmlinuz
        self.knowledge = KernelKnowledge.load(vmlinuz)
        self.machine = Machine(MachineSpec(vmlinuz, build(), kaslr=True, gdb_socket=path, **options))  # type: ignore[arg-type]

    def attach(self, **options: object) -> Kernel:
        return Kernel.attach(
            self.path, self.kernel, knowledge=self.knowledge, **{"backend": "rsp", "dispatch": "trampoline", **options}
        )  # type: ignore[arg-type]

    def text(self) -> bytes:
        """What the kernel's text is, but for what the kernel itself rewrites, and page tables that map it."""
        with self.attach(dispatch="breakpoint") as k:
            begin, end = k.address("_stext"), k.address("_etext")
            text = bytearray(k.read_memory(begin, end - begin))
            tables = [k.read_memory(k.address(f"level{level}_kernel_pgt"), PAGE_BYTES) for level in (2, 3)]
        first = self.knowledge.symbols.one("_stext")
        for addr in PatchedText(self.knowledge.image, self.knowledge.symbols).touched_by(1):
            if 0 <= addr - first <= len(text) - PATCHED_BYTES:
                text[addr - first : addr - first + PATCHED_BYTES] = bytes(PATCHED_BYTES)
        return bytes(text + b"".join(tables))

    def free_mib(self) -> int:
        words = self.shell("grep MemFree /proc/meminfo").split()
        return int(words[1]) >> 10

    def shell(self, command: str) -> str:
        return self.machine.agent.run(command, Deadline(120)).output.decode()

    def opened(self, command: str) -> set[str]:
        """Names of files that are opened while a command runs, of dentries and as its processes give them; recorded."""
        with self.attach(recording=True) as k:
            events = events_for(k)
            events.add("f:names/dentry vfs_open name=path->dentry->d_name.name:string")
            events.add("f:names/user do_sys_openat2 name=+0(filename):ustring")
            sink = ListSink()
            tracer = RecordTracer(k, sink, events=recorded_events(k, events))
            tracer.register([])
            running = self.machine.agent.start(command)
            assert k.run(timeout_sec=120, until=self.ended(running)) is RunEnd.DONE
            summary = tracer.finish("done", None)
        assert (summary.lost, summary.missed) == (0, 0)
        hits = [event for event in sink.events if isinstance(event, EntryEvent)]
        return {event.fields[0].value for event in hits if event.fields}

    def fall_asleep(self, k: Kernel, seconds: int) -> RunningCommand:
        """Run the attached guest until a task sleeps for so long in ``hrtimer_nanosleep()``, whose return is awaited.

        :return: the command that says that it was woken.
        """
        sleepers: list[int] = []

        def falls_asleep(fp: Fprobe, entry_ip: int, ret_ip: int, regs: PtRegs, data: object) -> bool:
            # The guest's agent sleeps now and then, too.
            if regs.di != seconds * 10**9:
                return True
            sleepers.append(k.task)
            return False

        k.register_fprobe(Fprobe(falls_asleep, lambda *_: None), "hrtimer_nanosleep")
        # Where it has left the pad, and what else hooks returns has done so.
        k.register_fprobe(Fprobe(lambda *_: k.stop() if k.task in sleepers else None), "schedule")
        running = self.machine.agent.start(f"sleep {seconds}; echo woken")
        assert k.run(timeout_sec=60) is RunEnd.DONE
        assert k.calls_in_flight == 1
        return running

    def ended(self, running: RunningCommand) -> Callable[[], bool]:
        def done() -> bool:
            self.machine.pump()
            return running.poll() is not None

        return done
