"""CPUs that run recording pads, and a recorder on the other side of their memory: Unicorn, which is QEMU's TCG."""

from __future__ import annotations

import ctypes
import mmap
import random
from collections.abc import Sequence
from typing import Any, cast

import unicorn
from unicorn import x86_const as x86

from fprobe_gdb.dispatch.cpu_state import PerCpuOffsets
from fprobe_gdb.dispatch.trampoline.pad_expr import ALWAYS, Asked
from fprobe_gdb.dispatch.trampoline.record_format import Record, RecordForm, RingWord
from fprobe_gdb.dispatch.trampoline.record_pads import PadPlace
from fprobe_gdb.dispatch.trampoline.recorder import Recorder, RecordProbe
from fprobe_gdb.dispatch.trampoline.ring import Batch
from fprobe_gdb.dispatch.trampoline.tables import TableForm
from fprobe_gdb.dispatch.trampoline.window import TOP_BASE, Window
from fprobe_gdb.dispatch.trampoline.zone import HUGE_BYTES, Zone
from fprobe_gdb.registers import GENERAL_REGISTERS
from fprobe_gdb.target.base import Target, TargetState
from fprobe_gdb.target.guest_ram import GuestRam

__all__ = ["CALLER", "DATA", "FUNCTION", "OTHER", "STACK_TOP", "TASK", "TASK_DEAD", "TEXT", "RecordMachine"]

CODE = 0xFFFFFFFF83C00000
TEXT = 0xFFFFFFFF81300000
FUNCTION, OTHER, TASK_DEAD = TEXT + 0x45000, TEXT + 0x46000, TEXT + 0x47000
CALLER = TEXT + 0x4D000
#: What call mode's pad would be.
CALL_ENTRY = CODE + 0x100
_STACK = 0xFFFFC90000000000
_STACK_BYTES = 1 << 14
STACK_TOP = _STACK + _STACK_BYTES // 2
_PERCPU = 0xFFFF888010000000
TASK = 0xFFFF888011000000
_TASK_AT, _COUNT_AT, _CPU_AT = 0x100, 0x108, 0x118
_PREEMPT_COUNT = 0x80000001
_PERCPU_BYTES = 4096
#: A page that pads can read once the window is open; there is nothing behind it, or in front of it.
DATA = 0xFFFF888020001000
_WINDOW, _RAM_BYTES, _PAGE, _TABLES = TOP_BASE, 0x10000, 0x1000, (0x4000, 0x5000, 0x6000, 0x7000)
_NOP = bytes.fromhex("0f1f440000")
_IDS = {
    name: getattr(x86, f"UC_X86_REG_{name.upper() if name.startswith('r') else 'R' + name.upper()}")
    for name in GENERAL_REGISTERS
}


