"""Reference counts on addresses that remember what has changed since somebody last looked."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["RefCounts"]


class RefCounts:
    """How many users each address has. :meth:`take` tells which addresses gained a first or lost their last user."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        # What take() has told so far.
        self._told: set[int] = set()
        #: Addresses that :meth:`take` will look at, always the same set.
        self.touched: set[int] = set()

    def add(self, addrs: Iterable[int]) -> None:
        """One more user for each address."""
        for addr in addrs:
            self.add_one(addr)

    def add_one(self, addr: int) -> None:
        """One more user."""
        self._counts[addr] = self._counts.get(addr, 0) + 1
        self.touched.add(addr)

    def drop(self, addrs: Iterable[int]) -> None:
        """One user less for each address."""
        for addr in addrs:
            self.drop_one(addr)

    def drop_one(self, addr: int) -> None:
        """One user less."""
        left = self._counts.get(addr, 0) - 1
        assert left >= 0, f"{addr:#x} dropped more often than added"
        if left:
            self._counts[addr] = left
        else:
            del self._counts[addr]
        self.touched.add(addr)

    def take(self) -> tuple[set[int], set[int]]:
        """Addresses that are used now and were not at the last call, and the other way round."""
        used = {addr for addr in self.touched if addr in self._counts}
        added = used - self._told
        removed = (self.touched - used) & self._told
        self._told = (self._told | added) - removed
        self.touched.clear()
        return added, removed

    @property
    def changed(self) -> bool:
        """Whether :meth:`take` would give anything."""
        # Most often nothing was, and this is asked at each hit.
        return bool(self.touched) and any((addr in self._counts) != (addr in self._told) for addr in self.touched)

    def __len__(self) -> int:
        return len(self._counts)

    def __contains__(self, addr: int) -> bool:
        return addr in self._counts
