"""Things that have a time, given back in the order of their times at the end: the newest in memory, others in files."""

from __future__ import annotations

import contextlib
import heapq
import pickle
import tempfile
from collections.abc import Iterator
from operator import itemgetter
from typing import BinaryIO, Generic, TypeVar

from fprobe_gdb.errors import OutputError

__all__ = ["MOST_IN_MEMORY", "TimeOrder"]

#: 30 MB of lines, or so.
MOST_IN_MEMORY = 100_000
_PIECE = 1_000
_time_of = itemgetter(0)

T = TypeVar("T")


class TimeOrder(Generic[T]):
    """Keeps things. Its files have no name, and are gone with the process.

    :param most: how many there are in memory.
    """

    def __init__(self, most: int = MOST_IN_MEMORY) -> None:
        self._most = most
        self._newest: list[tuple[int, T]] = []
        self._files: list[BinaryIO] = []

    def add(self, time_ns: int, thing: T) -> None:
        """Keep one.

        :raise OutputError: there is no room for a file.
        """
        self._newest.append((time_ns, thing))
        if len(self._newest) >= self._most:
            with _told():
                self._write_out()

    def release(self) -> Iterator[T]:
        """All of them; what has the same time in the order in which it came. Nothing is kept any more.

        :raise OutputError: a file cannot be read.
        """
        with _told():
            self._newest.sort(key=_time_of)
            # Stable, too: the files are older, one after the other.
            for _, thing in heapq.merge(*map(_read, self._files), self._newest, key=_time_of):
                yield thing
        self.close()

    def close(self) -> None:
        """Forget all."""
        for file in self._files:
            file.close()
        self._files.clear()
        self._newest.clear()

    def _write_out(self) -> None:
        self._newest.sort(key=_time_of)
        file = tempfile.TemporaryFile()  # noqa: SIM115
        self._files.append(file)
        for at in range(0, len(self._newest), _PIECE):
            pickle.dump(self._newest[at : at + _PIECE], file)
        file.seek(0)
        self._newest.clear()


def _read(file: BinaryIO) -> Iterator[tuple[int, T]]:
    with contextlib.suppress(EOFError):
        while True:
            yield from pickle.load(file)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"temporary files in {tempfile.gettempdir()}", error.strerror or str(error)) from error