class RecordMachine:
    """CPUs that take turns, a zone, three functions that return at once, and a task named ``dd`` with pid 93.

    :param cpus: how many; the last one runs.
    """

    def __init__(self, zone_mib: int = 26, cpus: int = 4) -> None:
        self.cpus = range(cpus)
        self.zone = zone = Zone(0, zone_mib << 20, CODE, CODE + HUGE_BYTES, cpus)
        #: As a target has it.
        self.state = TargetState.RUNNING
        self._memory = mmap.mmap(-1, zone.size_bytes)
        self.ram = GuestRam(self._memory)
        self.uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self.uc.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
        self._map()
        self.rings = 0
        self.uc.hook_add(unicorn.UC_HOOK_INSN, self._on_out, aux1=x86.UC_X86_INS_OUT)
        place = PadPlace(zone, PerCpuOffsets(_TASK_AT, _COUNT_AT, None), _CPU_AT, TEXT)
        self.recorder = Recorder(cast(Target, self), self.ram, place, CODE + 0x1000)
        self.recorder.furnish()
        self.recorder.task_dead_ip = TASK_DEAD
        #: Whether call mode wants to be asked at each entry as well.
        self.asked = False
        self.records: list[Record] = []

    def _map(self) -> None:
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        everything, zone, uc = unicorn.UC_PROT_ALL, self.zone, self.uc
        uc.mem_map_ptr(zone.code, HUGE_BYTES, unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC, base)
        uc.mem_map_ptr(zone.data, zone.size_bytes - HUGE_BYTES, everything, base + HUGE_BYTES)
        for addr, size_bytes in (
            (TEXT, 1 << 20), (_STACK, _STACK_BYTES), (_PERCPU, _PERCPU_BYTES * len(self.cpus)), (TASK, 4096)
        ):  # fmt: skip
            uc.mem_map(addr, size_bytes, everything)
        uc.mem_write(TEXT, b"\xc3" * (1 << 20))
        for function in (FUNCTION, OTHER, TASK_DEAD):
            uc.mem_write(function, _NOP)
        for cpu in self.cpus:
            for offset, value in ((_TASK_AT, TASK), (_COUNT_AT, _PREEMPT_COUNT), (_CPU_AT, cpu)):
                uc.mem_write(_PERCPU + cpu * _PERCPU_BYTES + offset, value.to_bytes(8, "little"))
        self.switch(self.cpus[-1])
        uc.mem_write(TASK + 0x10, b"dd".ljust(16, b"\0"))
        uc.mem_write(TASK + 0x40, (93).to_bytes(4, "little"))

    def open_window(self, data: bytes) -> None:
        """Let pads read :data:`DATA`, through page tables.

        :param data: what is there; the rest is zero.
        """
        self.uc.mem_map(_WINDOW, _RAM_BYTES)
        self.uc.mem_write(_WINDOW + _PAGE, data)
        for shift, table, entry in zip((39, 30, 21, 12), _TABLES, (*_TABLES[1:], _PAGE), strict=True):
            self.uc.mem_write(_WINDOW + table + 8 * (DATA >> shift & 511), (entry | 0x63).to_bytes(8, "little"))
        self.uc.reg_write(x86.UC_X86_REG_CR3, _TABLES[0] | 3)
        self.recorder.open_window(Window(_WINDOW, _RAM_BYTES, 0))

    # Section: CPUs

    def switch(self, cpu: int) -> None:
        """Let another CPU run; with the registers of the last one, as if its task had gone there."""
        self.cpu = cpu
        self.uc.reg_write(x86.UC_X86_REG_GS_BASE, self._percpu)

    @property
    def _percpu(self) -> int:
        return _PERCPU + self.cpu * _PERCPU_BYTES

    # Section: what a recorder wants of a target

    def stop(self) -> None:
        """No CPU runs."""
        self.state = TargetState.STOPPED

    def instruction_pointers(self) -> list[int]:
        """Where the CPU is that runs."""
        return [int(self.uc.reg_read(x86.UC_X86_REG_RIP))]

    def read_memory(self, addr: int, size_bytes: int) -> bytes:
        """Read memory."""
        return bytes(self.uc.mem_read(addr, size_bytes))

    def plant(self) -> None:
        """Let all locations call what the recorder wants."""
        for ip in (FUNCTION, OTHER, TASK_DEAD):
            pad = self.recorder.pad_of(ip, CALL_ENTRY if self.asked else None)
            assert (ip in self.recorder.ips) == (pad is not None)
            self.write_memory(ip, b"\xe8" + (pad - ip - 5).to_bytes(4, "little", signed=True) if pad else _NOP)

    def write_memory(self, addr: int, data: bytes, *, vcpu: int = 0) -> None:
        """Write code."""
        self.uc.mem_write(addr, data)
        self.uc.ctl_flush_tb()

    # Section: recording

    def record(
        self,
        *ips: int,
        nr_maxactive: int = 4,
        block: bool = False,
        ordered: bool = False,
        asked: Asked | None = None,
        by_function: bool = True,
        tables: Sequence[TableForm] | None = None,
        **form: Any,
    ) -> RecordProbe:
        """Record functions, or add up their calls; of all of them the same is asked."""

        def consume(batch: Batch) -> None:
            self.records += probe.form.decode(batch.data)

        probe = self.recorder.add(
            ips,
            RecordForm(
                **form,
                decided=asked is not None and asked.at_exit is not None,
                always=asked is not None and asked.at_exit == ALWAYS,
                payload_bytes=asked.payload.size_bytes if asked and asked.payload else 0,
            ),
            consume,
            nr_maxactive=nr_maxactive,
            block=block,
            ordered=ordered,
            asked=dict.fromkeys(ips, asked) if asked else None,
            by_function=by_function,
            tables=tables,
        )
        self.plant()
        return probe

    def remove(self, probe: RecordProbe) -> None:
        """Record its functions no longer."""
        self.recorder.remove(probe)
        self.plant()

    def take(self) -> list[Record]:
        """Records that were written since the last time."""
        while self.recorder.drain():
            pass
        taken, self.records = self.records, []
        return taken

    # Section: state

    @property
    def preempt_count(self) -> int:
        """As the guest has it, of all CPUs; see :data:`_PREEMPT_COUNT`."""
        places = (_PERCPU + cpu * _PERCPU_BYTES + _COUNT_AT for cpu in self.cpus)
        return sum(int.from_bytes(self.uc.mem_read(place, 8), "little") - _PREEMPT_COUNT for place in places)

    def set_preempt_count(self, count: int) -> None:
        """Of the CPU that runs."""
        self.uc.mem_write(self._percpu + _COUNT_AT, count.to_bytes(4, "little"))

    def set_task(self, task: int) -> None:
        """Let another task run."""
        self.uc.mem_write(self._percpu + _TASK_AT, task.to_bytes(8, "little"))

    def word(self, offset: int, value: int | None = None) -> int:
        """A shared word of the zone; or set it."""
        return self._word(self.zone.word(offset), value)

    def ring_word(self, word: RingWord, value: int | None = None) -> int:
        """A word of the ring of the CPU that runs; or set it."""
        return self._word(self.zone.ring_words(self.cpu) + word, value)

    def _word(self, addr: int, value: int | None) -> int:
        place = self.zone.physical_of(addr)
        if value is not None:
            self.ram.write_physical(place, value.to_bytes(8, "little"))
        return int.from_bytes(self.ram.read_physical(place, 8), "little")

    def registers(self) -> dict[str, int]:
        """General registers and ``ip``."""
        return {name: self.uc.reg_read(number) for name, number in _IDS.items()} | {
            "ip": self.uc.reg_read(x86.UC_X86_REG_RIP)
        }

    def enter(self, function: int, sp: int = STACK_TOP, ret_addr: int = CALLER, seed: int = 1) -> dict[str, int]:
        """Random values in all registers, as at the entry of a function that was called."""
        chance = random.Random(seed)
        for name, number in _IDS.items():
            self.uc.reg_write(number, sp if name == "sp" else chance.getrandbits(64))
        self.uc.mem_write(sp, ret_addr.to_bytes(8, "little"))
        self.uc.reg_write(x86.UC_X86_REG_RIP, function)
        return self.registers()

    def stack_word(self, addr: int) -> int:
        """A word of the stack."""
        return int.from_bytes(self.uc.mem_read(addr, 8), "little")

    # Section: running

    def run(self, until: int, count: int = 0) -> bool:
        """Run to an address, or so many instructions. Returns whether it got there."""
        # Unicorn counts only in code that it has translated with counting in mind.
        self.uc.ctl_flush_tb()
        if self.uc.reg_read(x86.UC_X86_REG_RIP) != until:
            self.uc.emu_start(self.uc.reg_read(x86.UC_X86_REG_RIP), until, count=count)
        return bool(self.uc.reg_read(x86.UC_X86_REG_RIP) == until)

    def call(self, function: int, **state: int) -> None:
        """A whole call of a function, back to the caller."""
        self.enter(function, **state)
        assert self.run(CALLER)

    def interrupt(self, function: int, cpu: int | None = None) -> None:
        """A whole call of a function on top of whatever is going on, or meanwhile on another CPU."""
        context, interrupted = self.uc.context_save(), self.cpu
        sp = self.uc.reg_read(x86.UC_X86_REG_RSP)
        if cpu is not None:
            self.switch(cpu)
        self.call(function, sp=(sp - 256) & ~15, seed=7)
        self.uc.context_restore(context)
        self.switch(interrupted)

    def _on_out(self, uc: object, port: int, size: int, value: int, data: object) -> None:
        self.rings += 1
