"""The registers of a hit as a handler sees them: ``struct pt_regs *``, and which writes take effect."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from operator import itemgetter
from typing import Any, Self, cast

from fprobe_gdb.registers import ARGUMENT_REGISTERS, GENERAL_REGISTERS, MASK64, Registers

__all__ = ["FRAME_REGISTERS", "WRITTEN", "PtRegs", "Side"]


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
FRAME_REGISTERS = ("flags", *(name for name in GENERAL_REGISTERS if name != "sp"), "sp")
# The same with what pt_regs shows beside; behind them the return address, the side, and what the registers were that
# have been written, None as long as none has.
_WORDS = (*FRAME_REGISTERS, "ip", "cs", "ss", "orig_ax")
_INDEX = {name: _WORDS.index(name) for name in _NAMES}
_SP, _AX = _INDEX["sp"], _INDEX["ax"]
_RET_ADDR, _SIDE, _ORIGINALS = range(len(_WORDS), len(_WORDS) + 3)
#: Index into the list that regs are made of: None as long as no handler has written a register.
WRITTEN = _ORIGINALS
_pick_all = itemgetter(*_INDEX.values())
_pick_arguments = itemgetter(*(_INDEX[name] for name in ARGUMENT_REGISTERS))
_pick_frame = itemgetter(*FRAME_REGISTERS)
# arch/x86/include/asm/segment.h: what both trampolines store as __KERNEL_CS and __KERNEL_DS.
_KERNEL_CS, _KERNEL_SS = 0x10, 0x18
_ENTRY = Side.ENTRY
# Instead of an index: the call is skipped.
_OVERRIDDEN = -1


class PtRegs:
    """``struct pt_regs``: ``regs.di``, ``regs.ax``, ``regs.ip`` ... as unsigned 64-bit integers, readable and writable.

    At entry writes to all general registers but ``r11`` and ``sp``, to ``flags`` and to ``ip`` take effect; at exit all
    general registers but ``sp``, and ``flags`` (a changed ``ax`` is a changed return value). As in the kernel, other
    writes are seen by the handlers that follow and by nobody else.

    :param frame: the vCPU's registers at the hit, by :data:`FRAME_REGISTERS`; the list is ours from now on.
    :param ip: what ``regs.ip`` shows: behind the fentry instruction at entry, the return address at exit.
    :param ret_addr: where the function returns to (for :meth:`override_return`).
    """

    # One attribute, since each costs as much as a register of a handler: made for every hit.
    __slots__ = ("_words",)

    _words: list[Any]
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

    def __init__(self, frame: list[Any], side: Side, ip: int, ret_addr: int) -> None:
        # ftrace_regs_caller stores 0 as orig_ax, arch_rethook_trampoline ~0.
        frame += (ip, _KERNEL_CS, _KERNEL_SS, 0 if side is _ENTRY else MASK64, ret_addr, side, None)
        _set_words(self, frame)

    @classmethod
    def of(cls, values: Mapping[str, int], side: Side, ip: int, ret_addr: int) -> Self:
        """The same of registers by name."""
        return cls(list(_pick_frame(values)), side, ip, ret_addr)

    # Registers are properties; only what is none of them comes here.
    def __getattr__(self, name: str) -> int:
        raise AttributeError(f"pt_regs has no {name!r}; it has {', '.join(_NAMES)}")

    def __setattr__(self, name: str, value: int) -> None:
        index = _INDEX.get(name)
        if index is None:
            raise AttributeError(f"pt_regs has no {name!r}; it has {', '.join(_NAMES)}")
        self._originals.setdefault(index, self._words[index])
        self._words[index] = int(value) & MASK64

    @property
    def _originals(self) -> dict[int, int]:
        if self._words[_ORIGINALS] is None:
            self._words[_ORIGINALS] = {}
        return cast("dict[int, int]", self._words[_ORIGINALS])

    def __copy__(self) -> PtRegs:
        made = object.__new__(PtRegs)
        _set_words(made, [*self._words[:_ORIGINALS], dict(self._words[_ORIGINALS] or {})])
        return made

    def __deepcopy__(self, memo: dict[int, object]) -> PtRegs:
        return self.__copy__()

    def __repr__(self) -> str:
        return "PtRegs(" + ", ".join(f"{name}={value:#x}" for name, value in self.as_dict().items()) + ")"

    @property
    def side(self) -> Side:
        """Whether these are the registers of an entry or of an exit."""
        return cast("Side", self._words[_SIDE])

    @property
    def arguments(self) -> tuple[int, ...]:
        """The six register arguments (meaningful at entry only)."""
        arguments: tuple[int, ...] = _pick_arguments(self._words)
        return arguments

    @property
    def overridden(self) -> bool:
        """Whether :meth:`override_return` was called."""
        return _OVERRIDDEN in (self._words[_ORIGINALS] or ())

    def as_dict(self) -> Registers:
        """A copy of all registers by name."""
        return dict(zip(_NAMES, _pick_all(self._words), strict=True))

    def return_value(self) -> int:
        """``regs_return_value()``: ax, unsigned."""
        return cast("int", self._words[_AX])

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
        originals: dict[int, int] | None = self._words[_ORIGINALS]
        if not originals:
            return {}
        changed = {_WORDS[i]: self._words[i] for i in originals if i >= 0 and self._words[i] != originals[i]}
        writes = {name: value for name, value in changed.items() if name in _EFFECTIVE[self.side]}
        if _OVERRIDDEN in originals:
            # The call never happens: the return slot is popped, all else stays as handlers left it.
            writes["ip"] = self._words[_RET_ADDR]
            writes["sp"] = (originals.get(_SP, self._words[_SP]) + 8) & MASK64
        return writes


def _register(index: int) -> property:
    return property(lambda regs: regs._words[index])


for _name in _NAMES:
    setattr(PtRegs, _name, _register(_INDEX[_name]))
# What PtRegs.__setattr__ does not let through.
_set_words = PtRegs.__dict__["_words"].__set__
