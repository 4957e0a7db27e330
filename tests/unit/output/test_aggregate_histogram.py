"""Histograms: the edges of buckets, text as bpftrace prints it, figures for JSON."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fprobe_gdb.errors import UsageError
from fprobe_gdb.output.aggregate import Figures
from fprobe_gdb.output.aggregate_histogram import Bucket, Histogram, LinearBuckets, PowerOfTwoBuckets


def only_label(value: int) -> str:
    histogram = Histogram("x")
    histogram.add(value)
    ((bucket, count),) = histogram.rows()
    assert count == 1
    return bucket.label


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (-(2**63), "(..., 0)"),
        (-1, "(..., 0)"),
        (0, "[0]"),
        (1, "[1]"),
        (2, "[2, 4)"),
        (3, "[2, 4)"),
        (4, "[4, 8)"),
        (511, "[256, 512)"),
        (512, "[512, 1K)"),
        (1023, "[512, 1K)"),
        (1024, "[1K, 2K)"),
        (2**20 - 1, "[512K, 1M)"),
        (2**20, "[1M, 2M)"),
        (2**63 - 1, "[4E, 8E)"),
        (2**63, "[8E, 16E)"),
        (2**64 - 1, "[8E, 16E)"),
        (2**64, "[16E, 32E)"),
    ],
)
def test_buckets_of_powers_of_two(value: int, label: str) -> None:
    assert only_label(value) == label


@given(st.integers(-(2**64), 2**64))
def test_every_number_is_in_its_bucket(value: int) -> None:
    for buckets in (PowerOfTwoBuckets(), LinearBuckets(-50, 100, 10)):
        index = buckets.index(value)
        found, below = buckets.bucket(index), buckets.bucket(index - 1)
        assert found.low is None or found.low <= value
        assert found.high is None or value < found.high
        assert found.low is None or below.high == found.low


def test_text() -> None:
    histogram = Histogram("count")
    for value, times in ((0, 2), (5, 12), (20, 1)):
        for _ in range(times):
            histogram.add(value)
    histogram.add(None)
    assert list(histogram.lines()) == [
        "@count: 15 values, mean 5, 0 to 20; 1 without a value",
        "[0]        2 |@@@@@@@@                                            |",
        "[1]        0 |                                                    |",
        "[2, 4)     0 |                                                    |",
        "[4, 8)    12 |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|",
        "[8, 16)    0 |                                                    |",
        "[16, 32)   1 |@@@@                                                |",
    ]


@given(st.lists(st.integers(-9, 1 << 64)), st.lists(st.integers(-9, 1 << 64)))
def test_what_somebody_else_has_put_into_buckets(ones: list[int], others: list[int]) -> None:
    merged, alone, buckets, figures = Histogram("x"), Histogram("x"), PowerOfTwoBuckets(), Figures()
    for value in ones:
        merged.add(value)
        alone.add(value)
    for value in others:
        figures.add(value)
        alone.add(value)
    alone.add(None)
    merged.merge(Counter(map(buckets.index, others)), figures, faults=1)
    assert merged.as_dict() == alone.as_dict()


def test_a_rare_value_keeps_a_mark() -> None:
    histogram = Histogram("x")
    histogram.add(0)
    for _ in range(1000):
        histogram.add(1)
    assert [line.count("@") for line in histogram.lines()] == [1, 1, 52]


def test_without_values() -> None:
    histogram = Histogram("a\x1bb")
    assert list(histogram.lines()) == ["@a\\x1bb: no values"]
    assert histogram.as_dict()["min"] is None


def test_json() -> None:
    histogram = Histogram("retval")
    for value in (-2, 0, 2**63):
        histogram.add(value)
    found = json.loads(json.dumps(histogram.as_dict()))
    assert found["type"] == "histogram"
    assert (found["count"], found["min"], found["max"], found["sum"]) == (3, -2, 2**63, 2**63 - 2)
    assert found["buckets"][:2] == [{"low": None, "high": 0, "count": 1}, {"low": 0, "high": 1, "count": 1}]
    assert found["buckets"][-1] == {"low": 2**63, "high": 2**64, "count": 1}
    assert sum(bucket["count"] for bucket in found["buckets"]) == 3


def test_linear_buckets() -> None:
    buckets = LinearBuckets(0, 100, 25)
    assert [buckets.index(value) for value in (-1000, -1, 0, 24, 25, 99, 100, 10**9)] == [-1, -1, 0, 0, 1, 3, 4, 4]
    assert [buckets.bucket(index) for index in (-1, 0, 4)] == [
        Bucket(None, 0, "(..., 0)"),
        Bucket(0, 25, "[0, 25)"),
        Bucket(100, None, "[100, ...)"),
    ]


@pytest.mark.parametrize("range_", [(0, 100, 0), (0, 100, -1), (5, 5, 1), (9, 5, 1), (0, 100, 30), (0, 10**6, 1)])
def test_linear_buckets_that_make_no_sense(range_: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match="cannot be made"):
        LinearBuckets(*range_)
