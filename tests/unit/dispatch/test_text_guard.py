"""The guest reads and writes its text: what the filters let pass, and what is done for the guest."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import unicorn
from unicorn import x86_const as x86

from fprobe_gdb.dispatch.trampoline.mapping import IMAGE_BASE
from fprobe_gdb.dispatch.trampoline.text_filter import TextFilters, cells
from fprobe_gdb.dispatch.trampoline.text_guard import GUARDED, TextGuard, filtered
from fprobe_gdb.dispatch.trampoline.zone import HUGE_BYTES, Zone
from tests.unit.dispatch.test_planter import IP, NOPS, TEXT, TRACER, Text, call

CODE = 0xFFFFFFFF83C00000
STACK = 0xFFFFC90000000000
CALLER = 0xFFFFFFFF81345005
LOCATIONS = {name: TEXT + 0x10000 + 0x100 * number for number, name in enumerate(GUARDED)}
OPCODE, BUFFER = 0x9000, 0xA000


class FilterMachine:
    """A CPU in front of a filter."""

    def __init__(self, ips: list[int]) -> None:
        zone = Zone(0, 2 * HUGE_BYTES, CODE, CODE + HUGE_BYTES, 1)
        self.filters = TextFilters.make(zone, CODE)
        self.cpu = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self.cpu.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
        for addr, size_bytes in ((CODE, 2 * HUGE_BYTES), (STACK, 0x1000), (CALLER & -0x1000, 0x1000)):
            self.cpu.mem_map(addr, size_bytes)
        self.cpu.mem_write(zone.site_stubs, self.filters.code)
        self.cpu.mem_write(zone.word(Zone.FILTER), cells(ips, 20))
        self.off = zone.word(Zone.FILTER_OFF)

    def asks(self, pad: int, **registers: int) -> bool:
        """Whether a call with these registers goes to the pad. All else has to be as before."""
        before = {"RAX": 1, "RCX": 2, "RDX": 3, "RSI": 4, "RDI": 5, "RSP": STACK + 0x800, "EFLAGS": 0xAD7}
        before |= {f"R{name.upper()}": value for name, value in registers.items()}
        self.cpu.mem_write(STACK + 0x800, CALLER.to_bytes(8, "little"))
        for name, value in before.items():
            self.cpu.reg_write(getattr(x86, f"UC_X86_REG_{name}"), value)
        ip = pad
        while ip not in (CODE, CALLER):
            self.cpu.emu_start(ip, (1 << 64) - 1, count=1)
            ip = self.cpu.reg_read(x86.UC_X86_REG_RIP)
        after = {name: self.cpu.reg_read(getattr(x86, f"UC_X86_REG_{name}")) for name in before}
        if ip == CALLER:
            before["RSP"] += 8
        assert after == before
        return bool(ip == CODE)


@pytest.mark.parametrize("register", ["di", "si"])
def test_filters(register: str) -> None:
    machine = FilterMachine([IP])
    pad = machine.filters.first if register == "di" else machine.filters.second
    for addr in range(IP - 0x40, IP + 0x40):
        for size_bytes in (1, 5, 16):
            near = addr < IP + 20 and addr + size_bytes > IP
            asks = machine.asks(pad, **{register: addr, "dx": size_bytes})
            assert asks or not near
            assert not asks or abs(addr - IP) < 0x30
    for size_bytes in (17, 1 << 63):
        assert machine.asks(pad, **{register: IMAGE_BASE, "dx": size_bytes})
    assert not machine.asks(pad, **{register: IMAGE_BASE, "dx": 1})
    machine.cpu.mem_write(machine.off, b"\x01")
    assert machine.asks(pad, dx=1)


@pytest.mark.parametrize("register", ["di", "si"])
def test_what_is_no_text_passes_a_full_table(register: str) -> None:
    machine = FilterMachine(list(range(IMAGE_BASE, IMAGE_BASE + Zone.FILTER_BYTES * 16, 16)))
    pad = machine.filters.first if register == "di" else machine.filters.second
    for addr in (4, STACK, IMAGE_BASE - 1):
        for size_bytes in (1, 17, 4096):
            assert not machine.asks(pad, **{register: addr, "dx": size_bytes})
    assert machine.asks(pad, **{register: IMAGE_BASE, "dx": 1})
    assert machine.asks(pad, **{register: CALLER, "dx": 1})


def test_functions_that_are_guarded() -> None:
    filters = FilterMachine([]).filters
    pads = filtered(filters, LOCATIONS)
    assert pads[LOCATIONS["copy_from_kernel_nofault"]] == filters.second
    assert {pads.get(LOCATIONS[name]) for name in GUARDED if "finish" in name} == {None}
    assert {pads[LOCATIONS[name]] for name in GUARDED if "poke" in name and "finish" not in name} == {filters.first}


class Guest:
    """A guest with one planted location that calls the guarded functions."""

    def __init__(self) -> None:
        self.text = Text()
        self.text.put(IP, NOPS[0])
        self.text.planter.plant([IP])
        self.memory: dict[int, bytes] = {}
        self.halts = 0
        ram: Any = SimpleNamespace(
            read=self._read,
            write=lambda cr3, addr, data: self.memory.__setitem__(addr, data),
            offset=self.text.ram.offset,
            view=self.text.ram.view,
        )
        self.guard = TextGuard(self.text.planter, ram, self.text.zone, LOCATIONS, self._halt)

    def call(self, name: str, *args: int) -> int | None:
        posted: Any = SimpleNamespace(cr3=0)
        return self.guard.entered(LOCATIONS[name], posted, dict(zip(("di", "si", "dx"), args, strict=False)))

    def _read(self, cr3: int, addr: int, size_bytes: int) -> bytes:
        return self.memory[addr][:size_bytes] if addr in self.memory else self.text.read(addr, size_bytes)

    def _halt(self) -> None:
        self.halts += 1


def test_it_reads_its_own_bytes() -> None:
    guest = Guest()
    assert guest.call("copy_from_kernel_nofault", BUFFER, IP, 5) == 0
    assert guest.memory[BUFFER] == NOPS[0]
    assert guest.call("copy_from_kernel_nofault", BUFFER, IP + 3, 15) == 0
    assert guest.memory[BUFFER] == NOPS[0][3:] + b"\xcc" * 13
    # What holds nothing of ours, and what cannot be read, the function does itself.
    assert guest.call("copy_from_kernel_nofault", BUFFER, IP + 5, 15) is None
    assert guest.call("copy_from_kernel_nofault", BUFFER, IP, 0x4000) is None


def test_it_writes_around_us() -> None:
    guest = Guest()
    guest.memory[OPCODE] = call(IP, TRACER)
    assert guest.call("text_poke_bp", IP, OPCODE, 5) == IP
    assert guest.text.planter.own(IP) == call(IP, TRACER)
    assert guest.halts == 1
    guest.memory[OPCODE] = NOPS[1]
    assert guest.call("text_poke", IP, OPCODE, 5) == IP
    # One NOP or the other makes no difference to what is planted.
    guest.memory[OPCODE] = NOPS[0]
    assert guest.call("text_poke_early", IP, OPCODE, 5) == IP
    assert guest.halts == 2
    assert guest.call("text_poke", IP + 0x40, OPCODE, 5) is None


def test_it_queues_and_finishes() -> None:
    guest = Guest()
    guest.memory[OPCODE] = call(IP, TRACER)
    assert guest.call("text_poke_finish") is None
    assert guest.call("text_poke_queue", IP, OPCODE, 5) == 0
    assert guest.text.planter.own(IP) == NOPS[0]
    assert guest.halts == 0
    assert guest.call("text_poke_finish") is None
    assert guest.text.planter.own(IP) == call(IP, TRACER)
    assert guest.halts == 1
    # What is queued when we leave is written.
    guest.memory[OPCODE] = NOPS[0]
    guest.call("text_poke_queue", IP, OPCODE, 5)
    guest.guard.flush()
    guest.text.planter.unplant_all()
    assert guest.text.read(IP, 5) == NOPS[0]


def test_a_probed_function_is_asked_about_whatever_it_touches() -> None:
    guest = Guest()
    off = guest.text.zone.physical_of(guest.text.zone.word(Zone.FILTER_OFF))
    guest.guard.planted({IP, LOCATIONS["text_poke"]})
    assert guest.text.ram.view[off] == 1
    guest.guard.planted({IP})
    assert guest.text.ram.view[off] == 0
