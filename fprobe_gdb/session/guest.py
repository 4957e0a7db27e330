"""``Kernel``: a booted guest whose functions can be probed from Python.

::

    from fprobe_gdb import Fprobe, Kernel

    def on_entry(fp, entry_ip, ret_ip, regs, entry_data):
        print(k.symbolize(entry_ip), regs.dx)

    with Kernel.boot() as k:
        fp = Fprobe(on_entry)
        k.register_fprobe(fp, "vfs_read")
        k.shell("cat /etc/motd")
        print(fp.hits, fp.nmissed)

The guest only runs inside :meth:`Kernel.shell`, :meth:`Kernel.run` and, from a handler, :meth:`Kernel.call`; between
these it is stopped and guest time stands still. So nothing is missed before a probe is planted, and what is read
outside handlers is consistent.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from emu.agent import CommandResult, RunningCommand
from emu.deadline import Deadline
from emu.errors import AgentLost, BootTimeout, CommandTimeout, GuestLostError, GuestPanicError
from emu.machine import Machine
from fprobe_gdb.dispatch.base import Dispatch, RunEnd, stop_guest
from fprobe_gdb.dispatch.breakpoint import BreakpointDispatch
from fprobe_gdb.dispatch.cpu_state import CpuState
from fprobe_gdb.dispatch.trampoline.dispatch import TrampolineDispatch
from fprobe_gdb.dispatch.way_back import WayBack, find_way_back
from fprobe_gdb.errors import (
    GuestCallError,
    GuestPanic,
    ImageError,
    ModuleError,
    PlantRefused,
    StateError,
    TargetLost,
    TransportError,
    UsageError,
    ZoneError,
)
from fprobe_gdb.events import MissReason
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from fprobe_gdb.kernel.modules import ModuleReader
from fprobe_gdb.kernel.percpu import PerCpuLayout
from fprobe_gdb.kernel.values import GuestMemory
from fprobe_gdb.probe.core import ProbeCore
from fprobe_gdb.probe.fprobe import Fprobe
from fprobe_gdb.probe.hit import Hit
from fprobe_gdb.session.attached import AttachedMachine, connect
from fprobe_gdb.session.attached_zones import AttachedZones
from fprobe_gdb.session.boot import start
from fprobe_gdb.session.early_boot import START, EarlyBoot, run_to_kernel, run_to_start
from fprobe_gdb.session.find_kernel import find_kernel, isolates, possible_cpus, read_by_any, set_isolated
from fprobe_gdb.session.module_watch import ModuleChange, ModuleWatch
from fprobe_gdb.session.modules import GuestModules
from fprobe_gdb.session.options import BootOptions
from fprobe_gdb.session.recording import GuestRecording
from fprobe_gdb.session.records import ImageRecords
from fprobe_gdb.session.selection import Selection
from fprobe_gdb.session.sigint import deferred_sigint
from fprobe_gdb.session.tracepoints import Tracepoints
from fprobe_gdb.session.trampolines import (
    kernel_cr3,
    location_of,
    open_trampolines,
    percpu_offsets,
)
from fprobe_gdb.target.base import BreakpointKind, Target, TargetState
from images.progress import Report

__all__ = ["Kernel"]

_CALL_SEC = 30.0
_CONSOLE_TAIL = 20
# Until a task of a guest of others makes a system call.
_TRACEPOINT_SEC = 10.0
# Between the end of the debugger's connection and the end of QEMU.
_LAST_WORDS_SEC = 2.0


class Kernel(GuestRecording):
    """A guest with probes. Made by :meth:`boot`; a context manager that ends with QEMU gone."""

    def __init__(
        self, machine: Machine | AttachedMachine, target: Target, knowledge: KernelKnowledge, options: BootOptions
    ) -> None:
        self.options = options
        self.machine = machine
        #: See :meth:`attach`.
        self.on_note: Callable[[str], None] | None = None
        super().__init__(target, knowledge, ImageRecords(knowledge, boot=True))
        #: Called with each new line of the guest's console (of a guest that was booted here).
        self.on_console: Callable[[str], None] | None = None
        #: Called for each hit that a handler does not see, with the function's location.
        self.on_missed: Callable[[Fprobe, int, Hit, MissReason], None] | None = None
        #: Called when a module is about to be initialised or freed, while fprobes probe or wait for modules.
        self.on_module: Callable[[ModuleChange], None] | None = None
        self._modules = GuestModules(None, lambda: self.btf, lambda: self._dispatch.epoch)
        self._watch: ModuleWatch | None = None
        #: The guest's tracepoints, which ``t:`` events need.
        self.tracepoints = Tracepoints(self)
        # While the guest boots with trampolines in it.
        self._early: EarlyBoot | None = None
        # Of a guest of others, once its kernel is known.
        self._zones: AttachedZones | None = None
        self._core = ProbeCore(self.records, options.smp, admit=self._admit, on_missed=self._missed)
        # Until the guest is up; then perhaps another one.
        self._percpu = knowledge.percpu
        self._way_back: WayBack | None = None
        self._dispatch: Dispatch = self._breakpoints()
        self._why_breakpoints = ""

    @classmethod
    def boot(
        cls,
        kernel: str | Path | None = None,
        *,
        options: BootOptions | None = None,
        knowledge: KernelKnowledge | None = None,
        progress: Report | None = None,
        wait: bool = True,
        **more: Any,
    ) -> Self:
        """Boot a kernel. The guest is up and stopped afterwards.

        :param kernel: a name from the catalog of ``images/``, or a path; None is the catalog's default.
        :param options: everything else, or give the fields of :class:`BootOptions` as keywords.
        :param knowledge: what is known of this kernel, if it was loaded before.
        :param wait: False leaves the guest stopped before its first instruction (with KASLR: in the kernel's first,
            which are no function; with trampolines: before the kernel's first C function), so that boot itself can be
            probed, ``__init`` functions too; then :meth:`wait_boot`.
        :raise EmuError: QEMU does not start, the guest does not come up.
        :raise ImagesError: the kernel cannot be fetched.
        :raise ImageError: the kernel cannot be read.
        """
        options = options or BootOptions(kernel=kernel, **more)
        path = options.kernel_path(progress)
        knowledge = knowledge or KernelKnowledge.load(path)
        slide = 0

        def find_base(machine: Machine) -> None:
            nonlocal slide
            slide = run_to_kernel(machine, knowledge, options.boot_timeout_sec)

        known = wait or not options.kaslr
        machine, target = start(options, path, progress, *(() if known else (find_base,)))
        try:
            self = cls(machine, target, knowledge, options)
            if wait:
                self.wait_boot(options.boot_timeout_sec)
            else:
                self._start_boot(slide)
            return self
        except BaseException:
            target.close()
            machine.shutdown()
            raise

    @classmethod
    def attach(
        cls,
        socket_path: str | Path,
        kernel: str | Path | None = None,
        *,
        qmp: str | Path | None = None,
        options: BootOptions | None = None,
        knowledge: KernelKnowledge | None = None,
        on_note: Callable[[str], None] | None = None,
        **more: Any,
    ) -> Self:
        """Attach to a guest that somebody else booted, through its gdbstub's unix socket. It is stopped afterwards.

        :meth:`close` removes all that we have put into it and lets it run on. :meth:`shell` is not there: it has no
        agent of ours. Trampolines need the right to reach QEMU's memory (:mod:`~fprobe_gdb.target.qemu_ram`).

        :param kernel: what it was booted from: a path, or a name from the catalog. It is checked before anything is
            planted; KASLR is found.
        :param qmp: the unix socket of a QMP monitor of the same QEMU, which nobody else uses. With it a hit costs a
            fraction: see :mod:`~fprobe_gdb.transport.detached_run`.
        :param on_note: told what was found in the guest of an earlier tool that was killed, and what stays in it.
        :raise TransportError: nobody listens at the socket.
        :raise ImageError: the guest runs another kernel, or has not got far enough to tell.
        """
        options = options or BootOptions(kernel=kernel, **more)
        knowledge = knowledge or KernelKnowledge.load(options.kernel_path())
        machine, target = connect(Path(socket_path), options.backend, Path(qmp) if qmp else None)
        self = cls(machine, target, knowledge, options)
        self.on_note = on_note
        try:
            self._settle()
        except BaseException:
            self.close()
            raise
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the guest, or let go of it where it was attached to, and free everything. May be called twice."""
        try:
            if isinstance(self.machine, AttachedMachine):
                self._let_go()
        finally:
            self._dispatch.close()
            self.target.close()
            self.machine.shutdown()

    # Take everything out of a guest of others, if it is still there, and let it run on.
    def _let_go(self) -> None:
        assert isinstance(self.machine, AttachedMachine)
        there = (TargetState.STOPPED, TargetState.RUNNING)
        try:
            if self.target.state is TargetState.RUNNING:
                stop_guest(self.target)
            if self.target.state is TargetState.STOPPED and self._zones is not None:
                # No handler is called any more.
                self._core.unregister_all()
                self._switch_tracepoints_off()
                self._give_zone_back()
        finally:
            if self.target.state in there:
                self.target.detach()
                self.machine.guard.dismiss()

    # In a guest of others it takes one of its tasks.
    def _switch_tracepoints_off(self) -> None:
        try:
            self.tracepoints.switch_off(timeout_sec=_TRACEPOINT_SEC)
        except GuestCallError as error:
            names = ", ".join(sorted(self.tracepoints.ours))
            self._note(f"tracepoints stay on in the guest, and call an empty function ({names}): {error}")

    # Section: running the guest

    def wait_boot(self, timeout_sec: float = 120.0) -> bool:
        """Let the guest run until it takes commands; it is stopped afterwards. Probes fire meanwhile.

        :return: False when a handler called :meth:`stop` before; call it again to go on.
        :raise BootTimeout: when that takes too long.
        """
        if self._run(Deadline(timeout_sec), lambda: self.machine.agent.ready) is RunEnd.TIMEOUT:
            raise BootTimeout(timeout_sec, self.machine.console.tail())
        if self.machine.agent.ready:
            self._settle()
        return self.machine.agent.ready

    def shell(self, command: str, *, timeout_sec: float = 60.0) -> CommandResult:
        """Run a command in the guest's shell, as root, and wait for its end. Probes fire meanwhile.

        :param command: text for the guest's ``sh``; no host shell sees it.
        :raise CommandTimeout: when it does not end in time; it goes on when the guest runs again.
        """
        deadline = Deadline(timeout_sec)
        running = self.start(command)
        try:
            end = self._run(deadline, lambda: running.poll() is not None)
        except (TargetLost, GuestPanic, KeyboardInterrupt):
            raise
        except BaseException:
            # A handler failed. Its fprobes are gone, the command goes on to its end, and then he is told.
            self._run(deadline, lambda: running.poll() is not None)
            raise
        if end is RunEnd.TIMEOUT:
            raise CommandTimeout(command, timeout_sec, running.take_output())
        result = running.poll()
        if result is None:
            raise UsageError(f"a handler called stop() before {command!r} ended; use start() and run() for that")
        return result

    def start(self, command: str, *, keep_output: bool = True) -> RunningCommand:
        """Give the guest's shell a command, which begins when the guest runs next; see :meth:`run`.

        :param keep_output: False for a command with endless output, which is then only in ``take_output()``.
        :raise GuestPanic, TargetLost: when the guest has died.
        """
        with self._explained():
            return self.machine.agent.start(command, keep_output=keep_output)

    def run(self, *, timeout_sec: float, until: Callable[[], bool] | None = None) -> RunEnd:
        """Let the guest run, with probes, for a time by the host's clock or until something is true.

        :param until: asked after each stop and when the guest says something.
        :return: ``RunEnd.DONE`` when ``until`` came true or :meth:`stop` was called, else ``RunEnd.TIMEOUT``.
        :raise GuestPanic, TargetLost: when the guest dies.
        :raise KeyboardInterrupt: at Ctrl-C, with the guest stopped and everything consistent.
        :raise BaseException: what a handler raised; all fprobes are unregistered then and the guest is fine.
        """
        return self._run(Deadline(timeout_sec), until or (lambda: False))

    def stop(self) -> None:
        """From a handler: end the current :meth:`run` as soon as this hit is handled."""
        self._dispatch.stop()

    def _run(self, deadline: Deadline, until: Callable[[], bool]) -> RunEnd:
        if self._dispatch.in_handler:
            raise StateError("running the guest", "in a handler", "between handlers; use call() in handlers")
        with deferred_sigint() as interrupt, self._explained():

            def done() -> bool:
                self._pump()
                return interrupt.pending or until()

            return self._dispatch.run(deadline, done, [*self.machine.filenos(), interrupt.fileno()])

    def _pump(self) -> None:
        for line in self.machine.pump():
            if self.on_console:
                self.on_console(line)

    # The target only sees that a connection ended; the machine knows why.
    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (TargetLost, TransportError, AgentLost, GuestLostError) as error:
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> Exception:
        try:
            # QEMU says goodbye before it ends; its console is complete once it has.
            deadline = Deadline(_LAST_WORDS_SEC)
            while not isinstance(error, GuestLostError) and not deadline.expired:
                self.machine.wait(deadline)
        except GuestLostError as lost:
            error = lost
        for line in self.machine.console.pump():
            if self.on_console:
                self.on_console(line)
        match error:
            case GuestPanicError():
                return GuestPanic(error.console_tail)
            case GuestLostError():
                return TargetLost(_how_ended(error.exit_code), error.console_tail)
            case TargetLost():
                return TargetLost(error.why, self.machine.console.tail(_CONSOLE_TAIL))
        return error

    # Section: fprobes (the kernel's own functions, with typed errors for its errnos)

    def register_fprobe(self, fp: Fprobe, filter: str, notfilter: str | None = None) -> None:
        """Probe the functions that match ``filter`` and not ``notfilter``. The guest is stopped, or in a handler.

        :raise InvalidProbe: nothing matches, or bad arguments (-EINVAL).
        :raise ProbeBusy: registered already (-EBUSY).
        :raise TooManySites: more functions than breakpoints can serve.
        """
        self._core.register_fprobe(fp, filter, notfilter)

    def register_fprobe_ips(self, fp: Fprobe, addrs: Sequence[int]) -> None:
        """Probe functions by address: a function's start, or anywhere in its fentry instruction."""
        self._core.register_fprobe_ips(fp, addrs)

    def register_fprobe_syms(self, fp: Fprobe, syms: list[str]) -> None:
        """Probe functions by name. Sorts the list in place, as the kernel does."""
        self._core.register_fprobe_syms(fp, syms)

    def register_fprobe_mod(self, fp: Fprobe, *patterns: str, exclude: Sequence[str] = ()) -> None:
        """Probe functions of modules: those that are loaded, and those that will be, before they are initialised.

        The kernel's fprobes keep to the modules that are there at registration; this is ours. Ordinary patterns may be
        among them, for functions that are there now. A module whose init function is running just then is neither: it
        is probed from its next load on.

        :param patterns: ``"dummy_* [dummy]"``, or ``"dummy_*:mod:dummy"`` as ``set_ftrace_filter`` has it; both parts
            are globs, the function may be left out.
        :raise InvalidProbe: such a module is loaded and has no such function.
        :raise ModuleError: this guest does not tell of its modules (no BTF), or is not up yet.
        """
        selection = Selection(patterns, tuple(exclude))
        self.register_selection(fp, selection, selection.now(self.records))

    def register_selection(self, fp: Fprobe, selection: Selection, ips: Sequence[int]) -> None:
        """Probe these locations, and those that modules add to the selection when they are loaded."""
        if not selection.waits:
            self._core.register_fprobe_ips(fp, ips)
        elif self._watch is None:
            raise ModuleError(0, "the guest is not up yet, so its modules are not known; wait_boot() first")
        else:
            self._watch.register(fp, selection, ips)

    def unregister_fprobe(self, fp: Fprobe) -> None:
        """Remove a probe. Calls in flight return normally, without their exit handler."""
        self._core.unregister_fprobe(fp)

    def unregister_all(self) -> None:
        """Remove all probes, newest first."""
        self._core.unregister_all()

    def disable_fprobe(self, fp: Fprobe) -> None:
        """Stop calling the handlers; nothing is counted until :meth:`enable_fprobe`."""
        self._core.disable_fprobe(fp)

    def enable_fprobe(self, fp: Fprobe) -> None:
        """Call the handlers again."""
        self._core.enable_fprobe(fp)

    def fprobe_is_registered(self, fp: Fprobe) -> bool:
        """As the kernel's: stays true after unregistration."""
        return self._core.fprobe_is_registered(fp)

    @property
    def fprobes(self) -> list[Fprobe]:
        """Registered fprobes, newest first."""
        return self._core.fprobes

    def locations(self, fp: Fprobe) -> list[int]:
        """The ftrace locations that a registered fprobe probes."""
        return self._core.locations(fp)

    def num_possible_cpus(self) -> int:
        """``num_possible_cpus()`` of the guest."""
        return self._core.possible_cpus

    @property
    def calls_in_flight(self) -> int:
        """Calls, for each fprobe, whose return is awaited."""
        return self._core.calls_in_flight

    def depth(self, task: int) -> int:
        """How many probed calls of a task are in flight."""
        return self._core.depth(task)

    def depth_around(self, frame: int, entry_ip: int) -> int:
        """In a handler: how many other probed calls of the task are in flight around this one.

        Unlike :meth:`depth`, does not mind whether other fprobes have hooked this call already.

        :param frame: stack pointer at the call's entry.
        :param entry_ip: location of its function.
        """
        return self._core.depth(self.task, frame, entry_ip)

    # Section: guest functions

    def call(self, function: str | int, *args: int, timeout_sec: float = _CALL_SEC) -> int:
        """From a handler: run a guest function on the stopped vCPU and return its ``ax`` (unsigned).

        The guest runs meanwhile and may hit probes: this is how handlers recurse.

        :param function: name or address.
        :param args: at most six integers.
        :raise GuestCallError: outside handlers, or when the function does not come back.
        """
        addr = self.symbols.one(function) if isinstance(function, str) else function
        return self._dispatch.call(addr, args, Deadline(timeout_sec))

    # Section: figures for summaries

    @property
    def stopped_ns(self) -> int:
        """Host time for which the guest was stopped for hits."""
        return self._dispatch.stopped_ns

    @property
    def dispatch_name(self) -> str:
        """How hits reach handlers, and why so where trampolines were wished for: ``"breakpoint (gdb, sw)"``."""
        if isinstance(self._dispatch, BreakpointDispatch):
            why = f", since {self._why_breakpoints}" if self._why_breakpoints else ""
            return f"{self._dispatch.name} ({self.target.name}, {self.options.breakpoint}){why}"
        slow = len(self._dispatch.planter.slow) if isinstance(self._dispatch, TrampolineDispatch) else 0
        by_breakpoint = f", {slow} function{'s' * (slow > 1)} by breakpoint" if slow else ""
        return f"{self._dispatch.name} ({self.target.name}){by_breakpoint}"

    @property
    def waited_ns(self) -> int:
        """In handlers: guest time that the running task has spent waiting for handlers so far.

        Trampolines let guest time run on meanwhile; what a duration has of it can be taken off. Always 0 with
        breakpoints, where guest time stands still.
        """
        return self._dispatch.waited_ns(self.task)

    # Private parts

    # The guest is up and stopped: find what can only be known now.
    def _settle(self) -> None:
        image, slide = self.knowledge.image, find_kernel(self.target, self.knowledge)
        if slide is None:
            raise ImageError(
                image.path,
                f"the guest does not run this kernel ({image.banner}), or all its CPUs are in user mode; "
                "give the image that it was booted from",
            )
        self._move(slide)
        set_isolated(self.target, isolates(self.symbols, self._read_kernel))
        self.records.booted()
        self._core.possible_cpus = possible_cpus(self.target, self.symbols)
        if isinstance(self.machine, AttachedMachine):
            assert isinstance(self._dispatch, BreakpointDispatch)
            # In a guest of ours nobody needs to come back without us.
            self._way_back = self._dispatch.way_back = find_way_back(self.symbols, self._read_kernel)
            self._zones = AttachedZones(
                self.machine.qemu_pid, self, self._percpu, self._read_kernel, self._run, self._note
            )
            self._zones.remove_orphans(self._dispatch)
        self._choose_dispatch()
        self._modules = GuestModules(self._module_reader(), lambda: self.btf, lambda: self._dispatch.epoch)
        self.records.modules = self._modules
        self._watch = ModuleWatch(self._core, self._modules, self.records, self.symbols.covers)
        self._watch.on_change = self._module_changed
        self._dispatch.task_dead_ip = self._task_dead_ip()

    # The kernel is known to be so far from its link addresses.
    def _move(self, slide: int) -> None:
        self.slide = slide
        self.symbols = self.knowledge.symbols.slid(slide)
        self.records.moved(slide)
        # From 6.15 on per-CPU variables have kernel addresses too, and move with the kernel.
        self._percpu = PerCpuLayout.from_symbols(self.symbols, self.knowledge.image) if slide else self._percpu
        if isinstance(self._dispatch, BreakpointDispatch):
            self._dispatch.offsets = percpu_offsets(self._percpu)
        self._dispatch.task_dead_ip = self._task_dead_ip()

    # No function of the kernel has run yet: let the guest come to where pads can be mapped.
    def _start_boot(self, slide: int) -> None:
        self._move(slide)
        if self.options.dispatch == "breakpoint" or not isinstance(self.machine, Machine):
            return
        run_to_start(self.machine, self.target, self.symbols.one(START), self.options.boot_timeout_sec)
        self._choose_dispatch()
        if isinstance(self._dispatch, TrampolineDispatch):
            cr3 = self.target.registers(0)["cr3"]
            self._early = EarlyBoot(self._dispatch, self.symbols, cr3, lambda name: location_of(self.records, name))
            self._dispatch.planner.may_move = False
            self._dispatch.task_dead_ip = self._task_dead_ip()

    # Pads can be mapped now.
    def _choose_dispatch(self) -> None:
        asked = self.options.dispatch
        if asked == "breakpoint":
            return
        if isinstance(self._dispatch, TrampolineDispatch):
            ram, cr3 = self._dispatch.ram, self._dispatch.kernel_cr3
            self._dispatch.settle(kernel_cr3(ram, cr3, self.symbols))
            return
        if self._core.fprobes:
            # Since before the guest was up, and it was found out then why.
            return
        try:
            self._take_dispatch(self._trampolines())
        except ZoneError as error:
            if asked == "trampoline":
                raise
            self._why_breakpoints = str(error)

    def _trampolines(self) -> TrampolineDispatch:
        options = self.options
        if isinstance(self.machine, Machine):
            return open_trampolines(
                self.machine, self.target, self._core, self.records, self.knowledge, self.slide, self._percpu,
                answer_sec=options.answer_sec,
            )  # fmt: skip
        assert self._zones is not None
        assert isinstance(self._dispatch, BreakpointDispatch)
        return self._zones.trampolines(
            self._dispatch, self._core, recording=options.recording, answer_sec=options.answer_sec
        )

    # Of a guest of others, when we leave.
    def _give_zone_back(self) -> None:
        assert self._zones is not None
        trampolines = self._dispatch if isinstance(self._dispatch, TrampolineDispatch) else None
        if trampolines is not None:
            trampolines.unplant()
            self._take_dispatch(self._breakpoints())
        assert isinstance(self._dispatch, BreakpointDispatch)
        try:
            self._zones.give_back(self._dispatch, trampolines)
        finally:
            if trampolines is not None:
                trampolines.close()

    def _note(self, text: str) -> None:
        if self.on_note:
            self.on_note(text)

    # Functions of the guest that we listen to for ourselves.
    def _listeners(self) -> Mapping[int, Callable[[CpuState], None]]:
        if self._watch:
            return self._watch.listeners()
        return self._early.listeners() if self._early else {}

    # None where the kernel's own tables do not tell how to read modules.
    def _module_reader(self) -> ModuleReader | None:
        if not self.has_types or not self.symbols.addresses("modules"):
            return None
        memory = GuestMemory(self._read_kernel, lambda: self._dispatch.epoch)
        return ModuleReader(self.btf, memory, self.symbols, has_endbr=self.knowledge.locations.has_endbr)

    def _read_kernel(self, addr: int, size_bytes: int) -> bytes:
        if self._dispatch.in_handler:
            return self.read_memory(addr, size_bytes)
        return read_by_any(self.target, addr, size_bytes)

    def _admit(self, ips: Collection[int], planted: Collection[int]) -> None:
        if isinstance(self._dispatch, BreakpointDispatch):
            self.options.check_sites(len({*ips, *planted}), self._why_breakpoints)
        try:
            self._dispatch.admit(ips, planted)
        except PlantRefused as error:
            if self.options.dispatch != "auto" or self._core.fprobes:
                raise
            self.options.check_sites(len(ips), str(error))
            self._use_breakpoints(str(error))

    # In place of trampolines, while there is no probe.
    def _use_breakpoints(self, why: str) -> None:
        self._dispatch.withdraw()
        self._dispatch.close()
        self._take_dispatch(self._breakpoints())
        self._why_breakpoints = why

    def _take_dispatch(self, dispatch: Dispatch) -> None:
        # What was read under the other one must not pass as fresh.
        dispatch.epoch = self._dispatch.epoch + 1
        dispatch.watches = self._listeners
        dispatch.task_dead_ip = self._task_dead_ip()
        self._dispatch = dispatch

    def _breakpoints(self) -> BreakpointDispatch:
        kind = BreakpointKind(self.options.breakpoint)
        dispatch = BreakpointDispatch(self.target, self._core, percpu_offsets(self._percpu), kind=kind)
        dispatch.watches = self._listeners
        dispatch.way_back = self._way_back
        return dispatch

    def _module_changed(self, change: ModuleChange) -> None:
        self._protos.clear()
        if self.on_module:
            self.on_module(change)

    def _missed(self, fprobe: Fprobe, entry_ip: int, hit: Hit, reason: MissReason) -> None:
        if self.on_missed:
            self.on_missed(fprobe, entry_ip, hit, reason)

    @property
    def task_dead_ip(self) -> int | None:
        """Location of ``do_task_dead``, where a task is for the last time."""
        return self._dispatch.task_dead_ip

    def _task_dead_ip(self) -> int | None:
        addrs = self.symbols.addresses("do_task_dead")
        return (self.records.ftrace_location(addrs[0]) or addrs[0]) if addrs else None


# QEMU runs with -no-reboot, so an end of its own accord is the guest's will.
def _how_ended(exit_code: int | None) -> str:
    match exit_code:
        case None:
            return "QEMU has closed its connections"
        case 0:
            return "it was powered off or rebooted from inside (QEMU ended with exit code 0)"
        case code if code < 0:
            return f"QEMU was ended by signal {-code} ({signal.strsignal(-code)})"
        case code:
            return f"QEMU ended with exit code {code}"
