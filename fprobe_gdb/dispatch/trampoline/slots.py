"""The host's side of the slots: which hits wait, what they say, and answering them. See :mod:`.pads`.

A vCPU stands still from the moment that a slot is posted until it is answered, so each access to memory that we share
with the guest counts: what a pad has written is taken in one piece.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence

from emu.deadline import Deadline
from fprobe_gdb.dispatch.trampoline.pads import SLOT_REGISTERS, SLOTS_OF_CPU, Change, Field, State
from fprobe_gdb.dispatch.trampoline.zone import SLOT_BYTES, SLOTS, Zone
from fprobe_gdb.probe.regs import FRAME_REGISTERS
from fprobe_gdb.registers import MASK64
from fprobe_gdb.target.guest_ram import GuestRam
from fprobe_gdb.target.process_ram import RamView

__all__ = ["FRAME_OFFSET", "HEADER_OFFSET", "Posted", "SlotRegisters", "SlotWords", "Slots", "unpack_header"]

# Members of enumerations are slow to look up, and these are needed at each hit.
_POSTED, _LEAVING = int(State.POSTED), int(State.LEAVING)
_POSTED_BYTE = bytes([_POSTED])
_TAKEN, _ANSWERED, _CHANGED = (field // 8 for field in (Field.TAKEN, Field.ANSWERED, Field.CHANGED))
_USE, _LEFT, _LEFT_IP, _GONE = (field // 8 for field in (Field.USE, Field.LEFT, Field.LEFT_IP, Field.GONE))
_CHANGES, _NEW_RET, _TO, _ON = (field // 8 for field in (Field.CHANGES, Field.NEW_RET, Field.TO, Field.ON))
_FUNCTION, _ARGUMENTS = Field.FUNCTION // 8, Field.ARGUMENTS // 8
_RETURN, _REGISTERS, _CALL = int(Change.RETURN), int(Change.REGISTERS), int(Change.CALL)
# What is taken of a slot ends with the registers, as handlers' regs want it.
_SAID_BYTES = int(Field.ON)
_WORD = struct.Struct("<Q").unpack_from
HEADER_OFFSET = int(Field.USE)
# The lower bits of a slot's number: pads look for a free one from the first of their CPU's on (:mod:`.pads`).
_NESTED = SLOTS_OF_CPU - 1
# How often a slot may be the next one while others may wait.
_IN_A_ROW = 8
# For so many times as little as a look at one of them takes, others wait while we look for a hit.
_GLANCES = 16
# A pad that leaves decides within microseconds, if its vCPU runs.
_DECIDES_SEC = 1.0

_OFFSETS: dict[str, int] = {name: Field.REGISTERS + 8 * index for index, name in enumerate(SLOT_REGISTERS)}
_OFFSETS |= {"sp": int(Field.SP), "ip": int(Field.IP), "flags": int(Field.FLAGS)}
assert [_OFFSETS[name] for name in FRAME_REGISTERS] == list(range(Field.SP, _SAID_BYTES, 8))
# Where in the host's words they are that it writes, and how many.
_NEW = (Field.NEW_FRAME - Field.SP) // 8
_FRAME_WORDS = len(FRAME_REGISTERS)

_HEADER = (Field.USE, Field.KIND, Field.IP, Field.RET_IP, Field.TASK, Field.PREEMPT_COUNT, Field.SP)
assert list(_HEADER) == list(range(HEADER_OFFSET, Field.FLAGS, 8))
#: ``PtRegs.from_buffer_copy(said + behind_frame(...), FRAME_OFFSET)``: a handler's regs.
FRAME_OFFSET = int(Field.SP)
#: ``unpack_header(said, HEADER_OFFSET)``: what is wanted of every hit, from USE to SP.
unpack_header = struct.Struct(f"<{len(_HEADER)}Q").unpack_from


class SlotRegisters(Mapping[str, int]):
    """The registers of a hit: general ones, ``ip`` and ``flags``. Nothing is done for those that nobody asks for.

    :param said: what :meth:`Slots.take` gave.
    :param others: registers that are not in the slot, or others than there.
    """

    __slots__ = ("_others", "_said")

    def __init__(self, said: bytes, others: Mapping[str, int]) -> None:
        self._said = said
        self._others = others

    def __getitem__(self, name: str) -> int:
        if name in self._others:
            return self._others[name]
        value: int = _WORD(self._said, _OFFSETS[name])[0]
        return value

    def __iter__(self) -> Iterator[str]:
        return iter({**_OFFSETS, **self._others})

    def __len__(self) -> int:
        return len({**_OFFSETS, **self._others})


def _word(field: Field, doc: str) -> property:
    offset = int(field)
    return property(lambda words: _WORD(words.said, offset)[0], doc=doc)


class SlotWords:
    """What a pad has written about a hit that waits for us.

    :param said: what :meth:`Slots.take` gave.
    """

    __slots__ = ("said", "slot")

    def __init__(self, slot: int, said: bytes) -> None:
        self.slot = slot
        self.said = said

    kind = _word(Field.KIND, "A :class:`~.pads.Kind`.")
    tsc = _word(Field.TSC, "When it was posted.")
    preempt_count = _word(Field.PREEMPT_COUNT, "The raw per-CPU preempt count of the function.")
    kprobe = _word(Field.KPROBE, "``current_kprobe``.")
    cr3 = _word(Field.CR3, "The page table root.")
    cpu = _word(Field.CPU, "The vCPU.")
    result = _word(Field.RESULT, "What the guest function returned that the host had called.")
    planted = _word(Field.IP, "Entry: the location. Exit: behind the call in the stub.")
    slot_word = _word(Field.RET_IP, "Entry: the word at the stack pointer.")

    @property
    def registers(self) -> SlotRegisters:
        """General registers, ``ip`` and ``flags``."""
        return SlotRegisters(self.said, {})


class Posted(SlotWords):
    """A hit that waits for us, as its pad sees it."""

    __slots__ = ()

    ip = SlotWords.planted
    sp = _word(Field.SP, "The stack pointer when the function was entered, or when it has returned.")
    ret_ip = SlotWords.slot_word
    task = _word(Field.TASK, "``current``.")
    use = _word(Field.USE, "Which use of the slot it is.")


class _Slot:
    """One slot in the guest's memory."""

    __slots__ = ("said", "words")

    def __init__(self, ram: GuestRam, physical: int) -> None:
        #: Its words, by :class:`~.pads.Field`.
        self.words = ram.part(physical, SLOT_BYTES).cast("Q")
        #: What is taken of it.
        self.said = ram.part(physical, _SAID_BYTES)


