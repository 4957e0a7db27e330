"""What typed values see of a guest: a way to read, and a number that says whether they are still valid."""

from __future__ import annotations

from collections.abc import Callable

from fprobe_gdb.errors import MemoryFault, StaleValue

__all__ = ["GuestMemory"]

_ADDRESSES = 1 << 64
_PAGE_BYTES = 4096
_CHUNK_BYTES = 256
# No C object of a kernel is larger; damaged types claim anything.
_MAX_READ_BYTES = 16 << 20


class GuestMemory:
    """A stopped guest's memory.

    :param read: (address, size in bytes) to bytes; raises :class:`~fprobe_gdb.errors.MemoryFault`.
    :param epoch: a number that changes when the guest runs on. Without it, values do not grow stale.
    """

    __slots__ = ("_epoch", "_read")

    def __init__(self, read: Callable[[int, int], bytes], epoch: Callable[[], int] | None = None) -> None:
        self._read = read
        self._epoch = epoch

    @property
    def epoch(self) -> int:
        """The number of the present stop."""
        return self._epoch() if self._epoch else 0

    def read(self, addr: int, size_bytes: int, epoch: int) -> bytes:
        """Bytes of guest memory. One exchange.

        :param epoch: that of the value which asks.
        :raise MemoryFault: some of it is not mapped.
        :raise StaleValue: the guest has run on since then.
        """
        if epoch != self.epoch:
            raise StaleValue(
                "this value was made at an earlier stop of the guest, which has run on since; read what you need "
                "in the handler, or keep a copy() of the value"
            )
        if size_bytes == 0:
            return b""
        if size_bytes > _MAX_READ_BYTES or not 0 <= addr <= _ADDRESSES - size_bytes:
            raise MemoryFault(addr, size_bytes)
        data = self._read(addr, size_bytes)
        if len(data) != size_bytes:
            raise MemoryFault(addr, size_bytes)
        return data

    def read_string(self, addr: int, max_bytes: int, epoch: int) -> bytes:
        """Bytes up to the first zero byte, without it, ``max_bytes`` at most; no page is touched before it is needed.

        :raise MemoryFault: the string runs into what is not mapped.
        :raise StaleValue: the guest has run on since then.
        """
        found = b""
        while len(found) < max_bytes:
            at = addr + len(found)
            size_bytes = min(_CHUNK_BYTES, _PAGE_BYTES - at % _PAGE_BYTES, max_bytes - len(found))
            chunk = self.read(at, size_bytes, epoch)
            text, end, _ = chunk.partition(b"\0")
            found += text
            if end:
                break
        return found
