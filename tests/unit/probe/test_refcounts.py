"""Reference counts on planted addresses."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fprobe_gdb.probe.refcounts import RefCounts


def test_address_is_told_at_its_first_and_after_its_last_user() -> None:
    counts = RefCounts()
    counts.add([1, 2])
    counts.add([2])
    assert counts.take() == ({1, 2}, set())
    counts.drop([1, 2])
    assert counts.take() == (set(), {1})
    assert (1 in counts, 2 in counts, len(counts)) == (False, True, 1)


def test_address_that_came_and_went_between_two_looks_is_not_told() -> None:
    counts = RefCounts()
    counts.add([1])
    counts.drop([1])
    assert counts.take() == (set(), set())
    counts.add([1])
    counts.take()
    counts.drop([1])
    counts.add([1])
    assert counts.take() == (set(), set())


def test_address_dropped_more_often_than_added_is_a_bug_of_ours() -> None:
    with pytest.raises(AssertionError, match="0x1 dropped more often"):
        RefCounts().drop([1])


@given(st.lists(st.tuples(st.sampled_from(["add", "drop", "take"]), st.integers(0, 3)), max_size=30))
@settings(max_examples=60)
def test_who_obeys_every_change_has_exactly_the_used_addresses_planted(steps: list[tuple[str, int]]) -> None:
    counts = RefCounts()
    used: list[int] = []
    planted: set[int] = set()
    for what, addr in [*steps, ("take", 0)]:
        if what == "add":
            counts.add([addr])
            used.append(addr)
        elif what == "drop" and addr in used:
            counts.drop([addr])
            used.remove(addr)
        elif what == "take":
            added, removed = counts.take()
            assert not added & planted
            assert removed <= planted
            planted = (planted | added) - removed
            assert planted == set(used)
