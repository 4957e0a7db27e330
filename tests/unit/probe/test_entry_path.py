"""``fprobe_handler()``: what an entry handler is given, in which order, and what becomes of the node."""

from __future__ import annotations

import pytest

from fprobe_gdb.events import MissReason
from fprobe_gdb.probe.fprobe import FPROBE_FL_KPROBE_SHARED, EntryHandler, Fprobe
from fprobe_gdb.probe.rethook import EntryData
from tests.unit.probe.scripted_guest import OTHER_TASK, TASK, ScriptedGuest


def ignore(*_: object) -> None:
    """A handler."""


def noting(log: list[str], text: str) -> EntryHandler:
    return lambda *_: log.append(text)


# Section: arguments


def test_entry_handler_gets_the_fprobe_location_return_address_regs_and_no_data(guest: ScriptedGuest) -> None:
    seen: list[tuple[object, ...]] = []
    fprobe = Fprobe(lambda fp, ip, ret, regs, data: seen.append((fp, ip, ret, regs.ip, regs.di, data)))
    guest.core.register_fprobe(fprobe, "g")
    call = guest.enter("g", 42, ret_ip=0x1234)
    entry_ip = guest.kernel.ip("g")
    assert seen == [(fprobe, entry_ip, 0x1234, entry_ip + 5, 42, None)]
    assert call.frame % 8 == 0


def test_all_fprobes_of_one_hit_get_the_same_ret_ip_and_regs(guest: ScriptedGuest) -> None:
    seen: list[tuple[int, int]] = []
    for _ in range(3):
        guest.core.register_fprobe(Fprobe(lambda fp, ip, ret, regs, data: seen.append((ret, id(regs))), ignore), "f")
    guest.enter("f", ret_ip=0x1234)
    assert len(seen) == 3
    assert len(set(seen)) == 1
    assert seen[0][0] == 0x1234


def test_fprobe_without_handlers_counts_hits(guest: ScriptedGuest) -> None:
    fprobe = Fprobe()
    guest.core.register_fprobe(fprobe, "f")
    guest.call("f")
    assert (fprobe.hits, fprobe.exits, fprobe.nmissed, fprobe.calls) == (1, 0, 0, 1)


