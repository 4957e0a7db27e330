"""A handler's exception comes through, and leaves the core as if the handler had returned."""

from __future__ import annotations

import pytest

from fprobe_gdb.probe.fprobe import FPROBE_FL_KPROBE_SHARED, Fprobe
from tests.unit.probe.scripted_guest import ScriptedGuest


class HandlerError(Exception):
    """What the handlers here raise."""


def ignore(*_: object) -> None:
    """A handler."""


def raising(*_: object) -> None:
    raise HandlerError


# More rounds than there are guard bits and nodes, so that anything kept would show.
ROUNDS = 5


@pytest.mark.parametrize("flags", [0, FPROBE_FL_KPROBE_SHARED])
@pytest.mark.parametrize("others", [0, 1])
def test_entry_handler_that_raises_gives_back_its_locks_and_its_node(
    guest: ScriptedGuest, flags: int, others: int
) -> None:
    fprobe = Fprobe(raising, ignore, nr_maxactive=1, flags=flags)
    for _ in range(others):
        guest.core.register_fprobe(Fprobe(), "f")
    guest.core.register_fprobe(fprobe, "f")
    for _ in range(ROUNDS):
        with pytest.raises(HandlerError):
            guest.call("f")
        guest.plant()
        assert (guest.core.calls_in_flight, guest.returns) == (0, set())
    assert (fprobe.hits, fprobe.exits, fprobe.nmissed, fprobe.lost) == (ROUNDS, 0, 0, 0)
    fprobe.entry_handler = ignore
    guest.call("f")
    assert (fprobe.hits, fprobe.exits, fprobe.nmissed, fprobe.lost) == (ROUNDS + 1, 1, 0, 0)


def test_exit_handler_that_raises_gives_back_its_lock_and_all_nodes_of_the_return(guest: ScriptedGuest) -> None:
    fprobe, newer = Fprobe(ignore, raising, nr_maxactive=1), Fprobe(ignore, ignore, nr_maxactive=1)
    guest.core.register_fprobe(fprobe, "f")
    guest.core.register_fprobe(newer, "f")
    for _ in range(ROUNDS):
        with pytest.raises(HandlerError):
            guest.call("f")
        guest.plant()
        assert (guest.core.calls_in_flight, guest.returns) == (0, set())
    assert (fprobe.hits, fprobe.exits, fprobe.nmissed) == (ROUNDS, ROUNDS, 0)
    # Whose turn never came.
    assert (newer.hits, newer.exits, newer.nmissed) == (ROUNDS, 0, 0)
    fprobe.exit_handler = ignore
    guest.call("f")
    assert (fprobe.exits, newer.exits) == (ROUNDS + 1, 1)


def test_entry_handler_that_raises_leaves_what_newer_fprobes_hooked_in_flight(guest: ScriptedGuest) -> None:
    older, newer = Fprobe(raising, ignore), Fprobe(ignore, ignore)
    guest.core.register_fprobe(older, "f")
    guest.core.register_fprobe(newer, "f")
    with pytest.raises(HandlerError):
        guest.enter("f")
    assert guest.core.calls_in_flight == 1
    guest.core.unregister_all()
    guest.plant()
    assert (guest.sites, guest.returns, guest.core.calls_in_flight) == (set(), set(), 0)


def test_entry_handler_that_raises_after_unregistering_itself_frees_its_node_once(guest: ScriptedGuest) -> None:
    def entry(fp: Fprobe, *_: object) -> None:
        guest.core.unregister_fprobe(fp)
        raise HandlerError

    fprobe = Fprobe(entry, ignore)
    guest.core.register_fprobe(fprobe, "f")
    with pytest.raises(HandlerError):
        guest.call("f")
    guest.plant()
    assert (guest.sites, guest.returns, guest.core.fprobes) == (set(), set(), [])


def test_nested_call_whose_handler_raises_unwinds_every_level(guest: ScriptedGuest) -> None:
    def entry(*_: object) -> None:
        if fprobe.hits == 2:
            raise HandlerError
        guest.call("f")

    fprobe = Fprobe(entry, ignore)
    guest.core.register_fprobe(fprobe, "f")
    with pytest.raises(HandlerError):
        guest.call("f")
    guest.plant()
    assert (guest.core.calls_in_flight, guest.returns) == (0, set())
    fprobe.entry_handler = ignore
    fprobe.hits = 0
    guest.call("f")
    assert (fprobe.hits, fprobe.exits, fprobe.nmissed) == (1, 1, 0)


def test_keyboard_interrupt_in_a_handler_is_no_exception_to_the_rule(guest: ScriptedGuest) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    fprobe = Fprobe(interrupted, ignore, nr_maxactive=1)
    guest.core.register_fprobe(fprobe, "f")
    for _ in range(ROUNDS):
        with pytest.raises(KeyboardInterrupt):
            guest.call("f")
    assert (fprobe.hits, fprobe.nmissed, guest.core.calls_in_flight) == (ROUNDS, 0, 0)
