"""Where the stub keeps each register: its target description, read into numbers and offsets. Pure.

QEMU's order of registers has changed and will again (APX registers from 11.0), so nothing is hard-coded but names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from xml.parsers import expat

from fprobe_gdb.errors import ProtocolError
from fprobe_gdb.registers import GENERAL_REGISTERS, REGISTERS, Registers

__all__ = ["GDB_NAMES", "RegisterLayout", "RegisterSlot", "read_layout"]

#: What gdb's org.gnu.gdb.i386.core feature calls our registers, where that is not the same name.
GDB_NAMES = {name: f"r{name}" for name in GENERAL_REGISTERS if not name.startswith("r")} | {
    "ip": "rip",
    "flags": "eflags",
}

#: Includes deeper than this are taken for a loop.
_MAX_INCLUDES = 64


@dataclass(frozen=True, slots=True)
class RegisterSlot:
    """One register as the stub sees it."""

    #: For ``p`` and ``P`` packets.
    number: int
    #: In the decoded ``g`` reply.
    offset_bytes: int
    size_bytes: int


class RegisterLayout:
    """Turns ``g`` replies into :data:`~fprobe_gdb.registers.Registers` and values into ``P`` packets."""

    def __init__(self, slots: dict[str, RegisterSlot]) -> None:
        missing = [name for name in REGISTERS if name not in slots]
        if missing:
            raise ProtocolError(
                f"the gdbstub does not describe the registers {', '.join(missing)}; is it an x86_64 system emulator?"
            )
        self._slots = slots
        self._g_size_bytes = max(slots[name].offset_bytes + slots[name].size_bytes for name in REGISTERS)

    def slot(self, name: str) -> RegisterSlot:
        """The slot of one of our names."""
        return self._slots[name]

    def parse_g(self, reply: bytes) -> Registers:
        """All registers out of a ``g`` reply.

        :raise ProtocolError: when it is not hexadecimal or too short.
        """
        try:
            data = bytes.fromhex(reply.decode("ascii"))
        except ValueError:
            raise ProtocolError("the gdbstub answered a register read with something else", reply) from None
        if len(data) < self._g_size_bytes:
            raise ProtocolError(f"the gdbstub sent {len(data)} bytes of registers, not {self._g_size_bytes}", reply)
        values: Registers = {}
        for name in REGISTERS:
            slot = self._slots[name]
            values[name] = int.from_bytes(data[slot.offset_bytes : slot.offset_bytes + slot.size_bytes], "little")
        return values

    def write_packet(self, name: str, value: int) -> bytes:
        """The ``P`` packet that sets a register."""
        slot = self._slots[name]
        return b"P%x=%b" % (slot.number, value.to_bytes(slot.size_bytes, "little").hex().encode())


def read_layout(read_annex: Callable[[str], bytes]) -> RegisterLayout:
    """Read the target description, starting at ``target.xml`` and following its includes.

    :param read_annex: gives the text of a description file of the stub.
    :raise ProtocolError: when it is no XML or does not describe an x86_64 machine.
    """
    found: list[tuple[int, str, int]] = []
    pending = ["target.xml"]
    for count, annex in enumerate(pending):
        if count > _MAX_INCLUDES:
            raise ProtocolError("the gdbstub's target description includes itself", annex)
        _read_annex(annex, read_annex(annex), pending, found)
    by_gdb_name: dict[str, RegisterSlot] = {}
    offset = 0
    # The g packet holds the registers in the order of their numbers (GDB manual, "Target Description Format").
    for number, name, size_bytes in sorted(found):
        by_gdb_name.setdefault(name, RegisterSlot(number, offset, size_bytes))
        offset += size_bytes
    ours = {name: by_gdb_name.get(GDB_NAMES.get(name, name)) for name in REGISTERS}
    return RegisterLayout({name: slot for name, slot in ours.items() if slot is not None})


def _read_annex(annex: str, text: bytes, pending: list[str], found: list[tuple[int, str, int]]) -> None:
    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag == "xi:include":
            pending.append(attributes["href"])
        elif tag == "reg":
            number = int(attributes.get("regnum", found[-1][0] + 1 if found else 0))
            found.append((number, attributes["name"], (int(attributes["bitsize"]) + 7) // 8))

    # Without namespace handling: QEMU uses the prefix "xi" without declaring it.
    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    try:
        parser.Parse(text, True)
    except (expat.ExpatError, KeyError, ValueError) as error:
        raise ProtocolError(f"the gdbstub's target description {annex} is damaged ({error})", text) from error
