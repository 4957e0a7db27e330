"""``register_fprobe()``: checks in order, filter and notfilter, what a refusal leaves behind."""

from __future__ import annotations

import errno
from collections.abc import Collection

import pytest

from fprobe_gdb.errors import FprobeGdbError, InvalidProbe, ProbeBusy, TooManySites
from fprobe_gdb.probe.core import ProbeCore
from fprobe_gdb.probe.fprobe import (
    FPROBE_FL_ANY_FUNCTION,
    FPROBE_FL_DISABLED,
    FPROBE_FL_KPROBE_SHARED,
    Fprobe,
)
from tests.unit.probe.made_up_kernel import TEXT, Function, MadeUpKernel
from tests.unit.probe.scripted_guest import ScriptedGuest


def ignore(*_: object) -> None:
    """A handler."""


def untouched(guest: ScriptedGuest, fprobe: Fprobe) -> bool:
    """Whether a refused registration has left nothing behind."""
    core = guest.core
    return (
        core.take_site_changes() == (set(), set())
        and core.fprobes == []
        and not core.fprobe_is_registered(fprobe)
        and not core.is_active(fprobe)
        and core.locations(fprobe) == []
    )


def test_register_fprobe_without_fprobe_or_filter_is_EINVAL(guest: ScriptedGuest) -> None:
    fprobe = Fprobe()
    for args in ((None, "f"), (fprobe, None), (None, None)):
        with pytest.raises(InvalidProbe, match=r"needs an fprobe and a filter \(-EINVAL\)") as raised:
            guest.core.register_fprobe(*args)
        assert raised.value.errno == errno.EINVAL
    assert untouched(guest, fprobe)


