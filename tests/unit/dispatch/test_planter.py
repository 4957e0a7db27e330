"""Planting: what is written where, what is refused and why, and that the guest gets its own bytes back."""

from __future__ import annotations

import mmap
from typing import Any, cast

import pytest

from fprobe_gdb.dispatch.trampoline.early_pokes import EarlyPokes
from fprobe_gdb.dispatch.trampoline.plans import Planner, Way
from fprobe_gdb.dispatch.trampoline.planter import Planter
from fprobe_gdb.dispatch.trampoline.site_stubs import SiteStubs
from fprobe_gdb.dispatch.trampoline.zone import HUGE_BYTES, Zone
from fprobe_gdb.errors import (
    MemoryFault,
    PlantRefused,
    SiteEntryCode,
    SiteNoCode,
    SiteNoRoom,
    SiteOutOfReach,
    SiteUnmapped,
)
from fprobe_gdb.kernel.patched_text import PatchedText
from fprobe_gdb.kernel.symbols import Symbol, SymbolTable
from fprobe_gdb.target.base import BreakpointKind
from fprobe_gdb.target.guest_ram import GuestRam

TEXT = 0xFFFFFFFF81000000
ENTRY_TEXT = TEXT + 0x800
PAD = 0xFFFFFFFF83C00000
FENTRY = TEXT + 0x9000
TRACER = 0xFFFFFFFFA0001000
IP = TEXT + 0x40
NOPS = [bytes.fromhex(nop) for nop in ("0f1f440000", "6666666690", "3e8d742600")]
#: push r15; push r14; push r13: two instructions begin inside.
PUSHES = bytes.fromhex("415741564155")
RET = b"\xc3"


def branch(opcode: int, ip: int, to: int) -> bytes:
    return bytes([opcode]) + (to - ip - 5).to_bytes(4, "little", signed=True)


def call(ip: int, to: int) -> bytes:
    return branch(0xE8, ip, to)


class Text:
    """A page of kernel text with a function each 64 bytes, and a debugger."""

    def __init__(self, *, pad: int = PAD, room_bytes: int | None = None) -> None:
        self.bytes = bytearray(b"\xcc" * 0x1000)
        self.breakpoints: set[int] = set()
        self.ips = [0, 0]
        self.words: set[int] = set()
        functions = [Symbol(f"f{at:x}", TEXT + at, "t") for at in range(0, 0x1000, 0x40)]
        names = (("__entry_text_start", 0), ("__entry_text_end", 0x40))
        entry = [Symbol(name, ENTRY_TEXT + at, "T") for name, at in names]
        bounds = [Symbol("_stext", TEXT, "T"), Symbol("__fentry__", FENTRY, "T"), Symbol("_end", PAD, "B")]
        zone = Zone(0, 2 * HUGE_BYTES, PAD & -HUGE_BYTES, (PAD & -HUGE_BYTES) + HUGE_BYTES, 1)
        self.zone, self.ram = zone, GuestRam(mmap.mmap(-1, zone.size_bytes))
        start = zone.site_stubs if room_bytes is None else zone.site_stubs_end - room_bytes
        self.planner = Planner(self.read, pad, SymbolTable([*functions, *entry, *bounds]))
        self.stubs = SiteStubs(self.ram, zone, lambda ip: pad, start)
        self.early = EarlyPokes(self.ram, zone)
        debugger = cast(Any, self)
        self.planter = Planter(
            debugger, self.planner, self.stubs, lambda ip: pad, self.words.intersection, taken=self.early.take
        )

    def read(self, addr: int, size_bytes: int) -> bytes:
        if not TEXT <= addr <= TEXT + len(self.bytes) - size_bytes:
            raise MemoryFault(addr, size_bytes)
        return bytes(self.bytes[addr - TEXT : addr - TEXT + size_bytes])

    def put(self, ip: int, code: bytes) -> None:
        self.bytes[ip - TEXT : ip - TEXT + len(code)] = code

    def write_many(self, requests: list[tuple[int, bytes]]) -> None:
        for ip, code in requests:
            self.put(ip, code)

    def insert_breakpoint(self, addr: int, kind: BreakpointKind) -> None:
        assert addr not in self.breakpoints
        self.breakpoints.add(addr)

    def remove_breakpoint(self, addr: int, kind: BreakpointKind) -> None:
        self.breakpoints.remove(addr)

    def instruction_pointers(self) -> list[int]:
        return self.ips

    def stub(self) -> int:
        """Where the jump at :data:`IP` leads to."""
        return self.leads_to(IP)

    def leads_to(self, ip: int) -> int:
        """Where a jump leads to."""
        code = self.read(ip, 5)
        assert code[0] == 0xE9
        return ip + 5 + int.from_bytes(code[1:], "little", signed=True)

    def stub_code(self, stub: int, size_bytes: int) -> bytes:
        return self.ram.read_physical(self.zone.physical_of(stub), size_bytes)


