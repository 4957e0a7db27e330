"""A CPU that evaluates the expressions of pads for a made-up call: Unicorn, which is QEMU's TCG."""

from __future__ import annotations

import unicorn
from unicorn import x86_const as x86

from fprobe_gdb.dispatch.cpu_state import PerCpuOffsets
from fprobe_gdb.dispatch.trampoline.assembler import Asm, Mem, at
from fprobe_gdb.dispatch.trampoline.pad_expr import PadExpr
from fprobe_gdb.dispatch.trampoline.pad_expr_code import ExprCode, Seat
from fprobe_gdb.dispatch.trampoline.peek_code import peek_code
from fprobe_gdb.dispatch.trampoline.window import Window
from fprobe_gdb.dispatch.trampoline.zone import HUGE_BYTES, Zone
from fprobe_gdb.registers import ARGUMENT_REGISTERS, GENERAL_REGISTERS
from tests.unit.expr.made_up_hits import Hit
from tests.unit.kernel.values.made_up_memory import BASE, SIZE, STACK

__all__ = ["COMM", "KHZ", "PID", "TGID", "ExprMachine"]

COMM, PID, TGID = 0x10, 0x40, 0x44
KHZ = 1_000_000
_CODE = 0xFFFFFFFF83C00000
_CODE_BYTES = 1 << 16
_PERCPU = 0xFFFF888010000000
_TASK_AT, _CPU_AT = 0x100, 0x118
# What the pad of a return has in memory: arguments, frame, return address, counter value.
_NODE = 0xFFFF888012000000
_KEPT = 0xFFFFC90000000000
# Physical memory, and in it page tables that map the made-up page and nothing else.
_WINDOW = 0xFFFFFF8000000000
_RAM_BYTES = 0x10000
_PAGE, _ROOT = 0x1000, 0x4000
_PEEKS = _CODE + 0x8000
_FREE = {"ax", "dx", "r10", "r11", "sp"}
_ENTERED_TSC = 123_456
_IDS = {
    name: getattr(x86, f"UC_X86_REG_{name.upper() if name.startswith('r') else 'R' + name.upper()}")
    for name in GENERAL_REGISTERS
}


