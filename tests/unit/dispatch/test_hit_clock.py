"""Guest time of hits and of records, by a counter that the guest may not have measured yet."""

from __future__ import annotations

import pytest

from fprobe_gdb.dispatch.clock import GuestClock
from fprobe_gdb.dispatch.trampoline import hit_clock
from fprobe_gdb.dispatch.trampoline.hit_clock import HitClock


class StoppedClock(GuestClock):
    """Guest time of a stopped guest, as the test says."""

    def __init__(self) -> None:
        self.time_ns = 0
        self.last_ns = 0

    def now_ns(self) -> int:
        return self.time_ns

    def ran(self, host_ns: int) -> None:
        pass


class Rig:
    """A guest's clocks: its own, what it has measured of its counter, and the host's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.khz = 0
        self.host_ns = 0
        self.stopped = StoppedClock()
        monkeypatch.setattr(hit_clock.time, "monotonic_ns", lambda: self.host_ns)
        self.clock = HitClock(self.stopped, lambda: self.khz)

    def record_ns(self, tsc: int) -> int:
        times = self.clock.records(tsc)
        assert times is not None
        return times.at_ns(tsc)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(monkeypatch)


def test_records_have_no_time_before_the_counter_is_measured(rig: Rig) -> None:
    rig.clock.resuming()
    assert rig.clock.records(5_000) is None
    rig.khz = 1_000_000
    rig.host_ns = 50
    assert rig.record_ns(5_000) == 50
    assert rig.record_ns(5_010) == 60


def test_times_of_records_do_not_go_back_at_a_stop(rig: Rig) -> None:
    """The first ones were taken late, those behind the stop at once."""
    rig.khz = 1_000_000
    rig.clock.resuming()
    rig.host_ns = 900
    assert rig.record_ns(1_000) == 900
    rig.clock.note_stop()
    rig.clock.resuming()
    assert rig.record_ns(1_001) == 901


def test_a_new_measurement_holds_from_the_newest_record_on(rig: Rig) -> None:
    rig.khz = 1_000_000
    rig.clock.resuming()
    rig.host_ns = 100
    assert rig.record_ns(1_000) == 100
    assert rig.record_ns(1_500) == 600
    rig.khz = 2_000_000
    rig.clock.settle()
    assert rig.record_ns(1_500) == 600
    assert rig.record_ns(1_700) == 700


def test_an_estimate_for_a_guest_that_never_measured(rig: Rig) -> None:
    rig.stopped.time_ns = 1_000
    rig.clock.resuming()
    rig.host_ns = 500
    times = rig.clock.estimate(oldest_tsc=0, newest_tsc=1_000)
    assert [times.at_ns(tsc) for tsc in (0, 500, 1_000)] == [1_000, 1_250, 1_500]
