"""Pokes of a booting guest that its pads take by themselves: the host's side.

``ftrace_init()`` reads each location, finds ``call __fentry__`` there, and makes it a NOP: 37,000 reads and pokes.
What is planted stays as it is meanwhile, so nothing has to be done but to note that the guest's own instruction is a
NOP now. The filters (:mod:`.text_filter`) do that in the guest: they show the guest its call, take the poke, and leave
the location in a list.

Rule: a location above :attr:`.Zone.TAKES_ABOVE` has still its call, so that it may be shown. A poke that is taken moves
the bound up to its location, and so does all that the host does for the guest; ``ftrace_init()`` goes through them in
ascending order (kernel/trace/ftrace.c, ``ftrace_process_locs()``, 5.10 to 6.18). Another order costs questions only.
"""

from __future__ import annotations

from fprobe_gdb.dispatch.trampoline.shared_words import SharedWords
from fprobe_gdb.dispatch.trampoline.zone import Zone
from fprobe_gdb.target.guest_ram import GuestRam

__all__ = ["EarlyPokes"]

_UPPER_HALF = 0xFFFFFFFF << 32


class EarlyPokes:
    """The list, and between which addresses locations get there: nowhere at first."""

    def __init__(self, ram: GuestRam, zone: Zone) -> None:
        self._words = SharedWords(ram, zone)
        self._list = ram.part(zone.physical_of(zone.word(Zone.TAKEN_LIST)), Zone.MAX_TAKEN * 4).cast("I")
        self._allowed = False

    @property
    def allowed(self) -> bool:
        """Whether the guest boots, on one CPU, so that pads may take pokes."""
        return self._allowed

    @allowed.setter
    def allowed(self, allowed: bool) -> None:
        self._allowed = allowed
        if not allowed:
            self._words[Zone.TAKES_BELOW] = 0

    def open(self, above: int, below: int) -> None:
        """Let pads take pokes of locations between two addresses; they are allowed to. The guest is stopped."""
        assert self._allowed
        self._words[Zone.TAKES_ABOVE], self._words[Zone.TAKES_BELOW] = above, below

    def raise_to(self, addr: int) -> None:
        """Something that begins below this address is not as it was any more."""
        if self._allowed:
            self._words[Zone.TAKES_ABOVE] = max(self._words[Zone.TAKES_ABOVE], addr)

    def take(self) -> list[int]:
        """Locations that have become NOPs since the last time."""
        count = self._words[Zone.TAKEN]
        if not count:
            return []
        self._words[Zone.TAKEN] = 0
        return [_UPPER_HALF | low for low in self._list[:count]]

    def close(self) -> None:
        """Let go of the memory."""
        self._list.release()
