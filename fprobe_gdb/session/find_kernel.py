"""A running guest's kernel, looked at from outside: how far KASLR has moved it, and which page tables have it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from emu.deadline import Deadline
from fprobe_gdb.dispatch.base import stop_guest
from fprobe_gdb.errors import MemoryFault, WaitTimeout
from fprobe_gdb.kernel.kaslr import find_slide
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from fprobe_gdb.kernel.symbols import SymbolTable
from fprobe_gdb.target.base import Target, TargetState
from fprobe_gdb.target.connected import ConnectedTarget
from fprobe_gdb.target.page_table import PAGE_BYTES, PRESENT

__all__ = ["find_kernel", "isolates", "kernel_root", "possible_cpus", "read_by_any", "set_isolated"]

# How long to look for a moment at which a vCPU is not in user mode, and in which steps.
_KERNEL_MODE_SEC = 3.0
_A_WHILE_SEC = 0.01
_KERNEL_HALF = 1 << 63
_MOST_MASK_BYTES = 1024


def find_kernel(target: Target, knowledge: KernelKnowledge) -> int | None:
    """What KASLR has added to the addresses of the kernel in a stopped guest; None where this kernel is not found.

    A vCPU in user mode under page table isolation does not see the kernel, so the guest may run on for a while.
    """
    deadline = Deadline(_KERNEL_MODE_SEC)
    while True:
        slide = _slide_now(target, knowledge)
        in_user_mode = all(ip < _KERNEL_HALF for ip in target.instruction_pointers())
        if slide is not None or not in_user_mode or deadline.expired:
            return slide
        target.resume()
        with contextlib.suppress(WaitTimeout):
            target.wait(Deadline(_A_WHILE_SEC))
            continue
        stop_guest(target)


# As each vCPU sees memory, and then as the kernel would, if that is what it is.
def _slide_now(target: Target, knowledge: KernelKnowledge) -> int | None:
    for isolated in (False, True):
        set_isolated(target, isolated)
        for vcpu in target.vcpus:
            slide = find_slide(
                knowledge.image,
                knowledge.symbols,
                lambda places: target.read_many(places, vcpu=vcpu),  # noqa: B023
            )
            if slide is not None:
                return slide
    return None


def set_isolated(target: Target, isolated: bool) -> None:
    """Tell the target whether page tables for user mode are others (:func:`isolates`)."""
    if isinstance(target, ConnectedTarget):
        target.isolated = isolated


def kernel_root(target: Target, vcpu: int) -> int:
    """``cr3`` by which the kernel is seen through a stopped vCPU, which may be in user mode."""
    return target.kernel_root(vcpu) if isinstance(target, ConnectedTarget) else target.registers(vcpu)["cr3"]


def isolates(symbols: SymbolTable, read: Callable[[int, int], bytes]) -> bool:
    """Whether page tables for user mode are others: then the page behind a root is theirs, and maps the entry code.

    :param symbols: at the guest's addresses.
    :param read: reads kernel memory.
    """
    root = next(iter(symbols.addresses("init_top_pgt")), 0)
    if not root or symbols.size(root) < 2 * PAGE_BYTES:
        return False
    with contextlib.suppress(MemoryFault):
        return bool(int.from_bytes(read(root + 2 * PAGE_BYTES - 8, 8), "little") & PRESENT)
    return False


def read_by_any(target: Target, addr: int, size_bytes: int) -> bytes:
    """Kernel memory of a stopped guest, by whichever vCPU has it mapped: one in user mode may not have.

    :raise MemoryFault: no vCPU has.
    """
    fault = MemoryFault(addr, size_bytes)
    for vcpu in target.vcpus:
        try:
            return target.read_memory(addr, size_bytes, vcpu=vcpu)
        except MemoryFault as error:
            fault = error
    raise fault


def possible_cpus(target: Target, symbols: SymbolTable) -> int:
    """``num_possible_cpus()``, or how many vCPUs there are where the guest cannot be asked.

    ``struct cpumask __cpu_possible_mask`` has up to NR_CPUS bits; how many is known from the next symbol.
    """
    addrs = symbols.addresses("__cpu_possible_mask")
    if not addrs or target.state is not TargetState.STOPPED:
        return len(target.vcpus)
    try:
        mask = target.read_memory(addrs[0], min(symbols.size(addrs[0]), _MOST_MASK_BYTES))
    except MemoryFault:
        return len(target.vcpus)
    return int.from_bytes(mask, "little").bit_count() or len(target.vcpus)
