"""The host's side of the slots: which hits wait, what they say, and answering them. See :mod:`.pads`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fprobe_gdb.dispatch.trampoline.pads import SLOT_REGISTERS, Action, Field, State
from fprobe_gdb.dispatch.trampoline.zone import SLOT_BYTES, SLOTS, Zone
from fprobe_gdb.probe.regs import FRAME_REGISTERS
from fprobe_gdb.registers import MASK64
from fprobe_gdb.target.guest_ram import GuestRam

__all__ = ["FRAME", "Posted", "SlotRegisters", "SlotWords", "Slots"]

# Members of enumerations are slow to look up, and these are needed at each hit.
_POSTED, _LEAVING, _ANSWERED_STATE = int(State.POSTED), int(State.LEAVING), int(State.ANSWERED)
_POSTED_BYTE = bytes([_POSTED])
_SLOT_WORDS = SLOT_BYTES // 8
_TAKEN, _SP, _TO, _NEW_RET = (field // 8 for field in (Field.TAKEN, Field.SP, Field.TO, Field.NEW_RET))
_USE, _LEFT, _ANSWERING, _ANSWERED = (field // 8 for field in (Field.USE, Field.LEFT, Field.ANSWERING, Field.ANSWERED))
# What is read of a slot.
_READ_WORDS = _USE + 1
_FIRST_REGISTER = Field.REGISTERS // 8

_INDEX = {name: _FIRST_REGISTER + index for index, name in enumerate(SLOT_REGISTERS)}
_INDEX |= {"sp": Field.SP // 8, "ip": Field.IP // 8, "flags": Field.FLAGS // 8}
#: Where in the words of a slot the registers are that a handler's regs are made of, just as they want them.
FRAME = slice(Field.FLAGS // 8, Field.FLAGS // 8 + len(FRAME_REGISTERS))
assert [_INDEX[name] for name in FRAME_REGISTERS] == list(range(FRAME.start, FRAME.stop))


class SlotRegisters(Mapping[str, int]):
    """The registers of a hit: general ones, ``ip`` and ``flags``. Nothing is done for those that nobody asks for.

    :param others: registers that are not in the slot, or others than there.
    """

    __slots__ = ("_others", "_words")

    def __init__(self, words: list[int], others: Mapping[str, int]) -> None:
        self._words = words
        self._others = others

    def __getitem__(self, name: str) -> int:
        return self._others[name] if name in self._others else self._words[_INDEX[name]]

    def __iter__(self) -> Iterator[str]:
        return iter({**_INDEX, **self._others})

    def __len__(self) -> int:
        return len({**_INDEX, **self._others})


def _word(field: Field, doc: str) -> property:
    index = field // 8
    return property(lambda posted: posted.words[index], doc=doc)


class SlotWords:
    """What a pad has written about a hit that waits for us."""

    def __init__(self, slot: int, words: list[int]) -> None:
        self.slot = slot
        self.words = words

    kind = _word(Field.KIND, "A :class:`~.pads.Kind`.")
    tsc = _word(Field.TSC, "When it was posted.")
    preempt_count = _word(Field.PREEMPT_COUNT, "The raw per-CPU preempt count of the function.")
    kprobe = _word(Field.KPROBE, "``current_kprobe``.")
    cr3 = _word(Field.CR3, "The page table root.")
    cpu = _word(Field.CPU, "The vCPU.")
    result = _word(Field.RESULT, "What the guest function returned that the host had called.")

    @property
    def registers(self) -> SlotRegisters:
        """General registers, ``ip`` and ``flags``."""
        return SlotRegisters(self.words, {})


class Posted(SlotWords):
    """A hit that waits for us, as its pad sees it."""

    ip = _word(Field.IP, "Entry: the location. Exit: behind the call in the stub.")
    sp = _word(Field.SP, "The stack pointer when the function was entered, or when it has returned.")
    ret_ip = _word(Field.RET_IP, "Entry: the word at ``sp``.")
    task = _word(Field.TASK, "``current``.")
    use = _word(Field.USE, "Which use of the slot it is.")


class Slots:
    """All slots of a zone.

    :param ram: the guest's memory, in which the zone is.
    """

    def __init__(self, ram: GuestRam, zone: Zone) -> None:
        self._bytes = ram.view
        self._words = ram.words
        self._find = ram.find
        self._states = ram.offset(zone.physical_of(zone.word(Zone.STATES)))
        self._states_end = self._states + SLOTS
        self._first_word = ram.offset(zone.physical_of(zone.slots)) >> 3
        # Where to look on, so that no CPU waits for ever because another one is quicker.
        self._next = self._states

    def next_posted(self) -> int | None:
        """A slot that waits for us, None when there is none. They take turns."""
        found = self._find(_POSTED_BYTE, self._next, self._states_end)
        if found < 0:
            if self._next == self._states:
                return None
            self._next = self._states
            found = self._find(_POSTED_BYTE, self._states, self._states_end)
            if found < 0:
                return None
        self._next = found + 1
        return found - self._states

    def waiting(self) -> list[int]:
        """All slots that wait for us."""
        states = self._bytes[self._states : self._states_end].tobytes()
        return [slot for slot, state in enumerate(states) if state == _POSTED]

    def is_posted(self, slot: int) -> bool:
        """Whether this slot waits for us."""
        first = self._first_word + slot * _SLOT_WORDS
        return (
            self._bytes[self._states + slot] == _POSTED and self._words[first + _ANSWERED] != self._words[first + _USE]
        )

    def take(self, slot: int) -> list[int] | None:
        """Begin with a hit: from now on its pad will not give up soon. None when it has just done so, or was answered
        and has not seen that yet.

        :return: the slot's words, by :class:`~.pads.Field`.
        """
        first = self._first_word + slot * _SLOT_WORDS
        words: list[int] = self._words[first : first + _READ_WORDS].tolist()
        use = words[_USE]
        self._words[first + _TAKEN] = use
        while (state := self._bytes[self._states + slot]) == _LEAVING:
            pass
        if state != _POSTED or self._words[first + _USE] != use or self._words[first + _ANSWERED] == use:
            return None
        return words

    def may_answer(self, slot: int, use: int) -> bool:
        """Whether the pad of a hit that was begun with is still there; it waits for the answer then, which has to come
        at once.

        :param use: the slot's :attr:`~.pads.Field.USE` at that time.
        """
        first = self._first_word + slot * _SLOT_WORDS
        self._words[first + _ANSWERING] = use
        if self._words[first + _USE] == use and self._words[first + _LEFT] != use:
            return True
        self._words[first + _TAKEN] = 0
        return False

    def write_registers(self, slot: int, values: Mapping[str, int]) -> None:
        """Set what the pad restores: general registers but ``sp``, and ``flags``."""
        first = self._first_word + slot * _SLOT_WORDS
        for name, value in values.items():
            self._words[first + _INDEX[name]] = value & MASK64

    def go_on(self, slot: int, to: int | None = None, new_ret: int | None = None, sp: int | None = None) -> None:
        """Answer: the pad gives everything back and goes on.

        :param to: where, if not behind the location (or where the call returns to).
        :param new_ret: what to leave in the return slot.
        :param sp: with which stack pointer, if not the one of the hit.
        """
        first = self._first_word + slot * _SLOT_WORDS
        if to is not None:
            self._words[first + _TO] = to
        if new_ret is not None:
            self._words[first + _NEW_RET] = new_ret
        if sp is not None:
            self._words[first + _SP] = sp
        self._answered(slot, first)

    def call(self, slot: int, function: int, args: Mapping[str, int]) -> None:
        """Answer: the pad calls a guest function, with these registers, and posts the slot again."""
        self.write_registers(slot, args)
        first = self._first_word + slot * _SLOT_WORDS
        self._words[first + Field.FUNCTION // 8] = function & MASK64
        self._words[first + Field.ACTION // 8] = Action.CALL
        self._answered(slot, first)

    # In this order: a pad that overwrites the state just now looks at the word afterwards.
    def _answered(self, slot: int, first: int) -> None:
        self._words[first + _ANSWERED] = self._words[first + _USE]
        self._bytes[self._states + slot] = _ANSWERED_STATE
