"""A boot with trampolines in it: what the kernel does to its page tables and its text until it is up.

Before ``x86_64_start_kernel`` no C function runs at its own address (arch/x86/kernel/head_64.S, 5.10 to 6.18); from
there on the image is mapped by the table that it keeps. Two things happen later that would take the ground from under
us: ``cleanup_highmap()`` unmaps what lies behind the image, and ``free_initmem()`` gives the memory of ``__init``
functions away. That ``ftrace_init()`` rewrites all locations is nothing special (see
:mod:`~fprobe_gdb.dispatch.trampoline.text_guard`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from emu.deadline import Deadline
from emu.errors import BootTimeout
from emu.machine import Machine
from fprobe_gdb.dispatch.cpu_state import CpuState
from fprobe_gdb.dispatch.trampoline.dispatch import TrampolineDispatch
from fprobe_gdb.dispatch.trampoline.mapping import IMAGE_BASE, read_directory, zone_entries
from fprobe_gdb.dispatch.trampoline.zone import HUGE_BYTES
from fprobe_gdb.errors import WaitTimeout
from fprobe_gdb.kernel.symbols import SymbolTable
from fprobe_gdb.session.trampolines import kernel_cr3
from fprobe_gdb.target.base import BreakpointKind, Target

__all__ = ["START", "EarlyBoot", "run_to_start"]

#: Where trampolines begin to work.
START = "x86_64_start_kernel"


def run_to_start(machine: Machine, target: Target, start: int, timeout_sec: float) -> None:
    """Let the guest run from its first instruction to the kernel's first C function.

    :raise BootTimeout: when it does not get there.
    """
    deadline = Deadline(timeout_sec)
    target.insert_breakpoint(start, BreakpointKind.HARDWARE)
    target.resume()
    try:
        while target.wait(deadline, machine.filenos()) is None:
            machine.pump()
    except WaitTimeout:
        raise BootTimeout(timeout_sec, machine.console.tail()) from None
    target.remove_breakpoint(start, BreakpointKind.HARDWARE)


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
        self._brk_end_addr = symbols.one("_brk_end")
        self._brk_end = 0
        listeners = {
            "cleanup_highmap": self._keep_mapped,
            # setup_arch() calls it next.
            "e820__memblock_setup": self._is_kept,
            "free_initmem": self._free_initmem,
        }
        self._listeners = {ip: listener for name, listener in listeners.items() if (ip := locate(name))}

    def listeners(self) -> Mapping[int, Callable[[CpuState], None]]:
        """What to call when which function is entered."""
        return self._listeners

    # cleanup_highmap() clears the entries of 2 MiB behind _brk_end: let that be behind the zone for its time.
    def _keep_mapped(self, _state: CpuState) -> None:
        ram = self._dispatch.ram
        index, entries = zone_entries(self._dispatch.zone)
        self._brk_end = int.from_bytes(ram.read(self._cr3, self._brk_end_addr, 8), "little")
        end = IMAGE_BASE + (index + len(entries) // 8) * HUGE_BYTES
        ram.write(self._cr3, self._brk_end_addr, end.to_bytes(8, "little"))

    # Undo that, and clear what it would have cleared between image and zone.
    def _is_kept(self, _state: CpuState) -> None:
        ram = self._dispatch.ram
        if not self._brk_end:
            return
        ram.write(self._cr3, self._brk_end_addr, self._brk_end.to_bytes(8, "little"))
        first = -(-(self._brk_end - IMAGE_BASE) // HUGE_BYTES)
        index, _ = zone_entries(self._dispatch.zone)
        ram.write_physical(self._directory + 8 * first, bytes(8 * (index - first)))
        self._brk_end = 0
        self._dispatch.kernel_cr3 = kernel_cr3(ram, self._cr3, self._symbols)

    def _free_initmem(self, _state: CpuState) -> None:
        starts, stops = self._symbols.addresses("__init_begin"), self._symbols.addresses("__init_end")
        for start, stop in zip(starts, stops, strict=False):
            self._dispatch.forget(start, stop)
