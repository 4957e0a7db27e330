"""``unregister_fprobe()``, ``disable_fprobe()`` and ``enable_fprobe()``, with calls in flight and inside handlers."""

from __future__ import annotations

import errno

import pytest

from fprobe_gdb.errors import InvalidProbe, ProbeBusy
from fprobe_gdb.probe.fprobe import FPROBE_FL_DISABLED, Fprobe
from tests.unit.probe.scripted_guest import ScriptedGuest


def ignore(*_: object) -> None:
    """A handler."""


# Section: unregister


def test_unregister_null_or_never_registered_is_EINVAL(guest: ScriptedGuest) -> None:
    for fprobe in (None, Fprobe()):
        with pytest.raises(InvalidProbe, match="never registered") as raised:
            guest.core.unregister_fprobe(fprobe)
        assert raised.value.errno == errno.EINVAL


def test_unregister_after_a_refused_registration_is_EINVAL(guest: ScriptedGuest) -> None:
    fprobe = Fprobe()
    with pytest.raises(InvalidProbe):
        guest.core.register_fprobe(fprobe, "missing")
    with pytest.raises(InvalidProbe, match="never registered"):
        guest.core.unregister_fprobe(fprobe)


def test_second_unregister_is_EBUSY(guest: ScriptedGuest) -> None:
    fprobe = Fprobe()
    guest.core.register_fprobe(fprobe, "f")
    guest.core.unregister_fprobe(fprobe)
    with pytest.raises(ProbeBusy) as raised:
        guest.core.unregister_fprobe(fprobe)
    assert raised.value.errno == errno.EBUSY


def test_fprobe_is_registered_stays_true_after_unregister(guest: ScriptedGuest) -> None:
    fprobe = Fprobe()
    assert not guest.core.fprobe_is_registered(None)
    assert not guest.core.fprobe_is_registered(fprobe)
    guest.core.register_fprobe(fprobe, "f")
    assert guest.core.fprobe_is_registered(fprobe)
    assert guest.core.is_active(fprobe)
    guest.core.unregister_fprobe(fprobe)
    assert guest.core.fprobe_is_registered(fprobe)
    assert not guest.core.is_active(fprobe)