def test_hit_at_a_location_of_no_fprobe_is_nobodys(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(ignore)
    guest.core.register_fprobe(fprobe, "f")
    guest.sites.add(guest.kernel.ip("g"))
    guest.call("g")
    assert fprobe.calls == 0


# Section: order


def test_entry_order_is_newest_registered_first(guest: ScriptedGuest) -> None:
    log: list[str] = []
    for name in "ABCD":
        guest.core.register_fprobe(Fprobe(noting(log, name)), "f")
    guest.call("f")
    assert log == ["D", "C", "B", "A"]


def test_entry_order_counts_the_last_registration(guest: ScriptedGuest) -> None:
    log: list[str] = []
    first, second = Fprobe(noting(log, "first")), Fprobe(noting(log, "second"))
    guest.core.register_fprobe(first, "f")
    guest.core.register_fprobe(second, "f")
    guest.core.unregister_fprobe(first)
    guest.core.register_fprobe(first, "f")
    guest.call("f")
    assert log == ["first", "second"]


def test_entry_handler_sees_what_newer_ones_wrote(guest: ScriptedGuest) -> None:
    seen: list[int] = []

    def write(fp: Fprobe, ip: int, ret: int, regs: object, data: EntryData | None) -> None:
        seen.append(regs.di)  # type: ignore[attr-defined]
        regs.di = 100  # type: ignore[attr-defined]

    guest.bodies["f"] = lambda a: a
    guest.core.register_fprobe(Fprobe(write), "f")
    guest.core.register_fprobe(Fprobe(write), "f")
    assert guest.call("f", 11) == 100
    assert seen == [11, 100]


# Section: the order of the checks


def test_recursion_is_checked_before_kprobe_running_and_the_pool(guest: ScriptedGuest) -> None:
    def again(*_: object) -> None:
        if len(depth) < 2:
            depth.append(1)
            guest.call("f")
        else:
            guest.call("f", kprobe_running=True)

    depth: list[int] = []
    fprobe = Fprobe(again, ignore, nr_maxactive=2, flags=FPROBE_FL_KPROBE_SHARED)
    guest.core.register_fprobe(fprobe, "f")
    guest.call("f")
    # Outer call: handler. Second: kprobe_busy_begin() makes it a miss. So the third never is.
    assert guest.reasons == [MissReason.KPROBE]
    guest.misses.clear()
    depth.clear()
    guest.core.unregister_fprobe(fprobe)
    fprobe.flags = 0
    guest.core.register_fprobe(fprobe, "f")
    guest.call("f")
    # Both nodes are taken at the third level, and it is the guard that answers.
    assert guest.reasons == [MissReason.RECURSION]


def test_kprobe_running_is_checked_before_the_pool(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(ignore, ignore, nr_maxactive=1, flags=FPROBE_FL_KPROBE_SHARED)
    guest.core.register_fprobe(fprobe, "f")
    guest.enter("f")
    guest.enter("f", kprobe_running=True)
    guest.enter("f")
    assert guest.reasons == [MissReason.KPROBE, MissReason.POOL]
    assert fprobe.nmissed == 2


def test_pool_is_checked_before_the_entry_handler_and_skips_both_handlers(guest: ScriptedGuest) -> None:
    log: list[str] = []
    fprobe = Fprobe(noting(log, "entry"), noting(log, "exit"), nr_maxactive=1)
    guest.core.register_fprobe(fprobe, "f")
    outer, inner = guest.enter("f"), guest.enter("f")
    guest.leave(inner)
    guest.leave(outer)
    assert log == ["entry", "exit"]
    assert (fprobe.hits, fprobe.nmissed, fprobe.calls) == (1, 1, 2)
    assert guest.misses == [(fprobe, guest.kernel.ip("f"), MissReason.POOL)]


def test_nmissed_of_one_fprobe_is_no_matter_of_the_others(guest: ScriptedGuest) -> None:
    small, big = Fprobe(ignore, ignore, nr_maxactive=1), Fprobe(ignore, ignore)
    guest.core.register_fprobe(small, "f")
    guest.core.register_fprobe(big, "f")
    for call in [guest.enter("f"), guest.enter("f")][::-1]:
        guest.leave(call)
    assert (small.hits, small.exits, small.nmissed) == (1, 1, 1)
    assert (big.hits, big.exits, big.nmissed) == (2, 2, 0)


def test_misses_are_counted_without_anyone_listening(guest: ScriptedGuest) -> None:
    guest.core.on_missed = None
    fprobe = Fprobe(ignore, ignore, nr_maxactive=1)
    guest.core.register_fprobe(fprobe, "f")
    guest.enter("f")
    guest.enter("f")
    assert fprobe.nmissed == 1


# Section: kprobes


def test_kprobe_running_is_no_matter_without_the_shared_flag(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(ignore, ignore)
    guest.core.register_fprobe(fprobe, "f")
    guest.call("f", kprobe_running=True)
    assert (fprobe.hits, fprobe.exits, fprobe.nmissed) == (1, 1, 0)


def test_kprobe_running_misses_a_shared_fprobe_whole(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(ignore, ignore, flags=FPROBE_FL_KPROBE_SHARED)
    guest.core.register_fprobe(fprobe, "f")
    guest.call("f", kprobe_running=True)
    assert (fprobe.hits, fprobe.exits, fprobe.nmissed) == (0, 0, 1)
    guest.call("f")
    assert (fprobe.hits, fprobe.exits, fprobe.nmissed) == (1, 1, 1)


def test_kprobe_running_at_exit_is_not_asked(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(ignore, ignore, flags=FPROBE_FL_KPROBE_SHARED)
    guest.core.register_fprobe(fprobe, "f")
    call = guest.enter("f")
    call.kprobe_running = True
    guest.leave(call)
    assert (fprobe.exits, fprobe.nmissed) == (1, 0)


def test_shared_handler_is_itself_a_running_kprobe_for_shared_fprobes_only(guest: ScriptedGuest) -> None:
    """``kprobe_busy_begin()`` stands around the entry handler."""
    shared = Fprobe(lambda *_: guest.call("g") and None, flags=FPROBE_FL_KPROBE_SHARED)
    nested_shared, nested_plain = Fprobe(flags=FPROBE_FL_KPROBE_SHARED), Fprobe()
    guest.core.register_fprobe(shared, "f")
    guest.core.register_fprobe(nested_shared, "g")
    guest.core.register_fprobe(nested_plain, "g")
    guest.call("f")
    assert (shared.hits, nested_shared.nmissed, nested_shared.hits, nested_plain.hits) == (1, 1, 0, 1)
    # And it ends with the handler.
    guest.call("g")
    assert (nested_shared.nmissed, nested_shared.hits) == (1, 1)


def test_shared_handler_is_a_running_kprobe_for_its_own_task_only(guest: ScriptedGuest) -> None:
    shared = Fprobe(lambda fp, *_: guest.call("g", task=OTHER_TASK) and None, flags=FPROBE_FL_KPROBE_SHARED)
    elsewhere = Fprobe(flags=FPROBE_FL_KPROBE_SHARED)
    guest.core.register_fprobe(shared, "f")
    guest.core.register_fprobe(elsewhere, "g")
    guest.call("f", task=TASK)
    assert (elsewhere.hits, elsewhere.nmissed) == (1, 0)


# Section: the entry handler's answer


@pytest.mark.parametrize("answer", [1, -1, 256, True])
def test_nonzero_from_entry_cancels_the_exit_and_is_no_miss(guest: ScriptedGuest, answer: int) -> None:
    fprobe = Fprobe(lambda *_: answer, ignore, nr_maxactive=1)
    guest.core.register_fprobe(fprobe, "f")
    for _ in range(3):
        guest.call("f")
        assert guest.returns == set()
    assert (fprobe.hits, fprobe.exits, fprobe.nmissed, guest.core.calls_in_flight) == (3, 0, 0, 0)


@pytest.mark.parametrize("answer", [0, None, False])
def test_zero_from_entry_hooks_the_return(guest: ScriptedGuest, answer: int | None) -> None:
    fprobe = Fprobe(lambda *_: answer, ignore)
    guest.core.register_fprobe(fprobe, "f")
    call = guest.enter("f", ret_ip=0x1234)
    assert guest.returns == {0x1234}
    guest.leave(call)
    assert guest.returns == set()
    assert (fprobe.hits, fprobe.exits) == (1, 1)


def test_nonzero_from_entry_is_ignored_without_an_exit_handler(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(lambda *_: 1)
    guest.core.register_fprobe(fprobe, "f")
    guest.call("f")
    guest.call("f")
    assert (fprobe.hits, fprobe.nmissed) == (2, 0)


def test_nonzero_from_one_fprobe_cancels_only_its_own_exit(guest: ScriptedGuest) -> None:
    cancels, stays = Fprobe(lambda *_: 1, ignore), Fprobe(ignore, ignore)
    guest.core.register_fprobe(stays, "f")
    guest.core.register_fprobe(cancels, "f")
    guest.call("f")
    assert (cancels.exits, stays.exits) == (0, 1)


def test_cancelled_node_is_free_for_the_next_hit_but_not_before(guest: ScriptedGuest) -> None:
    """The entry handler runs with its node taken."""

    def nested(*_: object) -> int:
        if not fprobe.nmissed:
            guest.call("f")
        return 1

    fprobe = Fprobe(nested, ignore, nr_maxactive=1)
    guest.core.register_fprobe(fprobe, "f")
    guest.call("f")
    assert (fprobe.hits, guest.reasons) == (1, [MissReason.POOL])
    guest.call("f")
    assert (fprobe.hits, fprobe.nmissed) == (2, 1)


# Section: entry_data


def test_entry_data_is_None_without_a_size(guest: ScriptedGuest) -> None:
    seen: list[object] = []
    guest.core.register_fprobe(
        Fprobe(lambda *args: seen.append(args[4]), lambda *args: seen.append(args[4])),
        "f",
    )
    guest.call("f")
    assert seen == [None, None]


def test_entry_data_is_None_without_an_exit_handler_whatever_the_size(guest: ScriptedGuest) -> None:
    seen: list[object] = []
    guest.core.register_fprobe(Fprobe(lambda *args: seen.append(args[4]), entry_data_size=8), "f")
    guest.call("f")
    assert seen == [None]


def test_entry_data_carries_bytes_and_attributes_from_entry_to_its_own_exit(guest: ScriptedGuest) -> None:
    seen: list[tuple[bytes, int]] = []

    def entry(fp: Fprobe, ip: int, ret: int, regs: object, data: EntryData | None) -> None:
        assert data is not None
        assert len(data) == 4
        data[:] = regs.di.to_bytes(4, "little")  # type: ignore[attr-defined]
        data.doubled = 2 * regs.di  # type: ignore[attr-defined]

    def exit_(fp: Fprobe, ip: int, ret: int, regs: object, data: EntryData | None) -> None:
        assert data is not None
        seen.append((bytes(data), data.doubled))  # type: ignore[arg-type]

    guest.core.register_fprobe(Fprobe(entry, exit_, entry_data_size=4), "f")
    outer, inner = guest.enter("f", 1), guest.enter("f", 2)
    elsewhere = guest.enter("f", 3, task=OTHER_TASK)
    for call in (inner, elsewhere, outer):
        guest.leave(call)
    assert seen == [(b"\2\0\0\0", 4), (b"\3\0\0\0", 6), (b"\1\0\0\0", 2)]


def test_entry_data_is_zeroed_at_registration_and_never_cleared_between_uses(guest: ScriptedGuest) -> None:
    seen: list[tuple[bytes, object]] = []

    def entry(fp: Fprobe, ip: int, ret: int, regs: object, data: EntryData | None) -> None:
        assert data is not None
        seen.append((bytes(data), getattr(data, "left", None)))
        data[0] += 1
        data.left = "behind"  # type: ignore[attr-defined]

    fprobe = Fprobe(entry, ignore, entry_data_size=2, nr_maxactive=1)
    guest.core.register_fprobe(fprobe, "f")
    guest.call("f")
    guest.call("f")
    guest.core.unregister_fprobe(fprobe)
    guest.core.register_fprobe(fprobe, "f")
    guest.call("f")
    assert seen == [(b"\0\0", None), (b"\1\0", "behind"), (b"\0\0", None)]


def test_entry_data_of_each_fprobe_is_its_own(guest: ScriptedGuest) -> None:
    seen: list[tuple[str, bytes]] = []

    def probe(name: str) -> Fprobe:
        def entry(fp: Fprobe, ip: int, ret: int, regs: object, data: EntryData | None) -> None:
            assert data is not None
            data[:] = name.encode()

        return Fprobe(entry, lambda fp, ip, ret, regs, data: seen.append((name, bytes(data or b""))), entry_data_size=1)

    for name in "AB":
        guest.core.register_fprobe(probe(name), "f")
    guest.call("f")
    assert seen == [("A", b"A"), ("B", b"B")]


def test_entry_data_attribute_that_was_not_set_says_so() -> None:
    with pytest.raises(AttributeError, match="no 't0' yet; set it in the entry handler"):
        _ = EntryData(8).t0
