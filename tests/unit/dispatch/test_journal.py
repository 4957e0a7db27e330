"""What is written in a zone for whoever finds it, and taking the zone out by that alone."""

from __future__ import annotations

import mmap

import pytest

from fprobe_gdb.dispatch.trampoline.journal import (
    HEAD_BYTES,
    OwnBytes,
    ZoneHead,
    entries_in,
    entries_place,
    max_entries,
)
from fprobe_gdb.dispatch.trampoline.loan_mark import LoanMark, find_marks
from fprobe_gdb.dispatch.trampoline.node_pools import NodePools
from fprobe_gdb.dispatch.trampoline.orphans import hand_back, held_by_tracers, owns_text
from fprobe_gdb.dispatch.trampoline.pads import Field, NodeField, State
from fprobe_gdb.dispatch.trampoline.record_format import NodeWord
from fprobe_gdb.dispatch.trampoline.returns import Returns
from fprobe_gdb.dispatch.trampoline.zone import HUGE_BYTES, PIECE_BYTES, SLOT_BYTES, Zone
from fprobe_gdb.errors import MemoryFault, SiteNoJournal
from fprobe_gdb.target.guest_ram import GuestRam
from fprobe_gdb.target.page_table import FOUR_GIB

CODE = 0xFFFFFFFF83C00000
HANDLE = 0xFFFF888002800000
HEAD = ZoneHead(0, PIECE_BYTES, CODE, 0, ((0, HANDLE),))
NOP = bytes.fromhex("0f1f440000")
STACK = 0xFFFFC90000010000
CALLER = 0xFFFFFFFF81234567


class Guest:
    """A zone, and a page of a stack."""

    def __init__(self) -> None:
        self.zone = HEAD.zone
        self.ram = GuestRam(mmap.mmap(-1, self.zone.size_bytes))
        self.stack = bytearray(4096)

    def read(self, addr: int, size_bytes: int) -> bytes:
        if STACK <= addr < STACK + len(self.stack):
            return bytes(self.stack[addr - STACK : addr - STACK + size_bytes])
        if addr < CODE:
            raise MemoryFault(addr, size_bytes)
        return self.ram.read_physical(self.zone.physical_of(addr), size_bytes)

    def write(self, addr: int, data: bytes) -> None:
        if addr < CODE:
            self.stack[addr - STACK : addr - STACK + len(data)] = data
        else:
            self.ram.write_physical(self.zone.physical_of(addr), data)

    def word(self, addr: int) -> int:
        return int.from_bytes(self.read(addr, 8), "little")

    @property
    def entries(self) -> dict[int, bytes]:
        return entries_in(self.read(*entries_place(self.zone)))


@pytest.fixture
def guest() -> Guest:
    return Guest()


def test_a_head_says_where_its_zone_is() -> None:
    assert unpacked(HEAD) == HEAD
    assert HEAD.known
    assert HEAD.zone == Zone(0, PIECE_BYTES, CODE, CODE + HUGE_BYTES, 0)
    assert ZoneHead.of(HEAD.zone, [HANDLE]) == HEAD


def test_a_head_says_of_what_pieces_its_zone_is() -> None:
    physicals, handles = (0x2800000, 0x1400000, 0x6000000), (7, 8, 9)
    zone = Zone(physicals[0], 3 * PIECE_BYTES, CODE, CODE + HUGE_BYTES, 0, HUGE_BYTES, physicals)
    head = ZoneHead.of(zone, handles)
    assert head.pieces == tuple(zip(physicals, handles, strict=True))
    assert unpacked(head) == head
    assert head.zone == zone


def unpacked(head: ZoneHead) -> ZoneHead | None:
    return ZoneHead.unpack(head.pack().ljust(HEAD_BYTES, b"\0"))


def test_another_version_is_known_as_such() -> None:
    found = unpacked(ZoneHead(0, PIECE_BYTES, CODE, 1 << 40, ((1, 2),), version=2))
    assert found == ZoneHead(0, PIECE_BYTES, CODE, 0, (), version=2)
    assert not found.known


