"""Giving a booted guest a landing zone: from shared RAM and a settled kernel to a trampoline dispatch."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Set

from emu.machine import Machine
from fprobe_gdb.dispatch.cpu_state import PerCpuOffsets
from fprobe_gdb.dispatch.trampoline.dispatch import TrampolineDispatch
from fprobe_gdb.dispatch.trampoline.guest_unwinder import UNWINDER
from fprobe_gdb.dispatch.trampoline.journal import OwnBytes
from fprobe_gdb.dispatch.trampoline.mapping import place_zone, read_directory, zone_entries
from fprobe_gdb.dispatch.trampoline.plans import Planner
from fprobe_gdb.dispatch.trampoline.text_guard import GUARDED
from fprobe_gdb.dispatch.trampoline.zone import MAX_RINGS, Zone
from fprobe_gdb.errors import MemoryFault, ZoneNotShared
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from fprobe_gdb.kernel.patched_text import PatchedText
from fprobe_gdb.kernel.percpu import PerCpuLayout
from fprobe_gdb.kernel.sites import MCOUNT_INSN_SIZE
from fprobe_gdb.kernel.symbols import SymbolTable
from fprobe_gdb.probe.core import ProbeCore
from fprobe_gdb.session.find_kernel import kernel_root
from fprobe_gdb.session.records import ImageRecords
from fprobe_gdb.target.base import Target
from fprobe_gdb.target.guest_ram import GuestRam

__all__ = ["furnish_trampolines", "kernel_cr3", "location_of", "open_trampolines", "percpu_offsets"]


def open_trampolines(
    machine: Machine,
    target: Target,
    core: ProbeCore,
    records: ImageRecords,
    knowledge: KernelKnowledge,
    slide: int,
    percpu: PerCpuLayout,
    *,
    answer_sec: float,
) -> TrampolineDispatch:
    """Map the zone into the stopped guest and furnish it.

    :param slide: what KASLR has added to the addresses of the image.
    :param percpu: of the kernel where it is.
    :param answer_sec: how long a pad waits for the host to begin with its hit.
    :raise ZoneError: when the machine has no shared RAM, or the zone cannot be mapped.
    """
    if machine.ram is None or machine.doorbell is None or not machine.spec.reserved_mib:
        raise ZoneNotShared
    symbols = knowledge.symbols.slid(slide)
    ram = GuestRam(machine.ram, machine.ram_fd)
    cr3 = kernel_root(target, 0)
    table, entries = read_directory(cr3, ram.read_physical)
    size_bytes = machine.spec.reserved_mib << 20
    rings = core.possible_cpus if core.possible_cpus <= MAX_RINGS else 0
    image = symbols.one("_text"), symbols.one("_end")
    zone = place_zone(entries, image, machine.spec.reserved_addr, size_bytes, rings)
    index, mapped = zone_entries(zone)
    ram.write_physical(table + 8 * index, mapped)
    ram.write_physical(zone.physical, bytes(zone.size_bytes))
    return furnish_trampolines(
        target, core, records, knowledge, slide, percpu, ram, zone, cr3, doorbell=machine.doorbell,
        answer_sec=answer_sec,
    )  # fmt: skip


def furnish_trampolines(
    target: Target,
    core: ProbeCore,
    records: ImageRecords,
    knowledge: KernelKnowledge,
    slide: int,
    percpu: PerCpuLayout,
    ram: GuestRam,
    zone: Zone,
    cr3: int,
    *,
    doorbell: socket.socket | None,
    answer_sec: float,
    journal: OwnBytes | None = None,
    standing: Callable[[Set[int]], set[int]] | None = None,
) -> TrampolineDispatch:
    """Make a dispatch of a zone that is mapped and blank.

    :param cr3: a page table root that maps the kernel.
    :param doorbell, journal, standing: see :class:`.TrampolineDispatch`.
    """
    symbols = knowledge.symbols.slid(slide)
    return TrampolineDispatch(
        target,
        core,
        ram,
        zone,
        doorbell,
        kernel_cr3=kernel_cr3(ram, cr3, symbols),
        offsets=percpu_offsets(percpu),
        cpu_number=percpu.cpu_number,
        make_planner=lambda read, pad: Planner(
            read, pad, symbols, PatchedText(knowledge.image, knowledge.symbols), slide
        ),
        guarded={name: ip for name in GUARDED if (ip := location_of(records, name))},
        unwinder={name: ip for name in UNWINDER if (ip := _behind_location(records, name))},
        read_khz=lambda cr3: _tsc_khz(ram, cr3, symbols),
        answer_sec=answer_sec,
        text=symbols.one("_stext"),
        journal=journal,
        standing=standing,
    )


def percpu_offsets(percpu: PerCpuLayout) -> PerCpuOffsets:
    """The variables that a hit needs."""
    return PerCpuOffsets(percpu.current_task, percpu.preempt_count, percpu.current_kprobe)


def location_of(records: ImageRecords, name: str) -> int:
    """Where a function is planted, 0 when this kernel has none of the name."""
    addrs = records.addresses(name)
    if not addrs:
        return 0
    found = records.ftrace_location(addrs[0])
    if not found and (location := records.first_insn(name)):
        found = location.ip
    return found


# Behind the fentry instruction of a function, or where it begins; 0 when this kernel has none of the name.
def _behind_location(records: ImageRecords, name: str) -> int:
    addrs = records.addresses(name)
    if addrs and (ip := records.ftrace_location(addrs[0])):
        return ip + MCOUNT_INSN_SIZE
    return location_of(records, name)


def kernel_cr3(ram: GuestRam, cr3: int, symbols: SymbolTable) -> int:
    """The kernel's own page table root; the one that is given where that is not to be found, or not in use yet.

    It is ``swapper_pg_dir`` (arch/x86/kernel/head_64.S calls it init_top_pgt), filled in before ``start_kernel``.
    """
    for addr in symbols.addresses("init_top_pgt"):
        with contextlib.suppress(MemoryFault):
            found = ram.translate(cr3, addr)
            if ram.translate(found, addr) == found:
                return found
    return cr3


# How fast the guest has found its time stamp counter to run; 0 before it has.
def _tsc_khz(ram: GuestRam, cr3: int, symbols: SymbolTable) -> int:
    for addr in symbols.addresses("tsc_khz"):
        with contextlib.suppress(MemoryFault):
            return int.from_bytes(ram.read(cr3, addr, 4), "little")
    return 0
