"""A CPU that runs pads, with a host that answers: Unicorn, which is QEMU's TCG as a library."""

from __future__ import annotations

import mmap
import random
import struct
from collections.abc import Callable

import unicorn
from unicorn import x86_const as x86

from fprobe_gdb.dispatch.cpu_state import PerCpuOffsets
from fprobe_gdb.dispatch.trampoline.pads import DOORBELL_PORT, call_pads
from fprobe_gdb.dispatch.trampoline.returns import Returns
from fprobe_gdb.dispatch.trampoline.slots import Posted, Slots
from fprobe_gdb.dispatch.trampoline.zone import HUGE_BYTES, Zone
from fprobe_gdb.registers import GENERAL_REGISTERS
from fprobe_gdb.target.guest_ram import GuestRam

__all__ = ["CALLER", "FUNCTION", "PadMachine"]

CODE = 0xFFFFFFFF83C00000
FUNCTION = 0xFFFFFFFF81345000
CALLER = 0xFFFFFFFF8134D000
TEXT = 0xFFFFFFFF81300000
STACK = 0xFFFFC90000000000
PERCPU = 0xFFFF888010000000
STACK_BYTES = 1 << 14
#: Per-CPU offsets: current_task, preempt_count, current_kprobe, cpu_number.
TASK_AT, COUNT_AT, KPROBE_AT, CPU_AT = 0x100, 0x108, 0x110, 0x118

_IDS = {
    name: getattr(x86, f"UC_X86_REG_{name.upper() if name.startswith('r') else 'R' + name.upper()}")
    for name in GENERAL_REGISTERS
}
# Carry, parity, zero, sign, interrupts, direction, overflow; and the bit that is always 1.
_FLAGS = (0x1, 0x4, 0x40, 0x80, 0x200, 0x800)


