"""Stack traces of the stopped guest's kernel, without its help and without debug information.

::

    unwinder = Unwinder.of(knowledge.image, knowledge.symbols)
    trace = unwinder.walk(registers, read, limit=32)
    for frame in trace:
        print(unwinder.symbolize(frame))

By ORC, as the kernel itself does it; by frame pointers for kernels that were built for these. A trace begins with the
function at ``ip`` and ends where the kernel was entered from user mode, or with the first function of a kernel thread.
It crosses interrupts and exceptions onto the stacks that they interrupted.
"""

from __future__ import annotations

from collections.abc import Callable

from fprobe_gdb.errors import UsageError
from fprobe_gdb.kernel.image import KernelImage
from fprobe_gdb.kernel.orc import OrcTable
from fprobe_gdb.kernel.symbols import SymbolTable
from fprobe_gdb.kernel.unwind_code import KernelCode, ModuleOrc
from fprobe_gdb.kernel.unwind_fp import FramePointerWalk
from fprobe_gdb.kernel.unwind_frames import End, Frame, FrameKind, StackTrace
from fprobe_gdb.kernel.unwind_hooks import Recover, ReturnSlots
from fprobe_gdb.kernel.unwind_orc import OrcWalk
from fprobe_gdb.kernel.unwind_stack import Read, StackReader, is_user
from fprobe_gdb.registers import Registers

__all__ = ["Frame", "FrameKind", "Read", "Recover", "StackTrace", "Unwinder"]

_LIMIT = 128


class Unwinder:
    """Walks the stacks of one kernel. Made by :meth:`of`, kept as long as the kernel is known."""

    def __init__(self, code: KernelCode) -> None:
        self._code = code

    @classmethod
    def of(cls, image: KernelImage, symbols: SymbolTable, *, slide: int = 0) -> Unwinder:
        """For a kernel image and its symbols, both at link addresses.

        :param slide: running address less link address (KASLR).
        :raise ImageError: its ORC table is damaged, or of a form that we do not know.
        """
        return cls(KernelCode(image, symbols, slide))

    @property
    def method(self) -> str:
        """``"ORC"`` or ``"frame pointers"``."""
        return "frame pointers" if self._code.table is None else "ORC"

    def add_module(self, start: int, stop: int, table: OrcTable) -> None:
        """Let traces cross a module's code reliably; without, frame pointers are guessed there.

        :param start, stop: its code in the running kernel.
        :param table: its ORC table (``mod->arch.orc_unwind_ip`` and ``orc_unwind``), for running addresses.
        """
        self._code.modules.append(ModuleOrc(start, stop, table))

    def ask_for_modules(self, module_orc: Callable[[int, OrcTable], OrcTable | None]) -> None:
        """The same for all modules, looked for when a trace gets to one.

        :param module_orc: finds the table for an address of the running kernel; the other one is the kernel's own.
        """
        table = self._code.table
        if table is not None:
            self._code.find_table = lambda ip: module_orc(ip, table)

    def remove_module(self, start: int) -> None:
        """Forget the module whose code starts there."""
        self._code.modules[:] = [module for module in self._code.modules if module.start != start]

    def walk(
        self, registers: Registers, read: Read, *, limit: int = _LIMIT, recover: Recover | None = None
    ) -> StackTrace:
        """The frames of a stopped vCPU. One read for each stack that it crosses; three more for an ftrace trampoline.

        At a fentry site, a return address or anywhere else. Bad stacks end the trace, which then is not complete.

        :param registers: ``ip``, ``sp``, ``bp``, ``cs`` at least; all general registers make entry code reliable too.
        :param read: reads guest memory as that vCPU sees it; raises MemoryFault.
        :param limit: how many frames at most.
        :param recover: knows what hooked return slots held; see :data:`~fprobe_gdb.kernel.unwind_hooks.Recover`.
        :raise UsageError: a limit below 1.
        """
        if limit < 1:
            raise UsageError(f"a stack trace of {limit} frames makes no sense; ask for at least 1")
        if is_user(registers["cs"]):
            return StackTrace((), True)
        slots = ReturnSlots(self._code, recover)
        walker = FramePointerWalk if self._code.table is None else OrcWalk
        walk = walker(self._code, StackReader(read), slots, registers)
        frames = [Frame(registers["ip"], registers["sp"], True, FrameKind.STOPPED)]
        while not isinstance(found := walk.step(), End):
            if len(frames) == limit:
                return StackTrace(tuple(frames), False, f"it has more than the {limit} frames asked for")
            frames.append(found)
        return StackTrace(tuple(frames), found.complete, found.why)

    def symbolize(self, frame: Frame) -> str:
        """``vfs_read+0x5`` as the kernel's oopses have it (``%pB``), and ``[FTRACE TRAMPOLINE]`` as its traces have it.

        Traces in tracefs look up the return address itself, which differs after calls that never return.
        """
        if frame.kind is FrameKind.TRAMPOLINE:
            return "[FTRACE TRAMPOLINE]"
        return self._code.symbolize(frame.ip, back=frame.ip - frame.lookup_ip)
