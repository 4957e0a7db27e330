"""A boot with trampolines in it: what the kernel does to its page tables and its text until it is up.

Before ``x86_64_start_kernel`` no C function runs at its own address (arch/x86/kernel/head_64.S, 5.10 to 6.18); from
there on the image is mapped by the table that it keeps. Two things happen later that would take the ground from under
us: ``cleanup_highmap()`` unmaps what lies around the image, and ``free_initmem()`` gives the memory of ``__init``
functions away. ``ftrace_init()`` rewrites all locations, and pads see to it
(:mod:`~fprobe_gdb.dispatch.trampoline.early_pokes`) until ``sched_init()``, which start_kernel() calls soon behind it,
long before there is a second CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from emu.deadline import Deadline
from emu.errors import BootTimeout
from emu.machine import Machine
from fprobe_gdb.dispatch.cpu_state import CpuState
from fprobe_gdb.dispatch.trampoline.dispatch import TrampolineDispatch
from fprobe_gdb.dispatch.trampoline.mapping import DIRECTORY_ENTRIES, IMAGE_BASE, read_directory, zone_entries
from fprobe_gdb.dispatch.trampoline.zone import HUGE_BYTES
from fprobe_gdb.errors import BreakpointRefused, ImageError, UsageError, WaitTimeout
from fprobe_gdb.kernel.kaslr import find_slide
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from fprobe_gdb.kernel.symbols import SymbolTable
from fprobe_gdb.session.trampolines import kernel_cr3
from fprobe_gdb.target.base import BreakpointKind, Target
from fprobe_gdb.target.rsp import RspTarget

__all__ = ["START", "EarlyBoot", "run_to_kernel", "run_to_start"]

#: Where trampolines begin to work.
START = "x86_64_start_kernel"
_BEHIND_FTRACE_INIT = "sched_init"


def run_to_kernel(machine: Machine, knowledge: KernelKnowledge, timeout_sec: float) -> int:
    """Let the guest run from its first instruction to where KASLR has put the kernel, before its first C function.

    The decompressor chooses two addresses at random and runs, as the kernel's own first instructions do, at the
    physical one. So the first data that are read or written through the image's mapping are those of the instructions
    in head_64.S that are the first to run where the kernel has its addresses.

    :return: how far it is from its link addresses.
    :raise BootTimeout: when it does not get there.
    :raise UsageError: when this QEMU cannot find out.
    """
    assert machine.gdb_socket is not None
    with RspTarget(machine.gdb_socket.dup()) as target:
        target.insert_watchpoint(IMAGE_BASE, DIRECTORY_ENTRIES * HUGE_BYTES)
        try:
            target.resume()
            _wait(machine, target, timeout_sec)
        except BreakpointRefused as error:
            raise UsageError(
                f"to find a kernel with KASLR before it is up takes TCG ({error}); boot it with --no-kaslr, kaslr=False"
            ) from None
        target.remove_watchpoint(IMAGE_BASE, DIRECTORY_ENTRIES * HUGE_BYTES)
        slide = find_slide(knowledge.image, knowledge.symbols, target.read_many)
    if slide is None:
        raise ImageError(knowledge.image.path, "its decompressor has started another kernel than the one inside it")
    return slide


def run_to_start(machine: Machine, target: Target, start: int, timeout_sec: float) -> None:
    """Let the guest run on to the kernel's first C function.

    :raise BootTimeout: when it does not get there.
    """
    target.insert_breakpoint(start, BreakpointKind.HARDWARE)
    target.resume()
    _wait(machine, target, timeout_sec)
    target.remove_breakpoint(start, BreakpointKind.HARDWARE)


def _wait(machine: Machine, target: Target, timeout_sec: float) -> None:
    deadline = Deadline(timeout_sec)
    try:
        while target.wait(deadline, machine.filenos()) is None:
            machine.pump()
    except WaitTimeout:
        raise BootTimeout(timeout_sec, machine.console.tail()) from None


class EarlyBoot:
    """Watches over the zone and the locations of a guest that boots.

    :param cr3: the page table root at :data:`START`.
    :param locate: where a function is planted, 0 when this kernel has none of the name.
    """

    def __init__(
        self, dispatch: TrampolineDispatch, symbols: SymbolTable, cr3: int, locate: Callable[[str], int]
    ) -> None:
        self._dispatch = dispatch
        self._symbols = symbols
        self._cr3 = cr3
        self._directory, _ = read_directory(cr3, dispatch.ram.read_physical)
        self._mapped_pages = b""
        listeners = {
            "cleanup_highmap": self._keep_mapped,
            # setup_arch() calls it next.
            "e820__memblock_setup": self._is_kept,
            "free_initmem": self._free_initmem,
            _BEHIND_FTRACE_INIT: self._ftrace_is_up,
        }
        self._listeners = {ip: listener for name, listener in listeners.items() if (ip := locate(name))}
        dispatch.early.allowed = bool(locate(_BEHIND_FTRACE_INIT))

    def listeners(self) -> Mapping[int, Callable[[CpuState], None]]:
        """What to call when which function is entered."""
        return self._listeners

    # cleanup_highmap() clears the entries of 2 MiB around the image, as far as max_pfn_mapped reaches: nowhere, then.
    def _keep_mapped(self, _state: CpuState) -> None:
        ram, addr = self._dispatch.ram, self._symbols.one("max_pfn_mapped")
        self._mapped_pages = ram.read(self._cr3, addr, 8)
        ram.write(self._cr3, addr, (1).to_bytes(8, "little"))

    # Undo that, and clear what it would have cleared, but for the zone.
    def _is_kept(self, _state: CpuState) -> None:
        ram = self._dispatch.ram
        if not self._mapped_pages:
            return
        ram.write(self._cr3, self._symbols.one("max_pfn_mapped"), self._mapped_pages)
        self._mapped_pages = b""
        brk_end = int.from_bytes(ram.read(self._cr3, self._symbols.one("_brk_end"), 8), "little")
        index, mapped = zone_entries(self._dispatch.zone)
        kept = [((self._symbols.one("_text") - IMAGE_BASE) // HUGE_BYTES, -(-(brk_end - IMAGE_BASE) // HUGE_BYTES))]
        kept.append((index, index + len(mapped) // 8))
        for entry in range(DIRECTORY_ENTRIES):
            if not any(first <= entry < end for first, end in kept):
                ram.write_physical(self._directory + 8 * entry, bytes(8))
        self._dispatch.kernel_cr3 = kernel_cr3(ram, self._cr3, self._symbols)

    def _free_initmem(self, _state: CpuState) -> None:
        starts, stops = self._symbols.addresses("__init_begin"), self._symbols.addresses("__init_end")
        for start, stop in zip(starts, stops, strict=False):
            self._dispatch.forget(start, stop)

    def _ftrace_is_up(self, _state: CpuState) -> None:
        self._dispatch.early.allowed = False