class PadMachine:
    """One vCPU in a function's entry, a zone, and the host's side of it.

    :param answer: called for each posted hit; has to answer it, or not. None: nobody looks at the slots while it runs.
    """

    def __init__(self, answer: Callable[[PadMachine, Posted], None] | None) -> None:
        self.answer = answer
        self.zone = Zone(0, 3 * HUGE_BYTES, CODE, CODE + HUGE_BYTES, 1)
        self._memory = mmap.mmap(-1, self.zone.size_bytes)
        self.ram = GuestRam(self._memory)
        self.offsets = PerCpuOffsets(TASK_AT, COUNT_AT, KPROBE_AT)
        self.pads = call_pads(self.zone, self.offsets, CPU_AT)
        self.ram.write_physical(self.zone.physical_of(self.zone.code), self.pads.code)
        self.ram.write_physical(self.zone.physical_of(self.zone.stubs), self.pads.stubs(self.zone))
        self.set_word(Zone.BOUND_TSC, 1 << 60)
        self.slots = Slots(self.ram, self.zone)
        self.returns = Returns(self.ram, self.zone)
        self.posted: list[Posted] = []
        self.rings = 0
        self.functions: list[int] = []
        self.uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        # Addresses are virtual ones; there are no page tables.
        self.uc.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
        self._map()
        self.uc.hook_add(unicorn.UC_HOOK_INSN, self._on_out, aux1=x86.UC_X86_INS_OUT)
        if answer is not None:
            self.uc.hook_add(unicorn.UC_HOOK_CODE, self._on_code)

    def _map(self) -> None:
        import ctypes

        base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        everything = unicorn.UC_PROT_ALL
        self.uc.mem_map_ptr(self.zone.code, HUGE_BYTES, unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC, base)
        self.uc.mem_map_ptr(self.zone.data, self.zone.size_bytes - HUGE_BYTES, everything, base + HUGE_BYTES)
        self.uc.mem_map(TEXT, 1 << 20, everything)
        self.uc.mem_map(STACK, STACK_BYTES, everything)
        self.uc.mem_map(PERCPU, 4096, everything)
        self.uc.mem_write(TEXT, b"\xc3" * (1 << 20))
        self.plant(FUNCTION)
        self.uc.reg_write(x86.UC_X86_REG_GS_BASE, PERCPU)
        self.percpu(TASK_AT, 0xFFFF888005378000)
        self.percpu(COUNT_AT, 0x80000001)
        self.percpu(CPU_AT, 1)

    # Section: state

    def percpu(self, offset: int, value: int | None = None) -> int:
        """Read a per-CPU word, or write it."""
        if value is not None:
            self.uc.mem_write(PERCPU + offset, value.to_bytes(8, "little"))
        return int.from_bytes(self.uc.mem_read(PERCPU + offset, 8), "little")

    def word(self, offset: int) -> int:
        """A shared word of the zone."""
        return int.from_bytes(self.ram.read_physical(self.zone.physical_of(self.zone.word(offset)), 8), "little")

    def set_word(self, offset: int, value: int) -> None:
        """Set a shared word of the zone."""
        self.ram.write_physical(self.zone.physical_of(self.zone.word(offset)), value.to_bytes(8, "little"))

    def lost(self) -> dict[int, int]:
        """Counters of lost calls, by location."""
        at = self.zone.physical_of(self.zone.word(Zone.LOST))
        cells = self.ram.read_physical(at, Zone.LOST_CELLS * Zone.LOST_CELL_BYTES)
        return {ip | 0xFFFFFFFF << 32: count for ip, count in struct.iter_unpack("<II", cells) if ip}

    def plant(self, ip: int) -> None:
        """Let a location call the pad."""
        self.uc.mem_write(ip, b"\xe8" + (self.pads.entry - ip - 5).to_bytes(4, "little", signed=True))

    def registers(self) -> dict[str, int]:
        """General registers, ``ip`` and ``flags``."""
        values = {name: self.uc.reg_read(number) for name, number in _IDS.items()}
        values["ip"] = self.uc.reg_read(x86.UC_X86_REG_RIP)
        values["flags"] = self.uc.reg_read(x86.UC_X86_REG_EFLAGS) & (sum(_FLAGS) | 2)
        return values

    def scramble(self, seed: int) -> dict[str, int]:
        """Random values in all registers, the stack pointer at the return slot of a call from CALLER."""
        chance = random.Random(seed)
        for name, number in _IDS.items():
            self.uc.reg_write(number, STACK + STACK_BYTES // 2 if name == "sp" else chance.getrandbits(64))
        self.uc.reg_write(x86.UC_X86_REG_EFLAGS, 2 | sum(chance.choice((0, flag)) for flag in _FLAGS[:-3]) | 0x200)
        self.uc.mem_write(STACK + STACK_BYTES // 2, CALLER.to_bytes(8, "little"))
        self.uc.reg_write(x86.UC_X86_REG_RIP, FUNCTION)
        return self.registers()

    def stack_word(self, addr: int) -> int:
        """A word of the stack."""
        return int.from_bytes(self.uc.mem_read(addr, 8), "little")

    # Section: running

    def run(self, begin: int, until: int, limit: int = 200_000) -> None:
        """Run to an address, or so many instructions."""
        self.uc.emu_start(begin, until, count=limit)
        assert self.registers()["ip"] == until, hex(self.registers()["ip"])

    def step(self, count: int, until: int) -> bool:
        """Run so many instructions, or to an address. Whether it is there."""
        if count and self.ip != until:
            self.uc.emu_start(self.ip, until, count=count)
        return self.ip == until

    @property
    def ip(self) -> int:
        """Where it is."""
        return int(self.uc.reg_read(x86.UC_X86_REG_RIP))

    def _on_out(self, uc: object, port: int, size: int, value: int, data: object) -> None:
        assert (port, size) == (DOORBELL_PORT, 1)
        self.rings += 1

    def _on_code(self, uc: unicorn.Uc, addr: int, size: int, data: object) -> None:
        if TEXT <= addr < TEXT + (1 << 20) and addr not in (FUNCTION, FUNCTION + 5, CALLER):
            self.functions.append(addr)
        slot = self.slots.next_posted()
        if slot is not None and (said := self.slots.take(slot)):
            posted = Posted(slot, said)
            self.posted.append(posted)
            assert self.answer is not None
            self.answer(self, posted)
