"""The host's side of the slots: which hits wait, what they say, and answering them. See :mod:`.pads`."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from fprobe_gdb.dispatch.trampoline.pads import SLOT_REGISTERS, Action, Field, Kind, State
from fprobe_gdb.dispatch.trampoline.zone import SLOT_BYTES, SLOTS, Zone
from fprobe_gdb.registers import MASK64, Registers
from fprobe_gdb.target.guest_ram import GuestRam

__all__ = ["Posted", "Slots"]

_WORDS = struct.Struct(f"<{SLOT_BYTES // 8}Q")
_POSTED = bytes([State.POSTED])
_FIRST_REGISTER = Field.REGISTERS // 8


@dataclass(slots=True)
class Posted:
    """A hit that waits for us. Its words are those that the pad has written."""

    slot: int
    kind: Kind
    ip: int
    sp: int
    ret_ip: int
    to: int
    tsc: int
    task: int
    preempt_count: int
    kprobe: int
    cr3: int
    cpu: int
    #: General registers, ``ip`` and ``flags``.
    registers: Registers
    result: int


class Slots:
    """All slots of a zone.

    :param ram: the guest's memory, in which the zone is.
    """

    def __init__(self, ram: GuestRam, zone: Zone) -> None:
        self._ram = ram
        self._zone = zone
        self._bytes = ram.view
        self._states = ram.offset(zone.physical_of(zone.word(Zone.STATES)))
        self._slots = ram.offset(zone.physical_of(zone.slots))

    def next_posted(self) -> int | None:
        """A slot that waits for us, None when there is none."""
        states = self._bytes[self._states : self._states + SLOTS].tobytes()
        found = states.find(_POSTED)
        return found if found >= 0 else None

    def is_posted(self, slot: int) -> bool:
        """Whether this slot waits for us."""
        return self._bytes[self._states + slot] == State.POSTED

    def take(self, slot: int) -> Posted | None:
        """Begin with a hit: from now on its pad will not give up soon. None when it has just done so."""
        begin = self._slots + slot * SLOT_BYTES
        words = _WORDS.unpack_from(self._bytes, begin)
        tsc = words[Field.TSC // 8]
        self._write(slot, Field.TAKEN, tsc)
        while (state := self._bytes[self._states + slot]) == State.LEAVING:
            pass
        if state != State.POSTED or self._read(slot, Field.TSC) != tsc:
            return None
        registers = dict(zip(SLOT_REGISTERS, words[_FIRST_REGISTER:], strict=False))
        registers["sp"] = words[Field.SP // 8]
        registers["ip"] = words[Field.IP // 8]
        registers["flags"] = words[Field.FLAGS // 8]
        return Posted(
            slot=slot,
            kind=Kind(words[Field.KIND // 8]),
            ip=words[Field.IP // 8],
            sp=words[Field.SP // 8],
            ret_ip=words[Field.RET_IP // 8],
            to=words[Field.TO // 8],
            tsc=tsc,
            task=words[Field.TASK // 8],
            preempt_count=words[Field.PREEMPT_COUNT // 8],
            kprobe=words[Field.KPROBE // 8],
            cr3=words[Field.CR3 // 8],
            cpu=words[Field.CPU // 8],
            registers=registers,
            result=words[Field.RESULT // 8],
        )

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
        for field, value in ((Field.TO, to), (Field.NEW_RET, new_ret), (Field.SP, sp)):
            if value is not None:
                self._write(slot, field, value)
        self._bytes[self._states + slot] = State.ANSWERED

    def call(self, slot: int, function: int, args: Mapping[str, int]) -> None:
        """Answer: the pad calls a guest function, with these registers, and posts the slot again."""
        self.write_registers(slot, args)
        self._write(slot, Field.FUNCTION, function)
        self._write(slot, Field.ACTION, Action.CALL)
        self._bytes[self._states + slot] = State.ANSWERED

    def _read(self, slot: int, field: int) -> int:
        begin = self._slots + slot * SLOT_BYTES + field
        return int.from_bytes(self._bytes[begin : begin + 8], "little")

    def _write(self, slot: int, field: int, value: int) -> None:
        begin = self._slots + slot * SLOT_BYTES + field
        self._bytes[begin : begin + 8] = (value & MASK64).to_bytes(8, "little")