def test_unregister_with_a_call_in_flight_is_0_and_its_exit_is_never_called(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(ignore, ignore)
    guest.core.register_fprobe(fprobe, "f")
    call = guest.enter("f")
    guest.core.unregister_fprobe(fprobe)
    guest.plant()
    assert (guest.sites, guest.returns, guest.core.calls_in_flight) == (set(), set(), 0)
    assert guest.leave(call, 5) == 5
    assert (fprobe.hits, fprobe.exits, fprobe.nmissed) == (1, 0, 0)


def test_unregister_keeps_what_other_fprobes_need(guest: ScriptedGuest) -> None:
    gone, stays = Fprobe(ignore, ignore), Fprobe(ignore, ignore)
    guest.core.register_fprobe(gone, "[fg]")
    guest.core.register_fprobe(stays, "[gh]")
    call = guest.enter("g")
    guest.core.unregister_fprobe(gone)
    guest.plant()
    assert guest.sites == {guest.kernel.ip("g"), guest.kernel.ip("h")}
    assert guest.returns == {call.ret_ip}
    guest.leave(call)
    assert (gone.exits, stays.exits) == (0, 1)


def test_registering_again_does_not_bring_back_calls_of_the_first_registration(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(ignore, ignore, nr_maxactive=1)
    guest.core.register_fprobe(fprobe, "f")
    call = guest.enter("f")
    guest.core.unregister_fprobe(fprobe)
    guest.core.register_fprobe(fprobe, "f")
    guest.leave(call)
    assert fprobe.exits == 0
    guest.call("f")
    assert (fprobe.hits, fprobe.exits, fprobe.nmissed) == (1, 1, 0)


def test_unregister_inside_the_own_entry_handler_hooks_nothing(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(lambda fp, *_: guest.core.unregister_fprobe(fp), ignore)
    guest.core.register_fprobe(fprobe, "f")
    call = guest.enter("f")
    assert (guest.sites, guest.returns, guest.core.calls_in_flight) == (set(), set(), 0)
    guest.leave(call)
    guest.call("f")
    assert (fprobe.hits, fprobe.exits, fprobe.nmissed) == (1, 0, 0)


def test_unregister_inside_the_own_exit_handler_ends_with_this_exit(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(ignore, lambda fp, *_: guest.core.unregister_fprobe(fp))
    guest.core.register_fprobe(fprobe, "f")
    outer = guest.enter("f")
    guest.call("f")
    guest.leave(outer)
    guest.call("f")
    assert (fprobe.hits, fprobe.exits) == (2, 1)
    assert (guest.sites, guest.returns, guest.core.calls_in_flight) == (set(), set(), 0)


def test_unregister_of_an_older_fprobe_inside_a_newer_entry_handler_spares_it_this_hit(guest: ScriptedGuest) -> None:
    older = Fprobe(ignore, ignore)
    newer = Fprobe(lambda *_: guest.core.unregister_fprobe(older) if guest.core.is_active(older) else None)
    guest.core.register_fprobe(older, "f")
    guest.core.register_fprobe(newer, "f")
    guest.call("f")
    guest.call("f")
    assert (older.calls, newer.calls) == (0, 2)


def test_unregister_of_a_newer_fprobe_inside_an_older_entry_handler_unhooks_it(guest: ScriptedGuest) -> None:
    newer = Fprobe(ignore, ignore)
    older = Fprobe(lambda *_: guest.core.unregister_fprobe(newer), ignore)
    guest.core.register_fprobe(older, "f")
    guest.core.register_fprobe(newer, "f")
    guest.call("f")
    assert (newer.hits, newer.exits, older.hits, older.exits) == (1, 0, 1, 1)


def test_unregister_of_a_newer_fprobe_inside_an_older_exit_handler_skips_its_exit(guest: ScriptedGuest) -> None:
    newer = Fprobe(ignore, ignore)
    older = Fprobe(ignore, lambda *_: guest.core.unregister_fprobe(newer))
    guest.core.register_fprobe(older, "f")
    guest.core.register_fprobe(newer, "f")
    guest.call("f")
    assert (newer.hits, newer.exits, older.exits) == (1, 0, 1)
    assert (guest.returns, guest.core.calls_in_flight) == (set(), 0)


def test_register_inside_an_entry_handler_begins_with_the_next_hit(guest: ScriptedGuest) -> None:
    late = Fprobe(ignore, ignore)
    first = Fprobe(lambda *_: None if guest.core.is_active(late) else guest.core.register_fprobe(late, "f"))
    guest.core.register_fprobe(first, "f")
    guest.call("f")
    assert (late.hits, late.exits) == (0, 0)
    guest.call("f")
    assert (late.hits, late.exits) == (1, 1)


# Section: disable, enable


def test_disable_and_enable_take_NULL_and_unregistered_fprobes(guest: ScriptedGuest) -> None:
    fprobe = Fprobe()
    guest.core.disable_fprobe(None)
    guest.core.enable_fprobe(None)
    guest.core.disable_fprobe(fprobe)
    guest.core.disable_fprobe(fprobe)
    assert (fprobe.disabled, fprobe.flags) == (True, FPROBE_FL_DISABLED)
    guest.core.enable_fprobe(fprobe)
    guest.core.enable_fprobe(fprobe)
    assert not fprobe.disabled
    assert guest.core.take_site_changes() == (set(), set())


def test_disabled_fprobe_counts_nothing(guest: ScriptedGuest) -> None:
    """Neither as a hit, nor as missed, nor as lost: disabled is tested before all else, the guard and kprobes too."""
    other, fprobe = Fprobe(), Fprobe(ignore, ignore, nr_maxactive=1)
    guest.core.register_fprobe(fprobe, "f")
    guest.core.register_fprobe(other, "f")
    guest.core.disable_fprobe(fprobe)
    guest.enter("f")
    guest.enter("f", kprobe_running=True)
    assert (fprobe.calls, fprobe.nmissed, fprobe.hits, fprobe.lost) == (0, 0, 0, 0)
    assert other.hits == 2


def test_disabled_fprobe_alone_wants_no_location_planted(guest: ScriptedGuest) -> None:
    fprobe = Fprobe()
    guest.core.register_fprobe(fprobe, "f")
    guest.plant()
    for _ in range(2):
        guest.core.disable_fprobe(fprobe)
        guest.core.disable_fprobe(fprobe)
        guest.plant()
        assert guest.sites == set()
        guest.core.enable_fprobe(fprobe)
        guest.core.enable_fprobe(fprobe)
        guest.plant()
        assert guest.sites == {guest.kernel.ip("f")}
    guest.core.disable_fprobe(fprobe)
    guest.core.unregister_fprobe(fprobe)
    guest.plant()
    assert guest.sites == set()


@pytest.mark.parametrize("flags", [(0, FPROBE_FL_DISABLED), (FPROBE_FL_DISABLED, 0)])
def test_unregister_after_the_user_wrote_flags_leaves_nothing_planted(
    guest: ScriptedGuest, flags: tuple[int, int]
) -> None:
    fprobe = Fprobe(flags=flags[0])
    guest.core.register_fprobe(fprobe, "f")
    guest.plant()
    fprobe.flags = flags[1]
    guest.core.unregister_fprobe(fprobe)
    guest.plant()
    assert guest.sites == set()


def test_disable_between_entry_and_exit_skips_the_exit_without_a_miss(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(ignore, ignore, nr_maxactive=1)
    guest.core.register_fprobe(fprobe, "f")
    call = guest.enter("f")
    guest.core.disable_fprobe(fprobe)
    guest.leave(call)
    assert (fprobe.hits, fprobe.exits, fprobe.nmissed) == (1, 0, 0)
    # The node is free again.
    guest.core.enable_fprobe(fprobe)
    guest.call("f")
    assert (fprobe.hits, fprobe.exits, fprobe.nmissed) == (2, 1, 0)


def test_enable_between_entry_and_exit_has_no_exit(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(ignore, ignore, flags=FPROBE_FL_DISABLED)
    guest.core.register_fprobe(fprobe, "f")
    call = guest.enter("f")
    guest.core.enable_fprobe(fprobe)
    guest.leave(call)
    assert (fprobe.hits, fprobe.exits) == (0, 0)


def test_disable_and_enable_again_between_entry_and_exit_keeps_the_exit(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(ignore, ignore)
    guest.core.register_fprobe(fprobe, "f")
    call = guest.enter("f")
    guest.core.disable_fprobe(fprobe)
    guest.core.enable_fprobe(fprobe)
    guest.leave(call)
    assert (fprobe.hits, fprobe.exits) == (1, 1)


def test_disable_inside_the_own_entry_handler_skips_this_exit(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(lambda fp, *_: guest.core.disable_fprobe(fp), ignore)
    guest.core.register_fprobe(fprobe, "f")
    guest.call("f")
    guest.call("f")
    assert (fprobe.hits, fprobe.exits, fprobe.nmissed) == (1, 0, 0)
    assert guest.core.calls_in_flight == 0


def test_disable_of_a_newer_fprobe_inside_an_older_exit_handler_skips_its_exit(guest: ScriptedGuest) -> None:
    newer = Fprobe(ignore, ignore)
    older = Fprobe(ignore, lambda *_: guest.core.disable_fprobe(newer))
    guest.core.register_fprobe(older, "f")
    guest.core.register_fprobe(newer, "f")
    guest.call("f")
    assert (newer.hits, newer.exits, older.exits) == (1, 0, 1)


def test_exit_handler_taken_away_between_entry_and_exit_is_not_called(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(ignore, ignore)
    guest.core.register_fprobe(fprobe, "f")
    call = guest.enter("f")
    fprobe.exit_handler = None
    guest.leave(call)
    assert (fprobe.exits, guest.core.calls_in_flight) == (0, 0)