@pytest.mark.parametrize("data", [bytes(HEAD_BYTES), b"\xcc" * HEAD_BYTES], ids=["blank", "code"])
def test_other_memory_is_no_head(data: bytes) -> None:
    assert ZoneHead.unpack(data) is None


def test_own_bytes_are_there_until_they_are_dropped(guest: Guest) -> None:
    owns = OwnBytes(guest.ram, guest.zone)
    owns.keep({0x1000: NOP, 0x2000: b"\x55\x53\xcc"})
    assert guest.entries == {0x1000: NOP, 0x2000: b"\x55\x53\xcc"}
    owns.keep({0x1000: b"\x90" * 5})
    assert guest.entries == {0x1000: b"\x90" * 5, 0x2000: b"\x55\x53\xcc"}
    owns.drop([0x1000])
    owns.keep({0x3000: NOP, 0x4000: NOP})
    assert guest.entries == {0x2000: b"\x55\x53\xcc", 0x3000: NOP, 0x4000: NOP}
    assert 0x1000 not in owns


def test_too_many_are_refused_before_any_is_kept(guest: Guest) -> None:
    owns = OwnBytes(guest.ram, guest.zone)
    many = {0x1000 + 16 * index: NOP for index in range(max_entries(guest.zone))}
    owns.keep(many)
    with pytest.raises(SiteNoJournal, match=f"room for what {len(many)} locations are"):
        owns.keep({1: NOP})
    assert guest.entries == many


def test_room_is_looked_for_before_anything_is_planted(guest: Guest) -> None:
    """For what is registered and not planted yet, too; some is left for functions that we listen to for ourselves."""
    owns = OwnBytes(guest.ram, guest.zone)
    owns.keep({0x10: NOP})
    limit = max_entries(guest.zone) - 64
    ips = range(0x1000, 0x1000 + limit - 11)
    owns.check_room(ips, range(10))
    owns.check_room([*ips, 0x10], range(10))
    owns.check_room([], range(limit + 1))
    with pytest.raises(SiteNoJournal) as caught:
        owns.check_room(ips, range(11))
    assert (caught.value.ip, caught.value.limit) == (0x1000, limit)


def test_text_that_leads_into_a_zone(guest: Guest) -> None:
    ip = CALLER

    def branch(opcode: int, to: int) -> bytes:
        return bytes([opcode]) + (to - ip - 5).to_bytes(4, "little", signed=True)

    assert owns_text(guest.zone, ip, branch(0xE8, CODE))
    assert owns_text(guest.zone, ip, branch(0xE9, CODE + HUGE_BYTES - 1))
    for other in (NOP, branch(0xE8, CODE - 1), branch(0xE8, CODE + HUGE_BYTES), branch(0x0F, CODE), b"\xe8"):
        assert not owns_text(guest.zone, ip, other)


def test_calls_in_flight_return_to_their_callers(guest: Guest) -> None:
    returns = Returns(guest.ram, guest.zone)
    frame, gone, reused = STACK + 0x100, 0xFFFFC90000000000, STACK + 0x200
    for at in (frame, gone, reused):
        stub = returns.hook(CALLER, CALLER, at, 1)
        if at == frame:
            guest.write(frame, stub.to_bytes(8, "little"))
    guest.write(reused, (5).to_bytes(8, "little"))
    hand_back(guest.zone, guest.read, guest.write)
    assert (guest.word(frame), guest.word(reused)) == (CALLER, 5)
    assert guest.word(guest.zone.word(Zone.HOST_AWAY)) == 1