@pytest.mark.parametrize("own", [*NOPS, call(IP, FENTRY)], ids=["p6", "k8", "generic", "call"])
def test_plant_and_back(own: bytes) -> None:
    text = Text()
    text.put(IP, own)
    before = bytes(text.bytes)
    text.planter.plant([IP])
    assert text.read(IP, 5) == call(IP, PAD)
    assert IP in text.planter
    assert len(text.planter) == 1
    text.planter.plant([IP])
    text.planter.unplant([IP, TEXT + 0x80])
    assert bytes(text.bytes) == before
    assert not text.planter.ips


def test_all_at_once() -> None:
    text = Text()
    ips = range(TEXT, ENTRY_TEXT, 0x40)
    for ip in ips:
        text.put(ip, NOPS[0])
    before = bytes(text.bytes)
    text.planter.plant(ips)
    assert all(text.read(ip, 5) == call(ip, PAD) for ip in ips)
    text.planter.unplant_all()
    assert bytes(text.bytes) == before


def test_many_are_planned_as_each_one_is() -> None:
    """NOPs, a call of __fentry__, a tracer's, instructions that are moved, and those that cannot be."""
    text = Text()
    codes = [NOPS[0], call(TEXT + 0x40, FENTRY), PUSHES + RET, b"\xcc", NOPS[2], call(TEXT + 0x140, TRACER)]
    ips = [TEXT + 0x40 * number for number in range(len(codes))]
    for ip, code in zip(ips, codes, strict=True):
        text.put(ip, code)
    plans = text.planner.plan_all(reversed(ips))
    assert plans == [text.planner.plan(ip) for ip in ips]
    assert {plan.way for plan in plans} == set(Way)
    with pytest.raises(SiteEntryCode):
        text.planner.plan_all([*ips, ENTRY_TEXT])
    with pytest.raises(SiteUnmapped):
        text.planner.plan_all([*ips, TEXT + 0x1000])
    assert text.planner.plan_all([]) == []


def test_what_the_kernel_patches_gets_a_breakpoint() -> None:
    """Also where it only begins in the last byte that would be replaced, and whatever KASLR has added."""
    text = Text()
    slide = 0x1000000
    patched = PatchedText(cast(Any, None), cast(Any, None))
    vars(patched)["_addrs"] = [(IP - slide + at, "is a static branch") for at in (4, 0x40, 0x85)]
    planner = Planner(text.read, PAD, SymbolTable([Symbol("__fentry__", FENTRY, "T")]), patched, slide)
    ips = [IP, IP + 0x40, IP + 0x80]
    for ip in ips:
        text.put(ip, NOPS[0])
    plans = planner.plan_all(ips)
    assert [plan.way for plan in plans] == [Way.BREAKPOINT, Way.BREAKPOINT, Way.CALL]
    assert plans == [planner.plan(ip) for ip in ips]


def test_a_call_of_the_guests_tracer_is_shared() -> None:
    """The stub calls our pad, and then the tracer's trampoline as if from the location."""
    text = Text()
    text.put(IP, call(IP, TRACER))
    text.planter.plant([IP])
    stub = text.stub()
    pushed = b"\x68" + (IP + 5 - (1 << 64)).to_bytes(4, "little", signed=True)
    assert text.stub_code(stub, 15) == call(stub, PAD) + pushed + branch(0xE9, stub + 10, TRACER)
    assert text.stubs.ip_of(stub) == IP
    text.planter.unplant_all()
    assert text.read(IP, 5) == call(IP, TRACER)


def test_first_instructions_are_moved() -> None:
    text = Text()
    text.put(IP, PUSHES + RET)
    before = bytes(text.bytes)
    text.planter.plant([IP])
    stub = text.stub()
    assert text.stub_code(stub, 16) == call(stub, PAD) + PUSHES + branch(0xE9, stub + 11, IP + 6)
    assert text.planter.as_guest_sees(IP - 2, text.read(IP - 2, 12)) == before[IP - 2 - TEXT :][:12]
    text.planter.unplant_all()
    assert bytes(text.bytes) == before


