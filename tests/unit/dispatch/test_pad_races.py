"""Host and pad against each other: each stands still between any two of its steps while the other one goes on.

The host is Python: it stands still in front of each of its accesses to a slot. The pad is machine code: it stands still
behind each of its instructions. Whatever happens, a call is counted once, and an answer gets to its own hit or to none.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest
from unicorn.x86_const import UC_X86_REG_RDI, UC_X86_REG_RIP

from fprobe_gdb.dispatch.trampoline import pads
from fprobe_gdb.dispatch.trampoline.pads import Field, Kind
from fprobe_gdb.dispatch.trampoline.slots import Posted, Slots
from fprobe_gdb.dispatch.trampoline.zone import Zone
from tests.unit.dispatch.pad_machine import CALLER, FUNCTION, PadMachine

BEHIND = FUNCTION + 5
# Of a pad that looks, pauses and waits this often: more instructions than there are in its way.
LOOKS, SETTLE, PATIENCE = 2, 2, 2
LONGEST = 1000
# How many instructions it is from posting to behind the pad, for one that gives up and for one that leaves.
GIVES_UP, LEAVES = 90, 150
STUBS = 0xFFFFFFFF83000000


class Gate:
    """In front of each access of the host.

    :param at: the access in front of which the host stands still.
    :param happens: what happens meanwhile.
    :param later: what happens in front of each access behind that.
    """

    def __init__(self, at: int, happens: Callable[[], None], later: Callable[[], None]) -> None:
        self.at = at
        self.happens = happens
        self.later = later
        self.passed = 0

    def __call__(self) -> None:
        self.passed += 1
        if self.passed == self.at:
            self.happens()
        elif self.passed > self.at:
            self.later()


class Gated:
    """Shared memory behind the gate."""

    def __init__(self, memory: Any, slots: GatedSlots) -> None:
        self.memory = memory
        self.slots = slots

    def __getitem__(self, index: Any) -> Any:
        self.slots.gate()
        return self.memory[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.slots.gate()
        self.memory[index] = value

    def tobytes(self) -> bytes:
        self.slots.gate()
        data: bytes = self.memory.tobytes()
        return data


class GatedSlots(Slots):
    """The host's side. Looking for hits is not gated: nothing is decided by it."""

    def __init__(self, machine: PadMachine) -> None:
        super().__init__(machine.ram, machine.zone)
        self.gate: Callable[[], None] = lambda: None
        self._bytes = Gated(self._bytes, self)  # type: ignore[assignment]
        for slot in self._slots:
            slot.words = Gated(slot.words, self)  # type: ignore[assignment]
            slot.said = Gated(slot.said, self)  # type: ignore[assignment]


class End(Enum):
    """What becomes of a call."""

    ANSWERED = "handled, and its pad did what the host wanted"
    LATE = "handled, and its pad had left by then"
    LEFT = "left to the host to count, and it did not come to handling it"
    LOST = "counted by its pad"


class Story:
    """Calls of one function, one after the other, and a host that handles them.

    :param writes: what the host writes about a call, given its number.
    """

    def __init__(self, writes: Callable[[int], dict[str, int]]) -> None:
        self.machine = PadMachine(None)
        self.slots = GatedSlots(self.machine)
        self.machine.set_word(Zone.BOUND_TSC, 1)
        self.writes = writes
        self.calls = self.lost = 0
        #: Whether a call is in its pad.
        self.stands = False
        #: Whether a call has got what the host wanted of it, and whether the host thinks so.
        self.got: dict[int, bool] = {}
        self.answered: dict[int, bool] = {}
        self.before: dict[str, int] = {}

    def begin(self) -> None:
        """The function is called; its first argument is the number of the call."""
        self.calls += 1
        self.stands = True
        self.machine.scramble(self.calls)
        self.machine.uc.reg_write(UC_X86_REG_RDI, self.calls)
        self.before = self.machine.registers()

    def go_on(self, instructions: int) -> None:
        """The call goes on, if there is one."""
        if self.stands and self.machine.step(instructions, BEHIND):
            self._end()

    # Either all has happened to the call that the host wanted, or nothing.
    def _end(self) -> None:
        self.stands = False
        call, after = self.calls, self.machine.registers()
        slot_word = self.machine.stack_word(self.before["sp"])
        self.got[call] = slot_word != CALLER
        assert slot_word == (STUBS + 8 * call if self.got[call] else CALLER)
        assert after == self.before | {"ip": BEHIND} | (self.writes(call) if self.got[call] else {})

    def post(self) -> None:
        """Another call is posted: of somebody who has seen that the host is there."""
        assert not self.stands
        self.machine.set_word(Zone.HOST_AWAY, 0)
        self.begin()
        while self.stands and self.slots.next_posted() is None:
            self.go_on(1)

    def serve(self, gate: Callable[[], None] = lambda: None) -> None:
        """Handle the hit that waits, if one does."""
        slot = self.slots.next_posted()
        self.slots.gate = gate
        if slot is not None and (said := self.slots.take(slot)):
            hit = Posted(slot, said)
            call = hit.registers["di"]
            assert (hit.kind, hit.ip, hit.ret_ip) == (Kind.ENTRY, FUNCTION, CALLER)
            assert call not in self.answered, "handled twice"
            self.answered[call] = self.slots.answer(
                slot, hit.use, new_ret=STUBS + 8 * call, writes=self.writes(call) or None
            )
        self.slots.gate = lambda: None

    def finish(self) -> set[End]:
        """The host is well again. All calls come to an end, and are counted once. What became of them."""
        while self.stands:
            self.serve()
            self.go_on(20)
        left = self.slots.take_left()
        lost = sum(self.machine.lost().values())
        assert set(left) <= {FUNCTION}
        assert len(self.answered) + len(left) + lost - self.lost == len(self.got)
        ends = {End.ANSWERED if got else End.LATE for got in self.answered.values()}
        ends |= ({End.LEFT} if left else set()) | ({End.LOST} if lost > self.lost else set())
        self.lost = lost
        assert {call for call, got in self.got.items() if got} == {call for call, got in self.answered.items() if got}
        self.got.clear()
        self.answered.clear()
        return ends


