"""The registers of a hit as a handler sees them: ``struct pt_regs *``, and which writes take effect."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping
from enum import Enum
from operator import itemgetter
from typing import Self

from fprobe_gdb.registers import GENERAL_REGISTERS, MASK64, Registers

__all__ = ["FRAME_REGISTERS", "PtRegs", "Side", "behind_frame"]


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
# What regs have behind these; the last two are not the kernel's.
_BEHIND = ("ip", "cs", "ss", "orig_ax", "_exits", "written")
_pack_frame, _pick_frame = struct.Struct(f"<{len(FRAME_REGISTERS)}Q").pack, itemgetter(*FRAME_REGISTERS)
_pack_behind = struct.Struct(f"<{len(_BEHIND)}Q").pack
# arch/x86/include/asm/segment.h: what both trampolines store as __KERNEL_CS and __KERNEL_DS.
_KERNEL_CS, _KERNEL_SS = 0x10, 0x18
# Among the originals: the call is skipped.
_OVERRIDDEN = "overridden"
# What PtRegs.__setattr__ does not let through.
_set = ctypes.LittleEndianStructure.__setattr__


def behind_frame(side: Side, ip: int) -> bytes:
    """What makes a :class:`PtRegs` of a vCPU's registers, which end there.

    :param ip: what ``regs.ip`` shows: behind the fentry instruction at entry, the return address at exit.
    """
    # ftrace_regs_caller stores 0 as orig_ax, arch_rethook_trampoline ~0.
    exits = side is Side.EXIT
    return _pack_behind(ip, _KERNEL_CS, _KERNEL_SS, MASK64 if exits else 0, exits, 0)


# A structure of C: regs are made for every hit, and few registers are looked at. So what is made is a copy of bytes,
# and a register is read without any Python; what writes cost does not matter.
class PtRegs(ctypes.LittleEndianStructure):
    """``struct pt_regs``: ``regs.di``, ``regs.ax``, ``regs.ip`` ... as unsigned 64-bit integers, readable and writable.

    At entry writes to all general registers but ``r11`` and ``sp``, to ``flags`` and to ``ip`` take effect; at exit all
    general registers but ``sp``, and ``flags`` (a changed ``ax`` is a changed return value). As in the kernel, other
    writes are seen by the handlers that follow and by nobody else.

    ``PtRegs.from_buffer_copy(frame)`` makes them of the vCPU's registers at the hit by :data:`FRAME_REGISTERS`, 64 bits
    each, and :func:`behind_frame`.
    """

    __slots__ = ("_originals",)
    _fields_ = [(name, ctypes.c_uint64) for name in FRAME_REGISTERS + _BEHIND]

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
    #: Not 0 when a handler has written any register.
    written: int
    _exits: int
    # What the registers were that have been written, as soon as one has.
    _originals: dict[str, int]

    @classmethod
    def of(cls, values: Mapping[str, int], side: Side, ip: int) -> Self:
        """Regs of registers by name. For ``ip`` see :func:`behind_frame`."""
        return cls.from_buffer_copy(_pack_frame(*_pick_frame(values)) + behind_frame(side, ip))

    # Registers are there; only what is none of them comes here.
    def __getattr__(self, name: str) -> int:
        raise AttributeError(f"pt_regs has no {name!r}; it has {', '.join(_NAMES)}")

    def __setattr__(self, name: str, value: int) -> None:
        if name not in _NAMES:
            raise AttributeError(f"pt_regs has no {name!r}; it has {', '.join(_NAMES)}")
        self._remember(name, getattr(self, name))
        _set(self, name, int(value))

    def _remember(self, name: str, value: int) -> None:
        if not self.written:
            _set(self, "written", 1)
            _set(self, "_originals", {})
        self._originals.setdefault(name, value)

    def __copy__(self) -> Self:
        made = type(self).from_buffer_copy(self)
        if self.written:
            _set(made, "_originals", dict(self._originals))
        return made

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self.__copy__()

    def __repr__(self) -> str:
        return "PtRegs(" + ", ".join(f"{name}={value:#x}" for name, value in self.as_dict().items()) + ")"

    @property
    def side(self) -> Side:
        """Whether these are the registers of an entry or of an exit."""
        return Side.EXIT if self._exits else Side.ENTRY

    @property
    def arguments(self) -> tuple[int, ...]:
        """The six register arguments (meaningful at entry only)."""
        return (self.di, self.si, self.dx, self.cx, self.r8, self.r9)

    @property
    def overridden(self) -> bool:
        """Whether :meth:`override_return` was called."""
        return bool(self.written) and _OVERRIDDEN in self._originals

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
        if not self._exits:
            self._remember(_OVERRIDDEN, 0)

    def take_effective_writes(self, ret_addr: int) -> Registers:
        """Registers that the guest must get, by name.

        :param ret_addr: where the function returns to.
        """
        if not self.written:
            return {}
        originals = self._originals
        effective = _EFFECTIVE[self.side].intersection(originals)
        writes = {name: value for name in effective if (value := getattr(self, name)) != originals[name]}
        if _OVERRIDDEN in originals:
            # The call never happens: the return slot is popped, all else stays as handlers left it.
            writes["ip"] = ret_addr
            writes["sp"] = (originals.get("sp", self.sp) + 8) & MASK64
        return writes
