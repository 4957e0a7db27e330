"""The guest reads and writes its text: what the filters let pass, and what is done for the guest."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import unicorn
from unicorn import x86_const as x86

from fprobe_gdb.dispatch.trampoline.mapping import IMAGE_BASE
from fprobe_gdb.dispatch.trampoline.shared_words import SharedWords
from fprobe_gdb.dispatch.trampoline.text_filter import TextFilters, cells
from fprobe_gdb.dispatch.trampoline.text_guard import GUARDED, TextGuard, filtered
from fprobe_gdb.dispatch.trampoline.zone import HUGE_BYTES, Zone
from tests.unit.dispatch.test_planter import FENTRY, IP, NOPS, TEXT, TRACER, Text, call

CODE = 0xFFFFFFFF83C00000
STACK = 0xFFFFC90000000000
CALLER = 0xFFFFFFFF81345005
LOCATIONS = {name: TEXT + 0x10000 + 0x100 * number for number, name in enumerate(GUARDED)}
OPCODE, BUFFER = 0x9000, 0xA000
EARLY = 0xFFFFFFFF81346010


class FilterMachine:
    """A CPU in front of a filter."""

    def __init__(self, ips: list[int], phase: int = 0, fentry_addr: int | None = None) -> None:
        self.zone = zone = Zone(0, 2 * HUGE_BYTES, CODE, CODE + HUGE_BYTES, 1)
        self.filters = TextFilters.make(zone, CODE, phase, fentry_addr)
        self.cpu = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self.cpu.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
        for addr, size_bytes in ((CODE, 2 * HUGE_BYTES), (STACK, 0x1000), (CALLER & -0x1000, 0x1000)):
            self.cpu.mem_map(addr, size_bytes)
        self.cpu.mem_write(zone.site_stubs, self.filters.code)
        self.cpu.mem_write(zone.filter, cells(((ip, 20) for ip in ips), phase))
        self.off = zone.word(Zone.FILTER_OFF)

    def asks(self, pad: int, *, returns: bool = False, **registers: int) -> bool:
        """Whether a call with these registers goes to the pad. All else has to be as before.

        :param returns: if it does not, the function returns at once.
        """
        before = {"RAX": 1, "RCX": 2, "RDX": 3, "RSI": 4, "RDI": 5, "RSP": STACK + 0x800, "EFLAGS": 0xAD7}
        before |= {f"R{name.upper()}": value for name, value in registers.items()}
        behind = CALLER + 0x100 if returns else CALLER
        self.cpu.mem_write(STACK + 0x800, CALLER.to_bytes(8, "little") + (CALLER + 0x100).to_bytes(8, "little"))
        for name, value in before.items():
            self.cpu.reg_write(getattr(x86, f"UC_X86_REG_{name}"), value)
        ip = pad
        while ip not in (CODE, behind):
            self.cpu.emu_start(ip, (1 << 64) - 1, count=1)
            ip = self.cpu.reg_read(x86.UC_X86_REG_RIP)
        after = {name: self.cpu.reg_read(getattr(x86, f"UC_X86_REG_{name}")) for name in before}
        if ip == behind:
            before["RSP"] += 16 if returns else 8
        free = {"RAX", "EFLAGS"} if returns and ip == behind else set()
        assert {name for name in before if after[name] != before[name]} <= free
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
    machine = FilterMachine(list(range(IMAGE_BASE, IMAGE_BASE + Zone.FILTER_CELLS * 16, 16)))
    pad = machine.filters.first if register == "di" else machine.filters.second
    for addr in (4, STACK, IMAGE_BASE - 1):
        for size_bytes in (1, 17, 4096):
            assert not machine.asks(pad, **{register: addr, "dx": size_bytes})
    assert machine.asks(pad, **{register: IMAGE_BASE, "dx": 1})
    assert machine.asks(pad, **{register: CALLER, "dx": 1})


def test_functions_that_are_guarded() -> None:
    filters = FilterMachine([], fentry_addr=TEXT).filters
    pads = filtered(filters, LOCATIONS)
    assert pads[LOCATIONS["copy_from_kernel_nofault"]] == filters.reads
    assert pads[LOCATIONS["text_poke_early"]] == filters.pokes
    assert {pads.get(LOCATIONS[name]) for name in GUARDED if "finish" in name} == {None}
    others = [name for name in GUARDED if "poke" in name and "finish" not in name and name != "text_poke_early"]
    assert {pads[LOCATIONS[name]] for name in others} == {filters.first}


@pytest.mark.parametrize("phase", [0, 4])
def test_neighbours_of_a_location_are_no_question(phase: int) -> None:
    """The end of the function in front, and an ENDBR at the beginning of this one."""
    machine = FilterMachine([], phase)
    ip = TEXT + 0x80 + phase
    machine.cpu.mem_write(machine.zone.filter, cells([(ip, 5)], phase))
    for addr, size_bytes, asks in ((ip - 5, 5, False), (ip - 4, 4, False), (ip - 4, 5, True), (ip, 1, True)):
        assert machine.asks(machine.filters.first, di=addr, dx=size_bytes) is asks


class EarlyMachine(FilterMachine):
    """A guest with two functions that call a pad, in front of which it believes to have calls of ``__fentry__``."""

    def __init__(self) -> None:
        super().__init__([EARLY, EARLY + 0x40], fentry_addr=FENTRY)
        self.cpu.mem_map(EARLY & -0x1000, 0x1000)
        self.cpu.mem_map(OPCODE, 0x1000)
        self.cpu.mem_map(BUFFER, 0x1000)
        for ip in (EARLY, EARLY + 0x40):
            self.cpu.mem_write(ip, call(ip, CODE + 0x40))
        self.open(0, 1 << 64)

    def open(self, above: int, below: int) -> None:
        for word, addr in ((Zone.TAKES_ABOVE, above), (Zone.TAKES_BELOW, below - 1)):
            self.cpu.mem_write(self.zone.word(word), addr.to_bytes(8, "little"))

    def returns(self, pad: int, **registers: int) -> int | None:
        """What the guarded function returns without having run, with all else as it was; None if the host is asked."""
        if self.asks(pad, returns=True, **registers):
            return None
        return self.cpu.reg_read(x86.UC_X86_REG_RAX)

    def poke(self, ip: int, code: bytes = NOPS[0], size_bytes: int = 5) -> int | None:
        self.cpu.mem_write(OPCODE, code)
        return self.returns(self.filters.pokes, di=ip, si=OPCODE, dx=size_bytes)

    def read(self, ip: int, size_bytes: int = 5) -> bytes | None:
        if self.returns(self.filters.reads, di=BUFFER, si=ip, dx=size_bytes) is None:
            return None
        return bytes(self.cpu.mem_read(BUFFER, size_bytes))

    @property
    def taken(self) -> list[int]:
        count = int.from_bytes(self.cpu.mem_read(self.zone.word(Zone.TAKEN), 8), "little")
        words = self.cpu.mem_read(self.zone.word(Zone.TAKEN_LIST), 4 * count)
        return [0xFFFFFFFF << 32 | word for word in memoryview(words).cast("I")]


def test_pads_take_the_pokes_of_ftrace_init() -> None:
    machine = EarlyMachine()
    for number, ip in enumerate((EARLY, EARLY + 0x40), 1):
        assert machine.read(ip) == call(ip, FENTRY)
        assert machine.poke(ip) == ip
        assert machine.taken == [EARLY, EARLY + 0x40][:number]
        # It is a NOP now, and neither shown as a call nor taken twice.
        assert machine.read(ip) is None
        assert machine.poke(ip) is None
        assert bytes(machine.cpu.mem_read(ip, 5)) == call(ip, CODE + 0x40)
    assert len(machine.taken) == 2


def test_all_else_is_a_question() -> None:
    machine = EarlyMachine()
    for ip, size_bytes in ((EARLY, 4), (EARLY, 8), (EARLY + 1, 5)):
        assert machine.poke(ip, size_bytes=size_bytes) is None
        assert machine.read(ip, size_bytes) is None
    for code in (NOPS[1], NOPS[0][:4] + b"\x01", call(EARLY, TRACER)):
        assert machine.poke(EARLY, code) is None
    for above, below in ((EARLY, 1 << 64), (0, EARLY + 1), (0, 1)):
        machine.open(above, below)
        assert machine.poke(EARLY) is machine.read(EARLY) is None
    machine.open(0, 1 << 64)
    for code in (NOPS[0], call(EARLY, TRACER), call(EARLY, CODE - 1), call(EARLY, CODE + HUGE_BYTES)):
        machine.cpu.mem_write(EARLY, code)
        assert machine.poke(EARLY) is machine.read(EARLY) is None
    machine.cpu.mem_write(machine.zone.word(Zone.TAKEN), Zone.MAX_TAKEN.to_bytes(4, "little"))
    assert machine.poke(EARLY + 0x40) is None
    machine.cpu.mem_write(machine.off, b"\x01")
    assert machine.read(EARLY + 0x40) is None


def test_what_pads_have_taken_is_known_to_the_host() -> None:
    """At its next look; and what the host does for the guest is behind the bound at once."""
    guest = Guest()
    other = TEXT + 0x80
    for ip in (IP, other):
        guest.text.planter.unplant([ip])
        guest.text.put(ip, call(ip, FENTRY))
    guest.text.planter.plant([IP, other])
    words = SharedWords(guest.text.ram, guest.text.zone)
    guest.guard.planted(set())
    assert words[Zone.TAKES_BELOW] == 0
    guest.early.allowed = True
    guest.guard.planted(set())
    assert (words[Zone.TAKES_ABOVE], words[Zone.TAKES_BELOW]) == (0, other + 1)
    place = guest.text.zone.physical_of(guest.text.zone.word(Zone.TAKEN_LIST))
    guest.text.ram.write_physical(place, (IP & 0xFFFFFFFF).to_bytes(4, "little"))
    words[Zone.TAKEN] = 1
    assert guest.text.planter.as_guest_sees(IP, guest.text.read(IP, 5)) == NOPS[0]
    assert words[Zone.TAKEN] == 0
    guest.guard.planted(set())
    assert words[Zone.TAKES_ABOVE] == IP
    for code, halts in ((NOPS[0], 0), (call(other, TRACER), 1)):
        guest.memory[OPCODE] = code
        guest.guard.planted(set())
        assert guest.call("text_poke_early", other, OPCODE, 5) == other
        assert (words[Zone.TAKES_ABOVE], guest.halts) == (other + 5, halts)
    guest.early.allowed = False
    assert words[Zone.TAKES_BELOW] == 0
    guest.text.planter.unplant_all()
    assert (guest.text.read(IP, 5), guest.text.read(other, 5)) == (NOPS[0], call(other, TRACER))


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
        self.early = self.text.early
        self.guard = TextGuard(self.text.planter, ram, self.text.zone, self.early, LOCATIONS, self._halt)

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
