"""The registers of a hit as a handler sees them: ``struct pt_regs *``, and which writes take effect."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from fprobe_gdb.registers import ARGUMENT_REGISTERS, GENERAL_REGISTERS, MASK64, Registers

__all__ = ["PtRegs", "Side"]


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
_FROM_CPU = frozenset((*GENERAL_REGISTERS, "flags"))
_NAMES = (*GENERAL_REGISTERS, "ip", "flags", "cs", "ss", "orig_ax")
# arch/x86/include/asm/segment.h: what both trampolines store as __KERNEL_CS and __KERNEL_DS.
_KERNEL_CS, _KERNEL_SS = 0x10, 0x18


class PtRegs:
    """``struct pt_regs``: ``regs.di``, ``regs.ax``, ``regs.ip`` ... as unsigned 64-bit integers, readable and writable.

    At entry writes to all general registers but ``r11`` and ``sp``, to ``flags`` and to ``ip`` take effect; at exit all
    general registers but ``sp``, and ``flags`` (a changed ``ax`` is a changed return value). As in the kernel, other
    writes are seen by the handlers that follow and by nobody else.

    :param values: the vCPU's registers at the hit; kept and not changed. They are looked up when somebody asks.
    :param ip: what ``regs.ip`` shows: behind the fentry instruction at entry, the return address at exit.
    :param ret_addr: where the function returns to (for :meth:`override_return`).
    """

    __slots__ = ("_fixed", "_overridden", "_ret_addr", "_side", "_values", "_writes")

    # What the vCPU had, never changed; what pt_regs shows instead; and what handlers have written.
    _values: Mapping[str, int]
    _fixed: Registers
    _writes: Registers
    _side: Side
    _ret_addr: int
    _overridden: bool
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

    def __init__(self, values: Mapping[str, int], side: Side, ip: int, ret_addr: int) -> None:
        fill = object.__setattr__
        fill(self, "_values", values)
        # ftrace_regs_caller stores 0 as orig_ax, arch_rethook_trampoline ~0.
        orig_ax = 0 if side is Side.ENTRY else MASK64
        fill(self, "_fixed", {"ip": ip, "cs": _KERNEL_CS, "ss": _KERNEL_SS, "orig_ax": orig_ax})
        fill(self, "_writes", {})
        fill(self, "_side", side)
        fill(self, "_ret_addr", ret_addr)
        fill(self, "_overridden", False)

    def __getattr__(self, name: str) -> int:
        if name.startswith("_"):
            # A half-made copy, which has none of these yet.
            raise AttributeError(name)
        if name in self._writes:
            return self._writes[name]
        if name in self._fixed:
            return self._fixed[name]
        if name in _FROM_CPU:
            return self._values[name]
        raise AttributeError(f"pt_regs has no {name!r}; it has {', '.join(_NAMES)}")

    def __setattr__(self, name: str, value: int) -> None:
        if name not in _FROM_CPU and name not in self._fixed:
            raise AttributeError(f"pt_regs has no {name!r}; it has {', '.join(_NAMES)}")
        self._writes[name] = int(value) & MASK64

    # The default copy asks a half-made object for its attributes, which __getattr__ answers from what is not there yet.
    def __copy__(self) -> PtRegs:
        made = object.__new__(PtRegs)
        for slot in self.__slots__:
            value = getattr(self, slot)
            object.__setattr__(made, slot, dict(value) if isinstance(value, dict) else value)
        return made

    def __deepcopy__(self, memo: dict[int, object]) -> PtRegs:
        return self.__copy__()

    def __repr__(self) -> str:
        return "PtRegs(" + ", ".join(f"{name}={getattr(self, name):#x}" for name in _NAMES) + ")"

    @property
    def side(self) -> Side:
        """Whether these are the registers of an entry or of an exit."""
        return self._side

    @property
    def arguments(self) -> tuple[int, ...]:
        """The six register arguments (meaningful at entry only)."""
        return tuple(getattr(self, name) for name in ARGUMENT_REGISTERS)

    @property
    def overridden(self) -> bool:
        """Whether :meth:`override_return` was called."""
        return self._overridden

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
        if self._side is Side.ENTRY:
            object.__setattr__(self, "_overridden", True)

    def take_effective_writes(self) -> Registers:
        """Registers that the guest must get, by name."""
        if self._overridden:
            # The call never happens: the return slot is popped, all else stays as handlers left it.
            writes = self._changed(_EFFECTIVE[Side.ENTRY] - {"ip"})
            writes["ip"] = self._ret_addr
            writes["sp"] = (self._values["sp"] + 8) & MASK64
            return writes
        return self._changed(_EFFECTIVE[self._side]) if self._writes else {}

    def _changed(self, names: frozenset[str]) -> Registers:
        written = ((name, value) for name, value in sorted(self._writes.items()) if name in names)
        return {name: value for name, value in written if value != self._original(name)}

    def _original(self, name: str) -> int:
        return self._fixed[name] if name in self._fixed else self._values[name]
