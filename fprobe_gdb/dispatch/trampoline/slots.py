"""The host's side of the slots: which hits wait, what they say, and answering them. See :mod:`.pads`."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from fprobe_gdb.dispatch.trampoline.pads import SLOT_REGISTERS, Action, Field, State
from fprobe_gdb.dispatch.trampoline.zone import SLOT_BYTES, SLOTS, Zone
from fprobe_gdb.registers import MASK64
from fprobe_gdb.target.guest_ram import GuestRam

__all__ = ["Posted", "SlotRegisters", "Slots"]

_WORDS = struct.Struct(f"<{SLOT_BYTES // 8}Q")
_POSTED = bytes([State.POSTED])
_FIRST_REGISTER = Field.REGISTERS // 8
_TSC, _TAKEN = Field.TSC // 8, Field.TAKEN // 8


_INDEX = {name: _FIRST_REGISTER + index for index, name in enumerate(SLOT_REGISTERS)}
_INDEX |= {"sp": Field.SP // 8, "ip": Field.IP // 8, "flags": Field.FLAGS // 8}


class SlotRegisters(Mapping[str, int]):
    """The registers of a hit: general ones, ``ip`` and ``flags``. Nothing is done for those that nobody asks for."""

    __slots__ = ("_words",)

    def __init__(self, words: tuple[int, ...]) -> None:
        self._words = words

    def __getitem__(self, name: str) -> int:
        return self._words[_INDEX[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(_INDEX)

    def __len__(self) -> int:
        return len(_INDEX)


def _word(field: Field, doc: str) -> property:
    index = field // 8
    return property(lambda posted: posted.words[index], doc=doc)


class Posted:
    """A hit that waits for us, in the words that its pad has written."""

    __slots__ = ("slot", "words")

    def __init__(self, slot: int, words: tuple[int, ...]) -> None:
        self.slot = slot
        self.words = words

    kind = _word(Field.KIND, "A :class:`~.pads.Kind`.")
    ip = _word(Field.IP, "Entry: the location. Exit: behind the call in the stub.")
    sp = _word(Field.SP, "The stack pointer when the function was entered, or when it has returned.")
    ret_ip = _word(Field.RET_IP, "Entry: the word at ``sp``.")
    tsc = _word(Field.TSC, "When it was posted.")
    task = _word(Field.TASK, "``current``.")
    preempt_count = _word(Field.PREEMPT_COUNT, "The raw per-CPU preempt count of the function.")
    kprobe = _word(Field.KPROBE, "``current_kprobe``.")
    cr3 = _word(Field.CR3, "The page table root.")
    cpu = _word(Field.CPU, "The vCPU.")
    result = _word(Field.RESULT, "What the guest function returned that the host had called.")

    @property
    def registers(self) -> SlotRegisters:
        """General registers, ``ip`` and ``flags``."""
        return SlotRegisters(self.words)


class Slots:
    """All slots of a zone.

    :param ram: the guest's memory, in which the zone is.
    """

    def __init__(self, ram: GuestRam, zone: Zone) -> None:
        self._ram = ram
        self._zone = zone
        self._bytes = ram.view
        self._words = ram.words
        self._states = ram.offset(zone.physical_of(zone.word(Zone.STATES)))
        self._slots = ram.offset(zone.physical_of(zone.slots))

    def next_posted(self) -> int | None:
        """A slot that waits for us, None when there is none."""
        states = self._bytes[self._states : self._states + SLOTS].tobytes()
        found = states.find(_POSTED)
        return found if found >= 0 else None

    def waiting(self) -> list[int]:
        """All slots that wait for us."""
        states = self._bytes[self._states : self._states + SLOTS].tobytes()
        return [slot for slot, state in enumerate(states) if state == State.POSTED]

    def is_posted(self, slot: int) -> bool:
        """Whether this slot waits for us."""
        return self._bytes[self._states + slot] == State.POSTED

    def take(self, slot: int) -> Posted | None:
        """Begin with a hit: from now on its pad will not give up soon. None when it has just done so."""
        begin = self._slots + slot * SLOT_BYTES
        words = _WORDS.unpack_from(self._bytes, begin)
        tsc = words[_TSC]
        self._words[(begin >> 3) + _TAKEN] = tsc
        while (state := self._bytes[self._states + slot]) == State.LEAVING:
            pass
        if state != State.POSTED or self._words[(begin >> 3) + _TSC] != tsc:
            return None
        return Posted(slot, words)

    def write_registers(self, slot: int, values: Mapping[str, int]) -> None:
        """Set what the pad restores: general registers but ``sp``, and ``flags``."""
        for name, value in values.items():
            field = Field.FLAGS if name == "flags" else Field.REGISTERS + 8 * SLOT_REGISTERS.index(name)
            self._write(slot, field, value)

    def go_on(self, slot: int, *, to: int | None = None, new_ret: int | None = None, sp: int | None = None) -> None:
        """Answer: the pad gives everything back and goes on.

        :param to: where, if not behind the location (or where the call returns to).
        :param new_ret: what to leave in the return slot.
        :param sp: with which stack pointer, if not the one of the hit.
        """
        if to is not None:
            self._write(slot, Field.TO, to)
        if new_ret is not None:
            self._write(slot, Field.NEW_RET, new_ret)
        if sp is not None:
            self._write(slot, Field.SP, sp)
        self._bytes[self._states + slot] = State.ANSWERED

    def call(self, slot: int, function: int, args: Mapping[str, int]) -> None:
        """Answer: the pad calls a guest function, with these registers, and posts the slot again."""
        self.write_registers(slot, args)
        self._write(slot, Field.FUNCTION, function)
        self._write(slot, Field.ACTION, Action.CALL)
        self._bytes[self._states + slot] = State.ANSWERED

    def _write(self, slot: int, field: int, value: int) -> None:
        self._words[(self._slots + slot * SLOT_BYTES + field) >> 3] = value & MASK64
