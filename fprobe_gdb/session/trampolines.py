"""Giving a booted guest a landing zone: from shared RAM and a settled kernel to a trampoline dispatch."""

from __future__ import annotations

from emu.machine import Machine
from fprobe_gdb.dispatch.cpu_state import PerCpuOffsets
from fprobe_gdb.dispatch.trampoline.dispatch import TrampolineDispatch
from fprobe_gdb.dispatch.trampoline.mapping import place_zone, read_directory, zone_entries
from fprobe_gdb.dispatch.trampoline.plans import Planner
from fprobe_gdb.dispatch.trampoline.text_guard import GUARDED
from fprobe_gdb.errors import MemoryFault, ZoneError
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from fprobe_gdb.kernel.patched_text import PatchedText
from fprobe_gdb.kernel.percpu import PerCpuLayout
from fprobe_gdb.kernel.symbols import SymbolTable
from fprobe_gdb.probe.core import ProbeCore
from fprobe_gdb.session.records import ImageRecords
from fprobe_gdb.target.base import Target
from fprobe_gdb.target.guest_ram import GuestRam

__all__ = ["open_trampolines", "percpu_offsets"]

# Where the kernel has not measured it yet: right for durations of a guest's first moments only by chance.
_TSC_KHZ = 1_000_000


def open_trampolines(
    machine: Machine,
    target: Target,
    core: ProbeCore,
    records: ImageRecords,
    knowledge: KernelKnowledge,
    slide: int,
    *,
    answer_sec: float,
) -> TrampolineDispatch:
    """Map the zone into the stopped guest and furnish it.

    :param slide: what KASLR has added to the addresses of the image.
    :param answer_sec: how long a pad waits for the host to begin with its hit.
    :raise ZoneError: when the machine has no shared RAM, or the zone cannot be mapped.
    """
    if machine.ram is None or machine.doorbell is None or not machine.spec.reserved_mib:
        raise ZoneError("this guest's memory is not shared with us; boot it with dispatch='trampoline' or 'auto'")
    symbols, percpu = knowledge.symbols.slid(slide), knowledge.percpu
    ram = GuestRam(machine.ram, machine.ram_fd)
    cr3 = target.registers(0)["cr3"]
    table, entries = read_directory(cr3, ram.read_physical)
    zone = place_zone(entries, symbols.one("_end"), machine.spec.reserved_addr, machine.spec.reserved_mib << 20)
    index, mapped = zone_entries(zone)
    ram.write_physical(table + 8 * index, mapped)

    def word(name: str, size_bytes: int, default: int) -> int:
        try:
            return int.from_bytes(ram.read(cr3, symbols.one(name), size_bytes), "little") or default
        except MemoryFault:
            return default

    return TrampolineDispatch(
        target,
        core,
        ram,
        zone,
        machine.doorbell,
        kernel_cr3=_translate(ram, cr3, symbols) or cr3,
        offsets=percpu_offsets(percpu),
        cpu_number=percpu.cpu_number,
        make_planner=lambda read, pad: Planner(
            read, pad, symbols, PatchedText(knowledge.image, knowledge.symbols), slide
        ),
        guarded={name: ip for name in GUARDED if (ip := _location(records, name))},
        tsc_khz=word("tsc_khz", 4, _TSC_KHZ),
        answer_sec=answer_sec,
    )


def percpu_offsets(percpu: PerCpuLayout) -> PerCpuOffsets:
    """The variables that a hit needs."""
    return PerCpuOffsets(percpu.current_task, percpu.preempt_count, percpu.current_kprobe)


# Where a function is planted, 0 when this kernel has none of the name.
def _location(records: ImageRecords, name: str) -> int:
    addrs = records.addresses(name)
    if not addrs:
        return 0
    found = records.ftrace_location(addrs[0])
    if not found and (location := records.first_insn(name)):
        found = location.ip
    return found


# The kernel's own page table root (``swapper_pg_dir``; arch/x86/kernel/head_64.S calls it init_top_pgt).
def _translate(ram: GuestRam, cr3: int, symbols: SymbolTable) -> int | None:
    for addr in symbols.addresses("init_top_pgt"):
        try:
            return ram.translate(cr3, addr)
        except MemoryFault:
            return None
    return None
