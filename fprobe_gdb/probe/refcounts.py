"""Reference counts on addresses that remember what has changed since somebody last looked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

__all__ = ["RefCounts"]


class RefCounts:
    """How many users each address has. :meth:`take` tells which addresses gained a first or lost their last user."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        # What take() has told so far.
        self._told: set[int] = set()
        self._touched: set[int] = set()

    def add(self, addrs: Iterable[int]) -> None:
        """One more user for each address."""
        for addr in addrs:
            self._counts[addr] += 1
            self._touched.add(addr)

    def drop(self, addrs: Iterable[int]) -> None:
        """One user less for each address."""
        for addr in addrs:
            self._counts[addr] -= 1
            assert self._counts[addr] >= 0, f"{addr:#x} dropped more often than added"
            if not self._counts[addr]:
                del self._counts[addr]
            self._touched.add(addr)

    def take(self) -> tuple[set[int], set[int]]:
        """Addresses that are used now and were not at the last call, and the other way round."""
        used = {addr for addr in self._touched if addr in self._counts}
        added = used - self._told
        removed = (self._touched - used) & self._told
        self._told = (self._told | added) - removed
        self._touched.clear()
        return added, removed

    @property
    def changed(self) -> bool:
        """Whether :meth:`take` would give anything."""
        return any((addr in self._counts) != (addr in self._told) for addr in self._touched)

    def __len__(self) -> int:
        return len(self._counts)

    def __contains__(self, addr: int) -> bool:
        return addr in self._counts