class Slots:
    """All slots of a zone.

    :param ram: the guest's memory, in which the zone is.
    """

    def __init__(self, ram: GuestRam, zone: Zone) -> None:
        self._bytes = ram.view
        self._find = ram.find
        self._states = ram.offset(zone.physical_of(zone.word(Zone.STATES)))
        self._states_end = self._states + SLOTS
        self._slots = [_Slot(ram, zone.physical_of(zone.slots) + SLOT_BYTES * slot) for slot in range(SLOTS)]
        # Where the last hit was, and for how long it has been there.
        self._last = self._states
        self._in_a_row = 0
        # Locations of those that left in the moment in which we began with them.
        self._left: list[int] = []

    def next_posted(self) -> int | None:
        """A slot that waits for us, None when there is none. They take turns."""
        for begin, end in ((self._last + 1, self._states_end), (self._states, self._last + 1)):
            while (found := self._find(_POSTED_BYTE, begin, end)) >= 0:
                slot = found - self._states
                if self._waits(slot):
                    self._last, self._in_a_row = found, 0
                    return self._outermost(slot) if slot & _NESTED else slot
                begin = found + 1
        return None

    # A pad that interrupts another one on its CPU has a slot behind it, and its hit comes later. Handled before it, it
    # would be taken for one that is over by then: a task that dies, or a new call further up on the stack.
    def _outermost(self, slot: int) -> int:
        outer = (slot & ~_NESTED) + self._states
        found = self._find(_POSTED_BYTE, outer, slot + self._states) - self._states
        return found if found >= 0 and self._waits(found) else slot

    # Whether the hit in a posted slot is one that we have not answered: its pad may not have seen the answer.
    def _waits(self, slot: int) -> bool:
        words = self._slots[slot].words
        return words[_ANSWERED] != words[_USE]

    def look(self) -> int | None:
        """The same, for who looks again and again: most looks are at the last one alone, as that takes the least."""
        if self._in_a_row < _IN_A_ROW:
            states, last = self._bytes, self._last
            for _ in range(_GLANCES):
                if states[last] == _POSTED:
                    slot = last - self._states
                    words = self._slots[slot].words
                    if words[_ANSWERED] != words[_USE]:
                        self._in_a_row += 1
                        return self._outermost(slot) if slot & _NESTED else slot
        return self.next_posted()

    def waiting(self) -> list[int]:
        """All slots that wait for us."""
        states = self._bytes[self._states : self._states_end].tobytes()
        return [slot for slot, state in enumerate(states) if state == _POSTED and self._waits(slot)]

    def is_posted(self, slot: int) -> bool:
        """Whether this slot waits for us."""
        return self._bytes[self._states + slot] == _POSTED and self._waits(slot)

    def take(self, slot: int) -> bytes | None:
        """Begin with the hit of a slot that waits for us. From now on it is ours to count, and its pad will not give up
        soon. None when its pad gave up before.

        :return: what the pad says, see :class:`SlotWords`.
        """
        place = self._slots[slot]
        words = place.words
        words[_TAKEN] = use = words[_USE]
        said = place.said.tobytes()
        # In this order: only then the state is that of this use.
        if self._bytes[self._states + slot] == _POSTED and words[_USE] == use:
            return said
        return self._take_leaving(slot, use)

    # A pad that was about to give up when we began, or has.
    def _take_leaving(self, slot: int, use: int) -> bytes | None:
        place, states, at = self._slots[slot], self._bytes, self._states + slot
        words, deadline = place.words, Deadline(_DECIDES_SEC)
        while True:
            said = place.said.tobytes()
            state = states[at]
            if state not in (_POSTED, _LEAVING) or words[_USE] != use:
                break
            if state == _POSTED:
                return said
            if deadline.expired:
                # The guest stands still, or is gone. Should the pad have seen that we had begun, it waits for us again.
                words[_TAKEN] = 0
                return None
        if words[_LEFT] >= use and (planted := words[_LEFT_IP]):
            # It saw that we had begun, and ran out of patience before we have seen that it did.
            self._left.append(planted)
        return None

    def take_left(self) -> list[int]:
        """Where calls were entered that were ours to count, and that we have not seen: what pads take for locations."""
        left, self._left = self._left, []
        return left

    def answer(
        self,
        slot: int,
        use: int,
        to: int | None = None,
        new_ret: int | None = None,
        sp: int | None = None,
        writes: Mapping[str, int] | None = None,
    ) -> bool:
        """Answer a hit that was begun with: the pad gives everything back and goes on.

        :param to: where, if not behind the location (or where the call returns to).
        :param new_ret: what to leave in the return slot.
        :param sp: with which stack pointer, if not the one of the hit.
        :param writes: general registers but ``sp``, and ``flags``, that are not those of the hit.
        :return: whether the pad was still there.
        """
        words = self._slots[slot].words
        if words[_USE] != use:
            # The slot may be that of a hit whose pad has yet to see its answer.
            return False
        changes = 0
        if to is not None or sp is not None or writes:
            changes = _REGISTERS
            self._change_registers(words, to, sp, writes or {})
        if new_ret is not None:
            changes |= _RETURN
            words[_NEW_RET] = new_ret
        if changes:
            words[_CHANGES] = changes
            words[_CHANGED] = use
        words[_ANSWERED] = use
        return words[_LEFT] < use or self._decided(slot, use)

    # All of them, as the pad takes them in one go.
    def _change_registers(
        self, words: RamView | memoryview, to: int | None, sp: int | None, writes: Mapping[str, int]
    ) -> None:
        for at in range(Field.SP // 8, Field.SP // 8 + _FRAME_WORDS):
            words[_NEW + at] = words[at]
        if sp is not None:
            words[_NEW + Field.SP // 8] = sp
        for name, value in writes.items():
            words[_NEW + _OFFSETS[name] // 8] = value & MASK64
        words[_TO] = words[_ON] if to is None else to

    def call(self, slot: int, use: int, function: int, args: Sequence[int]) -> bool:
        """Answer: the pad calls a guest function, and posts the slot again.

        :param args: up to six.
        :return: whether the pad was still there.
        """
        words = self._slots[slot].words
        if words[_USE] != use:
            return False
        for index, arg in enumerate(args, _ARGUMENTS):
            words[index] = arg & MASK64
        words[_FUNCTION] = function & MASK64
        words[_CHANGES] = _CALL
        words[_CHANGED] = use
        words[_ANSWERED] = use
        return words[_LEFT] < use or self._decided(slot, use)

    # We have answered while the pad was leaving, which is at microseconds that are the last of many seconds: whether it
    # has seen that. Where its vCPU stands still just there nobody knows, and it is taken for one that has: so its node
    # is not given to another call.
    def _decided(self, slot: int, use: int) -> bool:
        words, states, at = self._slots[slot].words, self._bytes, self._states + slot
        deadline = Deadline(_DECIDES_SEC)
        while states[at] == _LEAVING and words[_USE] == use and words[_GONE] < use and not deadline.expired:
            pass
        return words[_GONE] < use

    def close(self) -> None:
        """Let go of the guest's memory."""
        for slot in self._slots:
            slot.words.release()
            slot.said.release()