@pytest.mark.parametrize("where", ["a vCPU", "an interrupted task"])
def test_nobody_must_stand_inside_what_is_moved(where: str) -> None:
    text = Text()
    text.put(IP, PUSHES + RET)
    before = bytes(text.bytes)
    if where == "a vCPU":
        text.ips[1] = IP + 2
    else:
        text.words.add(IP + 4)
    text.planter.plant([IP])
    assert bytes(text.bytes) == before
    assert "inside its first instructions" in text.planter.slow[IP]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (RET, "1 bytes long"),
        (bytes.fromhex("ffd0") + RET * 8, "indirect call"),
        (b"\xcc" * 6, "kprobe"),
        # push rbp; nop; jmp to the nop, farther down
        (bytes.fromhex("55900f1f00") + bytes.fromhex("ebfa"), "leads to its second"),
        (bytes.fromhex("55900f1f00") + bytes.fromhex("ffe0"), "indirect jump"),
        (bytes.fromhex("e3fe") + RET * 8, "does not reach"),
    ],
)
def test_what_cannot_be_moved_gets_a_breakpoint(code: bytes, why: str) -> None:
    """A vCPU that stops there goes through a stub, and is stepped over the instruction afterwards."""
    text = Text()
    text.put(IP, code)
    if code == RET:
        # Another function begins right behind it.
        text.put(IP + 1, NOPS[0])
    before = bytes(text.bytes)
    text.planter.plant([IP])
    assert bytes(text.bytes) == before
    assert why in text.planter.slow[IP]
    where = text.planter.pass_on(IP)
    assert where is not None
    stub, steps = where
    assert (steps, text.stubs.ip_of(stub)) == (False, IP)
    assert text.breakpoints == {IP, stub + 5}
    assert text.planter.pass_on(stub + 5) == (IP, True)
    assert text.stub_code(stub, 10) == call(stub, PAD) + branch(0xE9, stub + 5, IP)
    text.planter.unplant([IP])
    # A vCPU may still be in the pad.
    assert text.planter.pass_on(stub + 5) == (IP, False)
    text.planter.unplant_all()
    assert not text.breakpoints


def test_on_the_way_through_a_stub_while_the_guest_patches() -> None:
    """Who was counted at the breakpoint is not counted again at what has been planted meanwhile."""
    text = Text()
    text.put(IP, b"\xcc" + NOPS[0][1:])
    text.planter.plant([IP])
    stub, _ = text.planter.pass_on(IP) or (0, False)
    text.planter.rewrite([(IP, NOPS[0])])
    assert text.planter.pass_on(stub + 5) == (IP + 5, False)
    text.planter.rewrite([(IP, call(IP, TRACER))])
    assert text.planter.pass_on(stub + 5) == (text.stub() + 5, False)
    assert text.planter.pass_on(IP) is None


@pytest.mark.parametrize(
    ("ip", "error", "says"),
    [(ENTRY_TEXT, SiteEntryCode, "entry code"), (TEXT + 0x1000, SiteUnmapped, "__init")],
)
def test_refusals_change_nothing(ip: int, error: type[PlantRefused], says: str) -> None:
    text = Text()
    text.put(TEXT, NOPS[0])
    before = bytes(text.bytes)
    with pytest.raises(error, match=says) as caught:
        text.planter.plant([TEXT, ip])
    assert caught.value.ip == ip
    assert bytes(text.bytes) == before
    assert not len(text.planter)


def test_out_of_reach() -> None:
    text = Text(pad=PAD + (3 << 30))
    text.put(TEXT, NOPS[0])
    with pytest.raises(SiteOutOfReach):
        text.planter.plant([TEXT])


def test_no_room() -> None:
    text = Text(room_bytes=32)
    for ip in range(TEXT, TEXT + 0xC0, 0x40):
        text.put(ip, call(ip, TRACER))
    before = bytes(text.bytes)
    with pytest.raises(SiteNoRoom):
        text.planter.plant(range(TEXT, TEXT + 0xC0, 0x40))
    assert bytes(text.bytes) == before
    # Two fit, and go into the same stubs each time.
    for _ in range(3):
        text.planter.plant([TEXT, TEXT + 0x40])
        text.planter.unplant_all()
    assert bytes(text.bytes) == before