def leaves(story: Story) -> None:
    """The pad goes on until it has left, answered or not."""
    story.go_on(LONGEST)
    assert not story.stands


def leaves_to_another(story: Story) -> None:
    """The same, and the slot gets to another call."""
    leaves(story)
    story.post()


def leaves_to_two(story: Story) -> None:
    """The same, and that one has left, too."""
    leaves_to_another(story)
    leaves_to_another(story)


def stands_still(story: Story, far: int, happens: Callable[[], None], at_a_time: int) -> set[End]:
    """The host stands still in front of each of its accesses, of one call after the other.

    :param far: how far the pad has got when the host begins.
    :param at_a_time: how far the pad goes on in front of each access afterwards.
    """
    ends: set[End] = set()
    at = passed = 0
    while passed >= at:
        at += 1
        story.post()
        story.go_on(far)
        gate = Gate(at, happens, lambda: story.go_on(at_a_time))
        story.serve(gate)
        passed = gate.passed
        ends |= story.finish()
    return ends


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pads that do all that pads do, in few instructions."""
    monkeypatch.setattr(pads, "_LOOKS", LOOKS)
    monkeypatch.setattr(pads, "_SETTLE", SETTLE)
    monkeypatch.setattr(pads, "_PATIENCE", PATIENCE)


@pytest.mark.parametrize("writes", [{}, {"ax": 0x5000}], ids=["return", "registers"])
@pytest.mark.parametrize("happens", [leaves, leaves_to_another, leaves_to_two])
def test_the_pad_leaves_a_host_that_stands_still(happens: Callable[[Story], None], writes: dict[str, int]) -> None:
    """The pad is anywhere when the host begins, also where it is giving up."""
    story = Story(lambda call: {name: value + call for name, value in writes.items()})
    ends: set[End] = set()
    for far in range(0, GIVES_UP, 1 + 4 * bool(writes)):
        ends |= stands_still(story, far, lambda: happens(story), 1)
    assert ends == set(End)


@pytest.mark.parametrize("at_a_time", [1, 7])
def test_the_pad_goes_on_while_the_host_stands_still(at_a_time: int) -> None:
    """The pad is anywhere when the host goes on, also where it is leaving."""
    story = Story(lambda call: {})
    ends: set[End] = set()
    for further in range(LEAVES):
        ends |= stands_still(story, 0, lambda: story.go_on(further), at_a_time)  # noqa: B023
    assert ends == set(End)


def test_how_many_instructions_there_are() -> None:
    """Up to giving up nobody, and up to leaving a host that has begun."""
    for begun, instructions in ((False, GIVES_UP), (True, LEAVES)):
        story = Story(lambda call: {})
        story.post()
        if begun:
            assert story.slots.take(story.slots.next_posted() or 0)
        story.go_on(instructions)
        assert not story.stands


def test_a_node_that_is_given_to_another_call_has_not_ended() -> None:
    """The pad of a return says that it leaves, and the host gives its node away before the pad has left."""
    machine = PadMachine(None)
    machine.set_word(Zone.BOUND_TSC, 1)
    frame = machine.scramble(1)["sp"]
    stub = machine.returns.hook(CALLER, CALLER, frame, 1)
    machine.uc.mem_write(frame, stub.to_bytes(8, "little"))
    machine.uc.reg_write(UC_X86_REG_RIP, BEHIND)
    while (slot := machine.slots.next_posted()) is None:
        machine.step(1, CALLER)
    said = machine.slots.take(slot)
    assert said
    use = Posted(slot, said).use
    while machine.slots._slots[slot].words[Field.GONE // 8] != use:
        assert not machine.step(1, CALLER)
    assert not machine.slots.answer(slot, use)
    call = machine.returns.find(stub)
    assert call
    machine.returns.free(call)
    assert machine.returns.hook(CALLER, CALLER, frame + 64, 2) == stub
    assert machine.step(LONGEST, CALLER)
    assert machine.returns.take_ended() == []
