"""Counting by key: order, bounds that lose no hit, and hostile text."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fprobe_gdb.errors import UsageError
from fprobe_gdb.output.aggregate import Figures
from fprobe_gdb.output.aggregate_count_by import OTHER, CountBy

KEYS = st.tuples(st.one_of(st.integers(-3, 3), st.sampled_from("abc")))


def test_text() -> None:
    counts = CountBy(["comm", "retval"])
    for key, times in ((("cat", 13), 4), (("sh", "-ENOENT"), 8), (("cat", 0), 4)):
        for _ in range(times):
            counts.add(key)
    counts.add(None)
    assert list(counts.lines()) == [
        "@comm, retval: 16 hits, 3 keys; 1 without a key",
        "comm  retval   hits",
        "sh    -ENOENT     8 |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|",
        "cat   0           4 |@@@@@@@@@@@@@@@@@@@@@@@@@@                          |",
        "cat   13          4 |@@@@@@@@@@@@@@@@@@@@@@@@@@                          |",
    ]


def test_values_by_key() -> None:
    counts = CountBy(["comm"], value_title="duration")
    for value in (5, -1, 10):
        counts.add(("cat",), value)
    head, titles, row = counts.lines()
    assert head == "@comm: 3 hits, 1 key"
    assert titles.split("  ") == ["comm", "hits", "sum duration", "min duration", "mean duration", "max duration"]
    assert row.split()[:6] == ["cat", "3", "14", "-1", "5", "10"]


def test_top_and_what_is_left_out() -> None:
    counts = CountBy(["pid"])
    for pid in range(30):
        for _ in range(pid + 1):
            counts.add((pid,))
    lines = list(counts.lines(top=3))
    assert [line.split()[0] for line in lines[2:-1]] == ["29", "28", "27"]
    assert lines[-1] == f"... and 27 more keys with {sum(range(1, 28))} hits"
    assert len(list(counts.lines(top=None))) == 32
    found = counts.as_dict(top=3)
    assert (found["keys_left_out"], found["hits_left_out"]) == (27, sum(range(1, 28)))


@given(st.lists(KEYS, max_size=60), st.integers(1, 6))
def test_no_hit_is_lost(keys: list[tuple[int | str]], max_keys: int) -> None:
    counts = CountBy(["x"], max_keys=max_keys)
    for key in keys:
        counts.add(key)
    exact = Counter(keys)
    rows = counts.rows()
    assert len(rows) == min(max_keys, len(exact))
    assert all(figures.count == exact[key] for key, figures in rows)
    assert counts.hits == len(keys)
    other = counts.as_dict()["other"]
    beyond = len(keys) - sum(figures.count for _, figures in rows)
    assert other == ({"count": beyond} if beyond else None)
    assert [figures.count for _, figures in rows] == sorted((figures.count for _, figures in rows), reverse=True)


def test_the_other_row() -> None:
    counts = CountBy(["comm", "pid"], max_keys=1)
    for key in (("a", 1), ("b", 2), ("c", 3), ("a", 1)):
        counts.add(key)
    assert [line.split()[0] for line in counts.lines()][2:] == ["a", OTHER]
    assert list(counts.lines())[-1].split()[1] == "2"


@given(st.lists(KEYS), st.lists(KEYS), st.integers(1, 8), st.integers(0, 9), st.integers(0, 9))
def test_what_somebody_else_has_counted(
    ones: list[tuple[int | str]], others: list[tuple[int | str]], max_keys: int, other: int, faults: int
) -> None:
    """Keys that are there already go on; of the others the most frequent ones have room."""
    counts, alone = CountBy(["x"], max_keys=max_keys), CountBy(["x"], max_keys=max_keys)
    for key in ones:
        counts.add(key)
        alone.add(key)
    more = Counter(others)
    counts.merge(more, other=other, faults=faults)
    assert counts.hits == len(ones) + len(others) + other
    assert counts.faults == faults
    before, after = ({key: of.count for key, of in it.rows()} for it in (alone, counts))
    assert before.keys() <= after.keys()
    assert all(count == before.get(key, 0) + more[key] for key, count in after.items())
    told, untold = (
        [more[key] for key in after.keys() - before.keys()],
        [more[key] for key in more.keys() - after.keys()],
    )
    assert min(told, default=0) >= max(untold, default=0) or len(before) == max_keys


def test_keys_from_the_guest_are_harmless() -> None:
    counts = CountBy(["comm"])
    counts.add(("\x1b[2Jevil\n",))
    counts.add(("\udcff",))
    counts.add(("x" * 500,))
    text = "\n".join(counts.lines())
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) < 140
    assert json.dumps(counts.as_dict(), ensure_ascii=False).encode()


def test_what_makes_no_sense() -> None:
    with pytest.raises(UsageError):
        CountBy([])
    with pytest.raises(UsageError):
        CountBy(["x"], max_keys=0)


@given(st.lists(st.integers()), st.lists(st.integers()))
def test_figures_are_exact_and_merge(ones: list[int], others: list[int]) -> None:
    first, second = Figures(), Figures()
    for value in ones:
        first.add(value)
    for value in others:
        second.add(value)
    first.merge(second)
    both = ones + others
    assert (first.count, first.total) == (len(both), sum(both))
    if both:
        assert (first.min, first.max) == (min(both), max(both))
        assert first.mean is not None
        assert abs(first.mean * len(both) - sum(both)) * 2 <= len(both)
    else:
        assert first.mean is None