def test_what_does_not_fit_is_refused_before_it_is_planted() -> None:
    text = Text(room_bytes=32)
    for ip in range(TEXT, TEXT + 0xC0, 0x40):
        text.put(ip, call(ip, TRACER))
    text.planter.check([TEXT, TEXT + 0x40])
    with pytest.raises(SiteNoRoom):
        text.planter.check(range(TEXT, TEXT + 0xC0, 0x40))
    # Breakpoints have stubs as well; those that are there already take no more room.
    text.planter.plant([TEXT])
    text.planter.unplant_all()
    text.put(TEXT + 0x40, b"\xcc")
    text.planter.check([TEXT, TEXT + 0x40])
    text.put(TEXT + 0x80, b"\xcc")
    with pytest.raises(SiteNoRoom) as caught:
        text.planter.check([TEXT, TEXT + 0x40, TEXT + 0x80])
    assert caught.value.ip == TEXT + 0x80


def test_other_pads_or_none_are_refused() -> None:
    """Locations whose pad changes are as they were when one of them cannot be planted; what nobody wants is gone."""
    text = Text()
    pads = dict.fromkeys(range(TEXT, TEXT + 0x200, 0x40), PAD)
    full: set[int] = set()

    def pad_of(ip: int) -> int:
        if ip in full:
            raise SiteNoCode(ip)
        return pads[ip]

    stubs = SiteStubs(text.ram, text.zone, pad_of, text.zone.site_stubs)
    planter = Planter(text, text.planner, stubs, pad_of, text.words.intersection)  # type: ignore[arg-type]
    free, moved, stopped, gone, new = list(pads)[:5]
    codes = {free: NOPS[0], moved: PUSHES + RET, stopped: b"\xcc", gone: NOPS[1], new: NOPS[2]}
    for ip, code in codes.items():
        text.put(ip, code)
    before = bytes(text.bytes)
    planter.plant([free, moved, stopped, gone])
    planted = bytes(text.bytes)
    pads |= dict.fromkeys(pads, PAD + 0x40)
    full.add(new)
    with pytest.raises(SiteNoCode):
        planter.change(codes.keys() - {new}, codes.keys() - {gone})
    assert set(planter.ips) == {free, moved, stopped}
    assert text.read(gone, 5) == NOPS[1]
    text.put(gone, planted[gone - TEXT :][:5])
    assert bytes(text.bytes) == planted
    text.put(gone, NOPS[1])
    full.clear()
    planter.change([free, moved, stopped], [free, moved, stopped, new])
    assert text.read(free, 5) == call(free, PAD + 0x40)
    assert text.stub_code(text.leads_to(moved), 5) == call(text.leads_to(moved), PAD + 0x40)
    stub, _ = planter.pass_on(stopped) or (0, False)
    assert text.stub_code(stub, 5) == call(stub, PAD + 0x40)
    planter.unplant_all()
    assert bytes(text.bytes) == before
    assert not text.breakpoints


def test_the_guest_patches_around_us() -> None:
    """What it writes is what it reads, and what it gets back in the end."""
    text = Text()
    text.put(IP, NOPS[0])
    text.planter.plant([IP])
    assert text.planter.changes(IP, call(IP, TRACER))
    assert not text.planter.changes(IP, NOPS[1])
    text.planter.note(IP, NOPS[1])
    assert text.planter.own(IP) == NOPS[1]
    # As text_poke_bp_batch() does: an INT3, the rest, and at last the first byte.
    for poke, way in (
        ((IP, b"\xcc"), Way.BREAKPOINT),
        ((IP + 1, call(IP, TRACER)[1:]), Way.BREAKPOINT),
        ((IP, b"\xe8"), Way.JUMP),
    ):
        text.planter.rewrite([poke])
        assert (IP in text.planter.slow) == (way is Way.BREAKPOINT)
        guest = text.planter.as_guest_sees(IP, text.read(IP, 5))
        assert guest[poke[0] - IP :][: len(poke[1])] == poke[1]
    assert text.planter.own(IP) == call(IP, TRACER)
    text.planter.rewrite([(IP, NOPS[0]), (TEXT + 0x80, NOPS[2])])
    assert text.read(IP, 5) == call(IP, PAD)
    assert text.read(TEXT + 0x80, 5) == NOPS[2]
    text.planter.unplant_all()
    assert text.read(IP, 5) == NOPS[0]


def test_what_is_freed() -> None:
    text = Text()
    for ip in (IP, TEXT + 0x80):
        text.put(ip, NOPS[0])
    text.planter.plant([IP, TEXT + 0x80])
    assert text.planter.drop(TEXT, TEXT + 0x80) == [IP]
    assert text.read(IP, 5) == NOPS[0]
    assert list(text.planter.ips) == [TEXT + 0x80]
