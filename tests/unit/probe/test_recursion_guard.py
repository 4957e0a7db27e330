"""``trace_test_and_set_recursion()``, alone and through the core, in all four contexts."""

from __future__ import annotations

import pytest

from fprobe_gdb.events import MissReason
from fprobe_gdb.probe.fprobe import Fprobe
from fprobe_gdb.probe.recursion import Context, RecursionGuard, context_of
from tests.unit.probe.scripted_guest import OTHER_TASK, ScriptedGuest


def ignore(*_: object) -> None:
    """A handler."""


@pytest.mark.parametrize("context", Context)
def test_guard_lets_one_nested_entry_in_and_refuses_the_third_level(context: Context) -> None:
    guard = RecursionGuard()
    first = guard.trylock(1, context)
    second = guard.trylock(1, context)
    assert first == 1 << context
    assert second is not None
    assert guard.trylock(1, context) is None
    guard.unlock(1, second)
    assert guard.trylock(1, context) == second


def test_guard_has_one_transition_bit_for_all_contexts() -> None:
    guard = RecursionGuard()
    for context in Context:
        assert guard.trylock(1, context) == 1 << context
    assert guard.trylock(1, Context.HARDIRQ) is not None
    for context in Context:
        assert guard.trylock(1, context) is None


def test_guard_gives_back_the_bit_that_was_taken() -> None:
    guard = RecursionGuard()
    outer, inner = guard.trylock(1, Context.NORMAL), guard.trylock(1, Context.NORMAL)
    assert outer is not None
    assert inner is not None
    guard.unlock(1, outer)
    # The context's bit is free, TRANSITION is not.
    assert guard.trylock(1, Context.NORMAL) == outer
    assert guard.trylock(1, Context.NORMAL) is None


def test_guard_is_per_task() -> None:
    guard = RecursionGuard()
    for task in (1, 2):
        assert guard.trylock(task, Context.NORMAL) is not None
        assert guard.trylock(task, Context.NORMAL) is not None
        assert guard.trylock(task, Context.NORMAL) is None


@pytest.mark.parametrize(
    ("preempt_count", "context"),
    [
        (0, Context.NORMAL),
        (0x7F, Context.NORMAL),
        (0x80000000, Context.NORMAL),
        (0x200, Context.NORMAL),  # softirqs disabled, none served
        (0x100, Context.SOFTIRQ),
        (0x301, Context.SOFTIRQ),
        (0x10000, Context.HARDIRQ),
        (0xF0000, Context.HARDIRQ),
        (0x10100, Context.HARDIRQ),
        (0x100000, Context.NMI),
        (0xF00000, Context.NMI),
        (0x110101, Context.NMI),
        (0x1000000, Context.NORMAL),
    ],
)
def test_interrupt_context_level_of_a_preempt_count(preempt_count: int, context: Context) -> None:
    assert context_of(preempt_count) is context


# Section: through the core


@pytest.mark.parametrize("context", Context)
def test_handler_that_calls_its_own_function_runs_twice_nmissed_1(guest: ScriptedGuest, context: Context) -> None:
    fprobe = Fprobe(lambda *_: guest.call("f", context=context) and None)
    guest.core.register_fprobe(fprobe, "f")
    guest.call("f", context=context)
    assert (fprobe.hits, fprobe.nmissed, fprobe.lost) == (2, 1, 0)
    assert guest.misses == [(fprobe, guest.kernel.ip("f"), MissReason.RECURSION)]


def test_handler_nested_in_another_fprobes_handler_counts_as_recursion_too(guest: ScriptedGuest) -> None:
    """The guard is the task's, not the fprobe's."""
    first = Fprobe(lambda *_: guest.call("g") and None)
    second = Fprobe(lambda *_: guest.call("h") and None)
    third = Fprobe()
    for fprobe, name in ((first, "f"), (second, "g"), (third, "h")):
        guest.core.register_fprobe(fprobe, name)
    guest.call("f")
    assert (first.hits, second.hits, third.hits, third.nmissed) == (1, 1, 0, 1)


def test_interrupts_of_rising_context_are_each_let_in(guest: ScriptedGuest) -> None:
    """NORMAL, softirq, hardirq and NMI, each interrupting the handler of the one before; then TRANSITION, once."""
    rising = [Context.SOFTIRQ, Context.HARDIRQ, Context.NMI, Context.NMI, Context.NMI]

    def interrupted(*_: object) -> None:
        if rising:
            guest.call("f", context=rising.pop(0))

    fprobe = Fprobe(interrupted, ignore, nr_maxactive=16)
    guest.core.register_fprobe(fprobe, "f")
    guest.call("f")
    assert (fprobe.hits, fprobe.exits, fprobe.nmissed) == (5, 5, 1)
    assert rising == []


@pytest.mark.parametrize("context", [Context.SOFTIRQ, Context.HARDIRQ, Context.NMI])
def test_interrupt_of_a_handler_at_the_transition_level_is_still_let_in(guest: ScriptedGuest, context: Context) -> None:
    steps = [Context.NORMAL, context, context]

    def nested(*_: object) -> None:
        if steps:
            guest.call("f", context=steps.pop(0))

    fprobe = Fprobe(nested)
    guest.core.register_fprobe(fprobe, "f")
    guest.call("f")
    # NORMAL, TRANSITION, the interrupt's own bit; the interrupt's second has no TRANSITION left.
    assert (fprobe.hits, fprobe.nmissed) == (3, 1)