def test_register_fprobe_no_match_is_EINVAL_and_changes_nothing(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(exit_handler=ignore)
    for pattern in ("missing", "x*", "f,g", ""):
        with pytest.raises(InvalidProbe) as raised:
            guest.core.register_fprobe(fprobe, pattern)
        assert raised.value.no_match
    assert untouched(guest, fprobe)


def test_register_fprobe_notfilter_that_matches_nothing_is_EINVAL_and_frees_the_filter(guest: ScriptedGuest) -> None:
    fprobe = Fprobe()
    for notfilter in ("missing", "", "f,g"):
        with pytest.raises(InvalidProbe, match=r"^notfilter") as raised:
            guest.core.register_fprobe(fprobe, "*", notfilter)
        assert raised.value.no_match
    assert untouched(guest, fprobe)


def test_register_fprobe_empty_filter_says_so(guest: ScriptedGuest) -> None:
    with pytest.raises(InvalidProbe, match=r"^filter is empty"):
        guest.core.register_fprobe(Fprobe(), "")


def test_register_fprobe_probes_what_filter_matches_and_notfilter_does_not(guest: ScriptedGuest) -> None:
    fprobe = Fprobe()
    guest.core.register_fprobe(fprobe, "?", "[gh]")
    assert guest.core.locations(fprobe) == [guest.kernel.ip("f"), guest.kernel.ip("i")]
    for name in "fghi":
        guest.call(name)
    assert fprobe.hits == 2


def test_register_fprobe_notfilter_outside_of_filter_excludes_nothing(guest: ScriptedGuest) -> None:
    fprobe = Fprobe()
    guest.core.register_fprobe(fprobe, "f", "g")
    assert guest.core.locations(fprobe) == [guest.kernel.ip("f")]


def test_register_fprobe_notfilter_that_covers_everything_is_0_and_no_hits(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(exit_handler=ignore)
    guest.core.register_fprobe(fprobe, "f", "*")
    assert guest.core.fprobe_is_registered(fprobe)
    guest.call("f")
    assert (fprobe.hits, fprobe.exits, fprobe.nmissed) == (0, 0, 0)
    guest.core.unregister_fprobe(fprobe)


def test_register_fprobe_filter_is_checked_before_notfilter(guest: ScriptedGuest) -> None:
    with pytest.raises(InvalidProbe, match=r"^filter 'missing'"):
        guest.core.register_fprobe(Fprobe(), "missing", "missing2")


def test_register_fprobe_notfilter_is_checked_before_the_pool(guest: ScriptedGuest) -> None:
    with pytest.raises(InvalidProbe, match=r"^notfilter 'missing'"):
        guest.core.register_fprobe(Fprobe(exit_handler=ignore, nr_maxactive=-1), "f", "missing")


def test_register_fprobe_filter_is_checked_before_the_pool(guest: ScriptedGuest) -> None:
    with pytest.raises(InvalidProbe, match=r"^filter 'missing'"):
        guest.core.register_fprobe(Fprobe(exit_handler=ignore, nr_maxactive=-1), "missing")


def test_register_fprobe_failure_to_match_has_zeroed_nmissed_already(guest: ScriptedGuest) -> None:
    """``fprobe_init()`` comes behind the argument check and before the filter."""
    fprobe = Fprobe(exit_handler=ignore, nr_maxactive=1)
    guest.core.register_fprobe(fprobe, "f")
    outer = guest.enter("f")
    guest.leave(guest.enter("f"))
    guest.leave(outer)
    guest.core.unregister_fprobe(fprobe)
    assert (fprobe.nmissed, fprobe.hits) == (1, 1)
    with pytest.raises(InvalidProbe):
        guest.core.register_fprobe(fprobe, None)
    assert fprobe.nmissed == 1
    with pytest.raises(InvalidProbe):
        guest.core.register_fprobe(fprobe, "missing")
    assert (fprobe.nmissed, fprobe.hits, fprobe.exits, fprobe.calls) == (0, 0, 0, 0)


def test_register_fprobe_again_after_unregister_starts_from_zero(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(exit_handler=ignore, nr_maxactive=1)
    for _ in range(2):
        guest.core.register_fprobe(fprobe, "f")
        outer = guest.enter("f")
        guest.leave(guest.enter("f"))
        guest.leave(outer)
        assert (fprobe.hits, fprobe.exits, fprobe.nmissed) == (1, 1, 1)
        guest.core.unregister_fprobe(fprobe)


def test_register_fprobe_twice_is_EBUSY_without_side_effects_DIFFERS(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(exit_handler=ignore, nr_maxactive=1)
    guest.core.register_fprobe(fprobe, "f")
    outer = guest.enter("f")
    guest.leave(guest.enter("f"))
    syms = ["h", "g"]
    for register in (
        lambda: guest.core.register_fprobe(fprobe, "g"),
        lambda: guest.core.register_fprobe_ips(fprobe, [guest.kernel.ip("g")]),
        lambda: guest.core.register_fprobe_syms(fprobe, syms),
    ):
        with pytest.raises(ProbeBusy, match="EBUSY") as raised:
            register()
        assert raised.value.errno == errno.EBUSY
    assert (fprobe.nmissed, syms) == (1, ["h", "g"])
    assert guest.core.locations(fprobe) == [guest.kernel.ip("f")]
    guest.leave(outer)
    assert fprobe.exits == 1
    guest.core.unregister_fprobe(fprobe)
    guest.core.register_fprobe(fprobe, "g")


def test_register_fprobe_arguments_are_checked_before_EBUSY(guest: ScriptedGuest) -> None:
    fprobe = Fprobe()
    guest.core.register_fprobe(fprobe, "f")
    with pytest.raises(InvalidProbe):
        guest.core.register_fprobe(fprobe, None)


# Section: the pool


@pytest.mark.parametrize(
    ("filter_", "notfilter", "possible_cpus", "nodes"),
    [
        ("f", None, 1, 2),
        ("f", None, 2, 4),
        ("f", None, 4, 8),
        ("[fg]", None, 1, 4),
        ("*", None, 1, 8),
        # The kernel counts before notfilter is taken off.
        ("*", "[ghi]", 1, 8),
        ("*", "[ghi]", 2, 16),
    ],
)
def test_pool_has_functions_before_notfilter_x_possible_cpus_x_2_nodes(
    guest: ScriptedGuest, filter_: str, notfilter: str | None, possible_cpus: int, nodes: int
) -> None:
    guest = ScriptedGuest(guest.kernel, possible_cpus)
    fprobe = Fprobe(exit_handler=ignore)
    guest.core.register_fprobe(fprobe, filter_, notfilter)
    for _ in range(nodes + 3):
        guest.enter("f")
    assert (fprobe.hits, fprobe.nmissed) == (nodes, 3)


def test_pool_has_nr_maxactive_nodes_where_it_is_set(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(exit_handler=ignore, nr_maxactive=3)
    guest.core.register_fprobe(fprobe, "*")
    for _ in range(5):
        guest.enter("f")
    assert (fprobe.hits, fprobe.nmissed, guest.core.calls_in_flight) == (3, 2, 3)


def test_negative_nr_maxactive_is_EINVAL_with_an_exit_handler(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(exit_handler=ignore, nr_maxactive=-1)
    with pytest.raises(InvalidProbe, match="nr_maxactive is -1") as raised:
        guest.core.register_fprobe(fprobe, "f")
    assert not raised.value.no_match
    assert untouched(guest, fprobe)


def test_negative_nr_maxactive_is_ignored_without_an_exit_handler(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(ignore, nr_maxactive=-1)
    guest.core.register_fprobe(fprobe, "f")
    guest.call("f")
    assert (fprobe.hits, fprobe.nmissed) == (1, 0)


def test_negative_entry_data_size_is_EINVAL_with_an_exit_handler(guest: ScriptedGuest) -> None:
    """A size_t in the kernel, where such a pool of nodes cannot be made either."""
    fprobe = Fprobe(exit_handler=ignore, entry_data_size=-1)
    with pytest.raises(InvalidProbe, match="entry_data_size is -1"):
        guest.core.register_fprobe(fprobe, "f")
    assert untouched(guest, fprobe)


def test_there_is_no_pool_without_an_exit_handler(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(ignore, nr_maxactive=1)
    guest.core.register_fprobe(fprobe, "f")
    for _ in range(20):
        guest.enter("f")
    assert (fprobe.hits, fprobe.nmissed, guest.core.calls_in_flight) == (20, 0, 0)
    assert guest.returns == set()


# Section: flags


def test_register_fprobe_keeps_the_disabled_flag(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(ignore, flags=FPROBE_FL_DISABLED)
    guest.core.register_fprobe(fprobe, "f")
    guest.call("f")
    assert (fprobe.calls, guest.sites) == (0, set())
    guest.core.enable_fprobe(fprobe)
    guest.call("f")
    assert fprobe.calls == 1


def test_register_fprobe_picks_the_handler_by_KPROBE_SHARED_for_good(guest: ScriptedGuest) -> None:
    """``fprobe_kprobe_handler()`` or ``fprobe_handler()`` is chosen at registration; the flag is not read again."""
    shared, plain = Fprobe(ignore, flags=FPROBE_FL_KPROBE_SHARED), Fprobe(ignore)
    guest.core.register_fprobe(shared, "f")
    guest.core.register_fprobe(plain, "f")
    shared.flags, plain.flags = 0, FPROBE_FL_KPROBE_SHARED
    guest.enter("f", kprobe_running=True)
    assert (shared.nmissed, shared.hits, plain.nmissed, plain.hits) == (1, 0, 0, 1)


def test_any_function_flag_lets_a_name_without_a_record_in() -> None:
    kernel = MadeUpKernel([Function("quiet", TEXT, site=None), Function("loud", TEXT + 0x100)])
    core = ProbeCore(kernel, 1)
    with pytest.raises(InvalidProbe):
        core.register_fprobe(Fprobe(), "quiet")
    fprobe = Fprobe(flags=FPROBE_FL_ANY_FUNCTION)
    core.register_fprobe(fprobe, "quiet")
    assert core.locations(fprobe) == [TEXT]


# Section: what only this core asks


def test_admit_sees_new_and_planted_locations_and_its_refusal_changes_nothing(guest: ScriptedGuest) -> None:
    asked: list[tuple[set[int], set[int]]] = []

    def admit(new: Collection[int], planted: Collection[int]) -> None:
        asked.append((set(new), set(planted)))
        if len(set(new) | set(planted)) > 2:
            raise TooManySites(len(new), 2, "two are enough")

    kernel = guest.kernel
    core = ProbeCore(kernel, 1, admit=admit)
    first, refused = Fprobe(), Fprobe()
    core.register_fprobe(first, "f")
    with pytest.raises(TooManySites, match="E2BIG"):
        core.register_fprobe(refused, "*")
    assert asked == [({kernel.ip("f")}, set()), ({kernel.ip(n) for n in "fghi"}, {kernel.ip("f")})]
    assert core.fprobes == [first]
    assert not core.fprobe_is_registered(refused)
    assert core.take_site_changes() == ({kernel.ip("f")}, set())


def test_admit_is_not_asked_about_what_the_kernel_refuses(guest: ScriptedGuest) -> None:
    core = ProbeCore(guest.kernel, 1, admit=lambda new, planted: pytest.fail("asked"))
    with pytest.raises(FprobeGdbError):
        core.register_fprobe(Fprobe(exit_handler=ignore, nr_maxactive=-1), "f")


def test_fprobes_are_listed_newest_first_and_unregistered_in_that_order(guest: ScriptedGuest) -> None:
    fprobes = [Fprobe(name=name) for name in "abc"]
    for fprobe in fprobes:
        guest.core.register_fprobe(fprobe, "f")
    assert guest.core.fprobes == fprobes[::-1]
    guest.core.unregister_all()
    assert guest.core.fprobes == []
    assert guest.core.take_site_changes() == (set(), set())


def test_fprobe_shows_its_name_and_counters(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(ignore, name="reads")
    guest.core.register_fprobe(fprobe, "f")
    guest.call("f")
    assert repr(fprobe) == "<Fprobe reads hits=1 exits=0 nmissed=0 lost=0>"
    assert repr(Fprobe()) == "<Fprobe hits=0 exits=0 nmissed=0 lost=0>"
