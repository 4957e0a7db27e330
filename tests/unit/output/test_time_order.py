"""What comes late is put in its place, however much there is."""

from __future__ import annotations

import random
import tempfile

import pytest

from fprobe_gdb.errors import OutputError
from fprobe_gdb.output.time_order import TimeOrder


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 20, 1_234])
@pytest.mark.parametrize("times", [1, 7, 1_000_000])
def test_the_order_is_that_of_sorted(count: int, times: int) -> None:
    """Stable where times are equal, in memory and beyond it."""
    chance = random.Random(count)
    things = [(chance.randrange(times), number) for number in range(count)]
    kept: TimeOrder[int] = TimeOrder(most=10)
    for time_ns, number in things:
        kept.add(time_ns, number)
    assert list(kept.release()) == [number for _, number in sorted(things, key=lambda thing: thing[0])]
    assert list(kept.release()) == []


def test_a_disk_without_room_is_an_error_of_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    kept: TimeOrder[str] = TimeOrder(most=2)
    kept.add(1, "a")
    with pytest.raises(OutputError, match=r"temporary files in .*: No space left on device"):
        kept.add(2, "b")
