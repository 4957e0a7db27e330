"""Which addresses hold a breakpoint, and why. One breakpoint serves all the reasons of an address."""

from __future__ import annotations

from enum import Flag, auto

from fprobe_gdb.target.base import BreakpointKind, Target

__all__ = ["Plants", "Role"]


class Role(Flag):
    """What an address is watched for."""

    NONE = 0
    #: ftrace location of a probed function.
    ENTRY = auto()
    #: Return address of at least one call in flight.
    RETURN = auto()
    #: Where a guest function that a handler called comes back to.
    LANDING = auto()
    #: ``do_task_dead``: its caller never runs again.
    TASK_DEAD = auto()
    #: A function of the guest that we listen to for ourselves (:attr:`.BreakpointDispatch.watches`).
    WATCH = auto()


class Plants:
    """The breakpoints of one target, by address."""

    def __init__(self, target: Target, kind: BreakpointKind) -> None:
        self._target = target
        self.kind = kind
        self._roles: dict[int, Role] = {}

    def __contains__(self, addr: int) -> bool:
        return addr in self._roles

    def __len__(self) -> int:
        return len(self._roles)

    def roles(self, addr: int) -> Role:
        """Why an address is planted; ``Role.NONE`` when it is not."""
        return self._roles.get(addr, Role.NONE)

    def add(self, addr: int, role: Role) -> None:
        """Watch an address for one more reason. The guest is stopped.

        :raise BreakpointRefused: when the stub has none left; nothing has changed then.
        """
        before = self.roles(addr)
        if not before:
            self._target.insert_breakpoint(addr, self.kind)
        self._roles[addr] = before | role

    def drop(self, addr: int, role: Role) -> None:
        """Stop watching an address for one reason. The guest is stopped."""
        before = self.roles(addr)
        left = before & ~role
        if left:
            self._roles[addr] = left
        elif before:
            del self._roles[addr]
            self._target.remove_breakpoint(addr, self.kind)

    def clear(self) -> None:
        """Remove all breakpoints."""
        for addr in list(self._roles):
            self.drop(addr, self._roles[addr])