def test_other_tasks_are_not_held_off_by_a_running_handler(guest: ScriptedGuest) -> None:
    def nested(*_: object) -> None:
        if fprobe.hits < 4:
            guest.call("f", task=OTHER_TASK + fprobe.hits * 0x4000)

    fprobe = Fprobe(nested, ignore)
    guest.core.register_fprobe(fprobe, "f")
    guest.call("f")
    assert (fprobe.hits, fprobe.exits, fprobe.nmissed) == (4, 4, 0)


def test_exit_handler_that_calls_its_own_function_takes_the_same_guard(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(exit_handler=lambda *_: guest.call("f"))
    guest.core.register_fprobe(fprobe, "f")
    guest.call("f")
    # Outer exit NORMAL; nested entry TRANSITION, given back; nested exit TRANSITION; the third entry finds none.
    assert (fprobe.hits, fprobe.exits, fprobe.nmissed, guest.reasons) == (2, 2, 1, [MissReason.RECURSION])


def test_refused_exit_handler_is_a_miss_that_is_no_call(guest: ScriptedGuest) -> None:
    """Version B's exits take the guard: nmissed counts them beside the calls."""
    busy = [Context.NORMAL]
    other = Fprobe(lambda *_: guest.call("g") if busy and busy.pop() is not None else guest.leave(call))
    fprobe = Fprobe(exit_handler=ignore)
    guest.core.register_fprobe(fprobe, "f")
    guest.core.register_fprobe(other, "g")
    call = guest.enter("f")
    guest.call("g")
    assert guest.misses == [(fprobe, guest.kernel.ip("f"), MissReason.EXIT_RECURSION)]
    assert (fprobe.hits, fprobe.exits, fprobe.nmissed, fprobe.exits_missed, fprobe.calls) == (1, 0, 1, 1, 1)
    assert guest.core.calls_in_flight == 0


# Section: ftrace's list function


def test_list_function_drops_the_third_level_uncounted_6_runs_nmissed_0(guest: ScriptedGuest) -> None:
    runs: list[Fprobe] = []

    def nested(fp: Fprobe, *_: object) -> None:
        runs.append(fp)
        guest.call("f")

    older, newer = Fprobe(nested), Fprobe(nested)
    guest.core.register_fprobe(older, "f")
    guest.core.register_fprobe(newer, "f")
    guest.call("f")
    assert runs == [newer, newer, older, older, newer, older]
    assert (older.nmissed, newer.nmissed) == (0, 0)
    # Four dropped hits, which we count beside nmissed: hits + nmissed + lost = calls.
    assert (older.hits, older.lost, newer.hits, newer.lost) == (3, 4, 3, 4)
    assert older.calls == 7
    assert guest.reasons == [MissReason.LIST_RECURSION] * 8


def test_list_function_is_one_per_hit_and_not_taken_for_a_single_fprobe(guest: ScriptedGuest) -> None:
    """With its function called once more between, a single fprobe still has the third level counted."""
    single, other = Fprobe(lambda *_: guest.call("f") and None), Fprobe()
    guest.core.register_fprobe(single, "f")
    guest.core.register_fprobe(other, "g")
    guest.call("f")
    assert (single.hits, single.nmissed, single.lost) == (2, 1, 0)


def test_list_function_loses_nothing_of_a_disabled_fprobe_but_is_still_there(guest: ScriptedGuest) -> None:
    """Disabling is soft: two ftrace_ops stay at the site, so the list function's guard stays too."""
    fprobe, disabled = Fprobe(lambda *_: guest.call("f") and None), Fprobe()
    guest.core.register_fprobe(fprobe, "f")
    guest.core.register_fprobe(disabled, "f")
    guest.core.disable_fprobe(disabled)
    guest.call("f")
    assert (fprobe.hits, fprobe.nmissed, fprobe.lost, disabled.calls) == (2, 0, 1, 0)


def test_lost_hits_are_counted_without_anyone_listening(guest: ScriptedGuest) -> None:
    guest.core.on_missed = None
    fprobe = Fprobe(lambda *_: guest.call("f") and None)
    guest.core.register_fprobe(Fprobe(), "f")
    guest.core.register_fprobe(fprobe, "f")
    guest.call("f")
    assert (fprobe.hits, fprobe.lost) == (2, 1)


def test_list_guard_is_per_context(guest: ScriptedGuest) -> None:
    rising = [Context.NORMAL, Context.HARDIRQ, Context.HARDIRQ]

    def nested(*_: object) -> None:
        if rising:
            guest.call("f", context=rising.pop(0))

    newer = Fprobe(nested)
    guest.core.register_fprobe(Fprobe(), "f")
    guest.core.register_fprobe(newer, "f")
    guest.call("f")
    assert (newer.hits, newer.lost, newer.nmissed) == (3, 1, 0)