class ExprMachine:
    """At the entry or the return of a :class:`Hit`.

    :param direct_map: where the kernel has mapped all memory; 0 for nowhere.
    """

    def __init__(self, hit: Hit, *, is_exit: bool, direct_map: int = 0) -> None:
        self._is_exit = is_exit
        self.uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self.uc.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
        self.zone = Zone(0, 3 * HUGE_BYTES, _CODE + (1 << 24), _CODE + (1 << 24) + HUGE_BYTES, 1)
        for addr, size_bytes in (
            (_CODE, _CODE_BYTES), (_PERCPU, 4096), (_NODE, 4096), (_KEPT - 4096, 8192), (BASE, SIZE), (Hit.task, 4096),
            (_WINDOW, _RAM_BYTES),
        ):  # fmt: skip
            self.uc.mem_map(addr, size_bytes)
        self.uc.reg_write(x86.UC_X86_REG_GS_BASE, _PERCPU)
        code, self._peeks = peek_code(_PEEKS, Window(_WINDOW, _RAM_BYTES, 0, direct_map))
        self.uc.mem_write(_PEEKS, code)
        self.uc.reg_write(x86.UC_X86_REG_CR3, _ROOT | 3)
        tables = (_ROOT, 0x5000, 0x6000, 0x7000)
        for shift, table, entry in zip((39, 30, 21, 12), tables, (*tables[1:], _PAGE), strict=True):
            place = _WINDOW + table + 8 * (BASE >> shift & 511)
            self.uc.mem_write(place, (entry | 0x63).to_bytes(8, "little"))
        self.set(hit)

    def set(self, hit: Hit) -> None:
        """Another call."""
        uc = self.uc
        for addr in (BASE, _WINDOW + _PAGE):
            uc.mem_write(addr, bytes(hit.rig.raw.page))
        for addr, value in (
            (_PERCPU + _TASK_AT, hit.task), (_PERCPU + _CPU_AT, hit.cpu),
            (Hit.task + PID, hit.pid & 0xFFFFFFFF | hit.tgid << 32),
            (_NODE + 0x80, STACK), (_NODE + 0x88, hit.caller_ip), (_NODE + 0x90, _ENTERED_TSC),
        ):  # fmt: skip
            uc.mem_write(addr, value.to_bytes(8, "little"))
        # What is behind the end of a task's name was an earlier name's.
        uc.mem_write(Hit.task + COMM, (hit.comm.encode() + b"\0").ljust(16, b"~"))
        self._regs = {name: hit.regs.get(name, 0x1111 * number) for number, name in enumerate(GENERAL_REGISTERS)}
        for number, name in enumerate(ARGUMENT_REGISTERS):
            uc.mem_write(_NODE + 8 * number, self._regs[name].to_bytes(8, "little"))
        self._left_tsc = _ENTERED_TSC + hit.duration_ns

    def value(self, expr: PadExpr) -> int | None:
        """Its value; None where it has none."""
        asm = Asm(_CODE)
        code = ExprCode(asm, self._seat(), "test", "fault")
        code.value(expr)
        asm.label("done")
        asm.jmp("done")
        asm.label("fault")
        asm.jmp("fault")
        self.uc.mem_write(_CODE, asm.finish())
        self.uc.ctl_flush_tb()
        before = self._start()
        self.uc.emu_start(_CODE, asm.address_of("done"), count=100_000)
        after = {name: self.uc.reg_read(number) for name, number in _IDS.items()}
        assert {name: after[name] for name in GENERAL_REGISTERS if name not in _FREE} == {
            name: before[name] for name in GENERAL_REGISTERS if name not in _FREE
        }
        assert after["sp"] == before["sp"]
        if self.uc.reg_read(x86.UC_X86_REG_RIP) == asm.address_of("done"):
            return after["ax"]
        assert self.uc.reg_read(x86.UC_X86_REG_RIP) == asm.address_of("fault")
        return None

    def _start(self) -> dict[str, int]:
        regs = dict(self._regs)
        regs["sp"] = _KEPT
        if self._is_exit:
            regs |= {"r8": regs["ax"], "r9": regs["dx"], "si": _NODE, "di": _NODE, "cx": self._left_tsc}
        else:
            # As the pad has saved them.
            self.uc.mem_write(_KEPT + 0xF00, regs["dx"].to_bytes(8, "little") + regs["ax"].to_bytes(8, "little"))
        for name, number in _IDS.items():
            self.uc.reg_write(number, regs[name])
        return regs

    def _seat(self) -> Seat:
        base = (self.zone, PerCpuOffsets(_TASK_AT, None, None), _CPU_AT)
        ret_addr = Mem(disp=_NODE + 0x88 - _PERCPU, gs=True)
        if self._is_exit:
            return Seat(
                *base,
                entered={name: at("si", 8 * number) for number, name in enumerate(ARGUMENT_REGISTERS)},
                left={"ax": "r8", "dx": "r9", "bp": "bp"},
                frame_in=at("di", 0x80),
                ret_addr=ret_addr,
                entered_tsc=at("di", 0x90),
                left_tsc="cx",
                peeks=self._peeks,
            )
        saved = {"dx": at("sp", 0xF00), "ax": at("sp", 0xF08)}
        registers = {name: name for name in (*ARGUMENT_REGISTERS, "bx", "bp", "r12", "r13", "r14", "r15")}
        frame = Mem(disp=_NODE + 0x80 - _PERCPU, gs=True)
        return Seat(*base, entered=registers | saved, ret_addr=ret_addr, frame_in=frame, peeks=self._peeks)
