"""How long the host sleeps between two looks at a guest that cannot ring, by a clock of its own."""

from __future__ import annotations

import time

import pytest

from emu.deadline import Deadline
from fprobe_gdb.dispatch.trampoline.dozing import Dozing


class Clock:
    """Time goes on only while somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ns = 10**12
        self.naps_sec: list[float] = []
        monkeypatch.setattr(time, "monotonic_ns", lambda: self.ns)
        monkeypatch.setattr(time, "monotonic", lambda: self.ns / 1e9)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.naps_sec.append(seconds)
        self.ns += int(seconds * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_hit_that_is_there_is_not_slept_over(clock: Clock) -> None:
    assert Dozing(lambda: True).doze(Deadline.never())
    assert clock.naps_sec == []


def test_soon_after_a_hit_naps_are_short(clock: Clock) -> None:
    dozing = Dozing(lambda: len(clock.naps_sec) == 3)
    dozing.busy_ns = clock.ns
    assert dozing.doze(Deadline.never())
    assert clock.naps_sec == [50e-6] * 3


def test_the_longer_nothing_comes_the_rarer_are_looks(clock: Clock) -> None:
    dozing = Dozing(lambda: False)
    dozing.busy_ns = clock.ns
    looks = []
    for _ in range(200):
        assert not dozing.doze(Deadline.never())
        looks.append((clock.naps_sec[-1], len(clock.naps_sec)))
    naps_sec = [nap_sec for nap_sec, _ in looks]
    assert naps_sec == sorted(naps_sec)
    assert naps_sec[-1] == 0.01
    # 50 ms for each doze in the end, in naps of 10.
    assert 5 <= looks[-1][1] - looks[-2][1] <= 6


def test_a_deadline_ends_it(clock: Clock) -> None:
    start_ns = clock.ns
    assert not Dozing(lambda: False).doze(Deadline(0.02))
    assert clock.ns - start_ns <= 0.031e9