def test_a_return_that_a_tracer_of_the_guest_has_replaced(guest: Guest) -> None:
    hook = CALLER + 0x1000
    returns = Returns(guest.ram, guest.zone)
    guest.write(STACK, hook.to_bytes(8, "little"))
    assert not held_by_tracers(guest.zone, guest.read, {hook})
    returns.hook(CALLER, CALLER, STACK, 1)
    assert held_by_tracers(guest.zone, guest.read, {hook})
    hand_back(guest.zone, guest.read, guest.write)
    assert guest.word(STACK) == hook
    returns.free(next(iter(returns.all())))
    assert not held_by_tracers(guest.zone, guest.read, {hook})


def test_a_call_that_has_returned_has_no_frame(guest: Guest) -> None:
    returns = Returns(guest.ram, guest.zone)
    stub = returns.hook(CALLER, CALLER, STACK, 1)
    returns.free(next(iter(returns.all())))
    guest.write(STACK, stub.to_bytes(8, "little"))
    hand_back(guest.zone, guest.read, guest.write)
    assert guest.word(STACK) == stub
    assert NodeField.FRAME % 8 == 0


def test_recorded_calls_in_flight_return_to_their_callers(guest: Guest) -> None:
    """Whatever else has had the return slot before: the host, or the function that has jumped to this one."""
    pools = NodePools(guest.ram, guest.zone)
    pools.furnish()
    home, outer, inner, alone = pools.give(1, 4)
    returns = Returns(guest.ram, guest.zone)
    handled = returns.hook(CALLER, CALLER, STACK, 1)
    for node, ret_addr, frame in (
        (outer, handled, STACK),
        (inner, guest.zone.stub(outer), STACK),
        (alone, 5, STACK + 8),
    ):
        for word, value in ((NodeWord.RET_ADDR, ret_addr), (NodeWord.FRAME, frame), (NodeWord.TASK, 1)):
            guest.write(guest.zone.node(node) + word, value.to_bytes(8, "little"))
        guest.write(frame, guest.zone.stub(node).to_bytes(8, "little"))
    # A node that is home has had a call here, and what it left is nobody's.
    guest.write(guest.zone.node(home) + NodeWord.FRAME, (STACK + 16).to_bytes(8, "little"))
    guest.write(STACK + 16, guest.zone.stub(home).to_bytes(8, "little"))
    hand_back(guest.zone, guest.read, guest.write)
    assert [guest.word(STACK + at) for at in (0, 8, 16)] == [CALLER, 5, guest.zone.stub(home)]


def test_marks_of_this_boot_are_found(guest: Guest) -> None:
    """At the place that they speak of, in memory on both sides of the hole below 4 GiB."""
    ram = GuestRam(mmap.mmap(-1, 4 * PIECE_BYTES), low_bytes=2 * PIECE_BYTES)
    high = FOUR_GIB + PIECE_BYTES
    for mark, at in (
        (LoanMark(7, PIECE_BYTES, 1), PIECE_BYTES),
        (LoanMark(7, high, 2), high),
        (LoanMark(6, 0, 3), 0),
        (LoanMark(7, PIECE_BYTES, 4), FOUR_GIB),
    ):
        ram.write_physical(at, mark.pack())
    assert [mark.handle for mark in find_marks(ram, 7)] == [1, 2]


def test_pads_that_wait_are_let_go_on(guest: Guest) -> None:
    """Those that wait, and those that look whether there is an answer; what their host wanted is of no use any more."""
    use, states = 7, bytes([State.FREE, State.OWNED, State.POSTED, State.LEAVING])
    guest.write(guest.zone.word(Zone.STATES), states)
    slots = [guest.zone.slots + slot * SLOT_BYTES for slot in range(len(states))]
    for slot in slots:
        guest.write(slot + Field.USE, use.to_bytes(8, "little"))
        guest.write(slot + Field.CHANGED, use.to_bytes(8, "little"))
    hand_back(guest.zone, guest.read, guest.write)
    assert guest.read(guest.zone.word(Zone.STATES), len(states)) == states
    assert [guest.word(slot + Field.ANSWERED) for slot in slots] == [0, 0, use, use]
    assert [guest.word(slot + Field.CHANGED) for slot in slots] == [use, use, 0, 0]
