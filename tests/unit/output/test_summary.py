"""SummaryBuilder against arithmetic that keeps everything."""

from collections import defaultdict
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fprobe_gdb.errors import UsageError
from fprobe_gdb.events import ExitEvent, LostEvent, MissedEvent, MissReason
from fprobe_gdb.output.summary import CallCounters, SummaryBuilder
from tests.unit.output.made_up_events import CONSOLE, ENTRY, EXIT, LOST, MISSED, SUMMARY
from tests.unit.output.properties import PROPERTY

FUNCS = st.sampled_from(["vfs_read", "vfs_write", "vfs_open"])
EVENTS = st.lists(
    st.one_of(
        st.builds(lambda func: replace(ENTRY, func=func), FUNCS),
        st.builds(lambda func, ns: replace(EXIT, func=func, duration_ns=ns), FUNCS, st.integers(0, 2**62)),
        st.builds(lambda func, reason: replace(MISSED, func=func, reason=reason), FUNCS, st.sampled_from(MissReason)),
        st.builds(lambda func, count: replace(LOST, func=func, count=count), FUNCS, st.integers(1, 1000)),
        st.just(CONSOLE),
        st.just(SUMMARY),
    )
)


def build(*events, host_ns=0, counters=None):
    builder = SummaryBuilder()
    for event in events:
        builder.write(event)
    builder.close()
    return builder.build(host_ns=host_ns, ended="timeout", command_status=None, dispatch="fake", counters=counters)


@PROPERTY
@given(EVENTS)
def test_against_a_model_that_keeps_all_events(events):
    by_func = defaultdict(list)
    for event in events:
        if event not in (CONSOLE, SUMMARY):
            by_func[event.func].append(event)
    summary = build(*events)
    assert {row.func for row in summary.functions} == set(by_func)
    for row in summary.functions:
        own = by_func[row.func]
        missed = [event.reason for event in own if isinstance(event, MissedEvent)]
        durations = [event.duration_ns for event in own if isinstance(event, ExitEvent)]
        assert row.hits == sum(type(event) is type(ENTRY) for event in own)
        assert row.exits_missed == missed.count(MissReason.EXIT_RECURSION)
        assert row.missed == len(missed) - row.exits_missed
        assert row.lost == sum(event.count for event in own if isinstance(event, LostEvent))
        assert row.exits == len(durations)
        if durations:
            assert (row.min_ns, row.max_ns) == (min(durations), max(durations))
            assert abs(row.mean_ns - Fraction(sum(durations), len(durations))) <= Fraction(1, 2)
        else:
            assert (row.min_ns, row.mean_ns, row.max_ns) == (None, None, None)


@PROPERTY
@given(EVENTS)
def test_totals_and_order(events):
    summary = build(*events)
    assert summary.hits == sum(row.hits for row in summary.functions)
    assert summary.missed == sum(row.missed for row in summary.functions)
    assert summary.lost == sum(row.lost for row in summary.functions)
    assert summary.exits == sum(row.exits for row in summary.functions)
    assert summary.exits_missed == sum(row.exits_missed for row in summary.functions)
    assert list(summary.functions) == sorted(summary.functions, key=lambda row: (-row.hits, row.func))


def test_a_refused_exit_handler_is_not_another_call():
    # One call: counted as a hit at its entry, then its exit handler was refused.
    summary = build(ENTRY, replace(MISSED, reason=MissReason.EXIT_RECURSION))
    assert (summary.hits, summary.missed, summary.lost, summary.exits_missed) == (1, 0, 0, 1)


def test_a_lost_record_may_stand_for_many_calls():
    assert build(replace(LOST, count=1000), ENTRY).lost == 1000


def test_mean_is_rounded_to_the_nearest():
    # 10 + 11 + 11 = 32; a third of it is 10.67.
    exits = [replace(EXIT, duration_ns=ns) for ns in (10, 11, 11)]
    assert build(*exits).functions[0].mean_ns == 11


def test_host_time_is_shared_by_entries_and_exits_and_refusals():
    # Entry, exit and miss each had the host's attention; the lost one had not.
    assert build(ENTRY, EXIT, MISSED, LOST, host_ns=9_000).host_ns_per_hit == 3_000


def test_no_hits_no_cost():
    assert build(CONSOLE, host_ns=9_000).host_ns_per_hit is None


def test_counters_stand_in_place_of_events_but_durations_stay():
    counters = {"vfs_read": CallCounters(hits=10, lost=5, exits=4), "vfs_open": CallCounters()}
    summary = build(ENTRY, EXIT, replace(ENTRY, func="vfs_write"), counters=counters)
    assert [(row.func, row.hits, row.lost, row.max_ns) for row in summary.functions] == [
        ("vfs_read", 10, 5, 12_900),
        ("vfs_write", 1, 0, None),
        ("vfs_open", 0, 0, None),
    ]


@pytest.mark.parametrize(("host_ns", "hits"), [(-1, 0), (0, -1)])
def test_negative_figures_are_refused(host_ns, hits):
    with pytest.raises(UsageError, match="below zero"):
        build(ENTRY, host_ns=host_ns, counters={"vfs_open": CallCounters(hits=hits)})


def test_building_twice_and_going_on():
    builder = SummaryBuilder()
    builder.write(ENTRY)
    first = builder.build(host_ns=0, ended="interrupted", command_status=None, dispatch="fake")
    builder.write(ENTRY)
    assert (first.hits, builder.hits) == (1, 2)
