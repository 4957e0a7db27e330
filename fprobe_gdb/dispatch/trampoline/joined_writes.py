"""Many small writes to text as fewer larger ones, with what lies between them. Pure.

A write through the debugger costs as much as some hundred bytes of it, and makes QEMU look through all that it has
translated of the page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

__all__ = ["joined_writes"]

_PAGE_BYTES = 4096
# What lies between two writes costs no more than another write does.
_GAP_BYTES = 256
# Half of the packets of every QEMU holds so much.
_LONGEST_BYTES = 1024

Read = Callable[[int, int], bytes]


def joined_writes(writes: Sequence[tuple[int, bytes]], read: Read) -> list[tuple[int, bytes]]:
    """Join neighbours that lie in one page.

    :param writes: address and bytes, in ascending order, none over another one.
    :param read: reads memory as it is now; what lies between two writes of a page can be read.
    :raise MemoryFault: as ``read``.
    """
    return [_joined(run, read) if len(run) > 1 else run[0] for run in _runs(writes)]


def _joined(run: Sequence[tuple[int, bytes]], read: Read) -> tuple[int, bytes]:
    start = run[0][0]
    data = bytearray(read(start, _end(run[-1]) - start))
    for addr, code in run:
        data[addr - start : addr - start + len(code)] = code
    return start, bytes(data)


# Neighbours that are to be joined.
def _runs(writes: Sequence[tuple[int, bytes]]) -> Iterator[Sequence[tuple[int, bytes]]]:
    first = 0
    for number in range(1, len(writes) + 1):
        if number == len(writes) or not _is_near(writes[first], writes[number - 1], writes[number]):
            yield writes[first:number]
            first = number


def _is_near(first: tuple[int, bytes], last: tuple[int, bytes], write: tuple[int, bytes]) -> bool:
    end = _end(write)
    return (
        write[0] - _end(last) <= _GAP_BYTES
        and end - first[0] <= _LONGEST_BYTES
        and (end - 1) // _PAGE_BYTES == first[0] // _PAGE_BYTES
    )


def _end(write: tuple[int, bytes]) -> int:
    return write[0] + len(write[1])
