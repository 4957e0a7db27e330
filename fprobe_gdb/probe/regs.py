"""The registers of a hit as a handler sees them: ``struct pt_regs *``, and which writes take effect."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import Enum
from operator import itemgetter
from typing import Any, Self, cast

from fprobe_gdb.registers import ARGUMENT_REGISTERS, GENERAL_REGISTERS, MASK64, Registers

__all__ = ["FRAME_REGISTERS", "PtRegs", "Side"]


class Side(Enum):
    """Which end of the probed function a hit is at."""

    ENTRY = "entry"
    EXIT = "exit"


# What ftrace_regs_caller (arch/x86/kernel/ftrace_64.S) and arch_rethook_trampoline (arch/x86/kernel/rethook.c) restore
# from pt_regs, Linux 6.12. Other writes are kept for the handlers that follow, and have no effect on the guest.
_EFFECTIVE = {
    Side.ENTRY: frozenset(GENERAL_REGISTERS) - {"r11", "sp"} | {"flags", "ip"},
    Side.EXIT: frozenset(GENERAL_REGISTERS) - {"sp"} | {"flags"},
}
_NAMES = (*GENERAL_REGISTERS, "ip", "flags", "cs", "ss", "orig_ax")
#: The registers that a vCPU has of its own at a hit, in the order in which a handler's regs are made of them.
FRAME_REGISTERS = ("sp", "flags", *(name for name in GENERAL_REGISTERS if name != "sp"))
_FRAME_BYTES = 8 * len(FRAME_REGISTERS)
# Where they are in the bytes that regs are made of, from their end; and where all else is in the list of a PtRegs. Its
# last item is what the registers were that have been written, None as long as none has.
_OFFSETS = {name: 8 * index - _FRAME_BYTES for index, name in enumerate(FRAME_REGISTERS)}
_FRAME, _IP, _CS, _SS, _ORIG_AX, _RET_ADDR, _SIDE, _ORIGINALS = range(8)
_PLACES = {"ip": _IP, "cs": _CS, "ss": _SS, "orig_ax": _ORIG_AX}
_ARGUMENT_OFFSETS = [_OFFSETS[name] for name in ARGUMENT_REGISTERS]
_unpack_word, _pack_word = struct.Struct("<Q").unpack_from, struct.Struct("<Q").pack_into
_pack_frame, _pick_frame = struct.Struct(f"<{len(FRAME_REGISTERS)}Q").pack, itemgetter(*FRAME_REGISTERS)
# arch/x86/include/asm/segment.h: what both trampolines store as __KERNEL_CS and __KERNEL_DS.
_KERNEL_CS, _KERNEL_SS = 0x10, 0x18
_ENTRY = Side.ENTRY
# Among the originals: the call is skipped.
_OVERRIDDEN = "overridden"


class PtRegs:
    """``struct pt_regs``: ``regs.di``, ``regs.ax``, ``regs.ip`` ... as unsigned 64-bit integers, readable and writable.

    At entry writes to all general registers but ``r11`` and ``sp``, to ``flags`` and to ``ip`` take effect; at exit all
    general registers but ``sp``, and ``flags`` (a changed ``ax`` is a changed return value). As in the kernel, other
    writes are seen by the handlers that follow and by nobody else.

    :param frame: ends with the vCPU's registers at the hit, by :data:`FRAME_REGISTERS`, 64 bits each.
    :param ip: what ``regs.ip`` shows: behind the fentry instruction at entry, the return address at exit.
    :param ret_addr: where the function returns to (for :meth:`override_return`).
    """

    # One attribute, since each costs as much as a register of a handler, and no register before somebody asks for it:
    # regs are made for every hit, and few registers are looked at.
    __slots__ = ("_parts",)

    _parts: list[Any]
    ax: int
    bx: int
    cx: int
    dx: int
    si: int
    di: int
    bp: int
    sp: int
    r8: int
    r9: int
    r10: int
    r11: int
    r12: int
    r13: int
    r14: int
    r15: int
    ip: int
    flags: int
    cs: int
    ss: int
    orig_ax: int

    def __init__(self, frame: bytes, side: Side, ip: int, ret_addr: int) -> None:
        # ftrace_regs_caller stores 0 as orig_ax, arch_rethook_trampoline ~0.
        orig_ax = 0 if side is _ENTRY else MASK64
        _set_parts(self, [frame, ip, _KERNEL_CS, _KERNEL_SS, orig_ax, ret_addr, side, None])

    @classmethod
    def of(cls, values: Mapping[str, int], side: Side, ip: int, ret_addr: int) -> Self:
        """The same of registers by name."""
        return cls(_pack_frame(*_pick_frame(values)), side, ip, ret_addr)

    # Registers are properties; only what is none of them comes here.
    def __getattr__(self, name: str) -> int:
        raise AttributeError(f"pt_regs has no {name!r}; it has {', '.join(_NAMES)}")

    def __setattr__(self, name: str, value: int) -> None:
        if name not in _NAMES:
            raise AttributeError(f"pt_regs has no {name!r}; it has {', '.join(_NAMES)}")
        self._originals.setdefault(name, getattr(self, name))
        if name in _PLACES:
            self._parts[_PLACES[name]] = int(value) & MASK64
        else:
            _pack_word(self._parts[_FRAME], _OFFSETS[name], int(value) & MASK64)

    @property
    def _originals(self) -> dict[str, int]:
        if self._parts[_ORIGINALS] is None:
            self._parts[_FRAME] = bytearray(self._parts[_FRAME])
            self._parts[_ORIGINALS] = {}
        return cast("dict[str, int]", self._parts[_ORIGINALS])

    def __copy__(self) -> PtRegs:
        made = object.__new__(PtRegs)
        frame, *others, originals = self._parts
        _set_parts(made, [frame[:], *others, None if originals is None else dict(originals)])
        return made

    def __deepcopy__(self, memo: dict[int, object]) -> PtRegs:
        return self.__copy__()

    def __repr__(self) -> str:
        return "PtRegs(" + ", ".join(f"{name}={value:#x}" for name, value in self.as_dict().items()) + ")"

    @property
    def side(self) -> Side:
        """Whether these are the registers of an entry or of an exit."""
        return cast("Side", self._parts[_SIDE])

    @property
    def arguments(self) -> tuple[int, ...]:
        """The six register arguments (meaningful at entry only)."""
        frame = self._parts[_FRAME]
        return tuple(_unpack_word(frame, offset)[0] for offset in _ARGUMENT_OFFSETS)

    @property
    def written(self) -> bool:
        """Whether a handler has written any register."""
        return self._parts[_ORIGINALS] is not None

    @property
    def overridden(self) -> bool:
        """Whether :meth:`override_return` was called."""
        return _OVERRIDDEN in (self._parts[_ORIGINALS] or ())

    def as_dict(self) -> Registers:
        """A copy of all registers by name."""
        return {name: getattr(self, name) for name in _NAMES}

    def return_value(self) -> int:
        """``regs_return_value()``: ax, unsigned."""
        return self.ax

    def override_return(self, value: int) -> None:
        """At entry: skip the function and let it return ``value``. At exit: the same as writing ``ax``.

        Exit handlers run, as they do for the kernel's ``bpf_override_return()``.

        :param value: any integer; negative ones (``-errno``) become their unsigned form.
        """
        self.ax = value
        if self.side is Side.ENTRY:
            self._originals[_OVERRIDDEN] = 0

    def take_effective_writes(self) -> Registers:
        """Registers that the guest must get, by name."""
        originals: dict[str, int] | None = self._parts[_ORIGINALS]
        if not originals:
            return {}
        effective = _EFFECTIVE[self.side].intersection(originals)
        writes = {name: value for name in effective if (value := getattr(self, name)) != originals[name]}
        if _OVERRIDDEN in originals:
            # The call never happens: the return slot is popped, all else stays as handlers left it.
            writes["ip"] = self._parts[_RET_ADDR]
            writes["sp"] = (originals.get("sp", self.sp) + 8) & MASK64
        return writes


def _register(name: str) -> property:
    if name in _PLACES:
        place = _PLACES[name]
        return property(lambda regs: regs._parts[place])
    offset = _OFFSETS[name]
    return property(lambda regs: _unpack_word(regs._parts[_FRAME], offset)[0])


for _name in _NAMES:
    setattr(PtRegs, _name, _register(_name))
# What PtRegs.__setattr__ does not let through.
_set_parts = PtRegs.__dict__["_parts"].__set__
