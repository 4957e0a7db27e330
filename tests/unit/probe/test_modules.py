"""Fprobes whose locations come and go with modules: grow(), module_gone(), and what of it is counted."""

from __future__ import annotations

import pytest

from fprobe_gdb.errors import InvalidProbe, ProbeBusy
from fprobe_gdb.probe.fprobe import Fprobe
from fprobe_gdb.probe.module_patterns import parse_module_pattern
from tests.unit.probe.made_up_kernel import TEXT, Function, MadeUpKernel, Record
from tests.unit.probe.scripted_guest import ScriptedGuest

MODULE = range(0xFFFFFFFFC0201000, 0xFFFFFFFFC0202000)


def ignore(*_: object) -> None:
    """A handler."""


@pytest.fixture
def guest() -> ScriptedGuest:
    """A kernel with ``f``, and a module with ``xmit`` and ``setup``."""
    functions = [Function("f", TEXT), Function("xmit", MODULE.start), Function("setup", MODULE.start + 0x100)]
    return ScriptedGuest(MadeUpKernel(functions))


def ips(guest: ScriptedGuest, *names: str) -> list[int]:
    return [guest.kernel.ip(name) for name in names]


def test_an_fprobe_may_wait_with_no_location_at_all(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(ignore, ignore)
    guest.core.register_growing(fprobe)
    guest.plant()
    assert not guest.sites
    guest.call("xmit")
    assert fprobe.hits == 0
    guest.core.grow(fprobe, ips(guest, "xmit", "setup"))
    guest.plant()
    guest.call("xmit")
    guest.call("setup")
    assert (fprobe.hits, fprobe.exits, fprobe.nmissed) == (2, 2, 0)


def test_a_default_pool_follows_the_number_of_functions(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(ignore, ignore)
    guest.core.register_growing(fprobe, ips(guest, "f"))
    guest.core.grow(fprobe, ips(guest, "xmit"))
    guest.plant()
    calls = [guest.enter("xmit") for _ in range(9)]
    # 2 functions x 2 CPUs x 2
    assert (fprobe.hits, fprobe.nmissed) == (8, 1)
    for call in reversed(calls):
        guest.leave(call)
    assert fprobe.exits == 8


def test_a_pool_of_ones_own_stays(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(ignore, ignore, nr_maxactive=1)
    guest.core.register_growing(fprobe)
    guest.core.grow(fprobe, ips(guest, "xmit", "setup"))
    guest.plant()
    guest.enter("xmit")
    guest.enter("setup")
    assert (fprobe.hits, fprobe.nmissed) == (1, 1)


def test_an_unloaded_module_leaves_nothing_behind(guest: ScriptedGuest) -> None:
    growing, plain = Fprobe(ignore, ignore), Fprobe(ignore, ignore)
    guest.core.register_growing(growing, ips(guest, "f", "xmit", "setup"))
    guest.core.register_fprobe(plain, "xmit")
    guest.plant()
    guest.call("xmit")
    assert sorted(guest.core.module_gone(MODULE)) == ips(guest, "xmit", "setup")
    guest.plant()
    assert guest.sites == set(ips(guest, "f"))
    assert guest.core.locations(growing) == ips(guest, "f")
    assert guest.core.locations(plain) == []
    guest.call("f")
    assert (growing.hits, plain.hits) == (2, 1)
    guest.core.unregister_all()
    guest.plant()
    assert not guest.sites


def test_calls_in_flight_in_a_module_that_goes_give_their_nodes_back(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(ignore, ignore, nr_maxactive=1)
    guest.core.register_growing(fprobe, ips(guest, "f", "xmit"))
    guest.plant()
    guest.enter("xmit")
    assert guest.core.calls_in_flight == 1
    guest.core.module_gone(MODULE)
    guest.plant()
    assert guest.core.calls_in_flight == 0
    assert not guest.returns
    guest.call("f")
    assert (fprobe.hits, fprobe.exits, fprobe.nmissed) == (2, 1, 0)


def test_a_disabled_fprobe_grows_without_being_planted(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(ignore)
    guest.core.register_growing(fprobe)
    guest.core.disable_fprobe(fprobe)
    guest.core.grow(fprobe, ips(guest, "xmit"))
    guest.plant()
    assert not guest.sites
    guest.core.enable_fprobe(fprobe)
    guest.plant()
    assert guest.sites == set(ips(guest, "xmit"))


def test_growing_what_is_not_registered_does_nothing(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(ignore)
    guest.core.grow(fprobe, ips(guest, "xmit"))
    guest.plant()
    assert not guest.sites


def test_one_that_is_registered_anew_in_the_ordinary_way_does_not_grow(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(ignore)
    guest.core.register_growing(fprobe)
    assert guest.core.is_growing(fprobe)
    guest.core.unregister_fprobe(fprobe)
    guest.core.register_fprobe(fprobe, "f")
    assert not guest.core.is_growing(fprobe)
    guest.core.grow(fprobe, ips(guest, "xmit"))
    assert guest.core.locations(fprobe) == ips(guest, "f")


def test_registration_is_checked_as_always(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(ignore, ignore, nr_maxactive=-1)
    with pytest.raises(InvalidProbe, match="nr_maxactive"):
        guest.core.register_growing(fprobe)
    fprobe.nr_maxactive = 0
    guest.core.register_growing(fprobe)
    with pytest.raises(ProbeBusy):
        guest.core.register_growing(fprobe)
    with pytest.raises(InvalidProbe, match="not an ftrace location"):
        guest.core.register_growing(Fprobe(ignore), [0x1234])


@pytest.mark.parametrize(
    ("text", "func", "module"),
    [
        ("dummy_xmit [dummy]", "dummy_xmit", "dummy"),
        ("dummy_*[dummy]", None, None),
        ("[dummy]", "*", "dummy"),
        ("[nls_*]", "*", "nls_*"),
        ("uni2char [nls_iso8859-1]", "uni2char", "nls_iso8859_1"),
        (":mod:dummy", "*", "dummy"),
        ("dummy_x*:mod:dum*", "dummy_x*", "dum*"),
        ("tcp_v[46]_rcv", None, None),
        ("vfs_read", None, None),
        ("a b", None, None),
    ],
)
def test_patterns_for_modules(text: str, func: str | None, module: str | None) -> None:
    found = parse_module_pattern(text)
    assert (found and found.func, found and found.module) == (func, module)


def test_matching_by_both_names() -> None:
    records = [Record(1, "xmit", "dummy"), Record(2, "xmit", "veth"), Record(3, "xmit"), Record(4, "setup", "dummy")]

    def match(text: str) -> set[int]:
        pattern = parse_module_pattern(text)
        assert pattern is not None
        return pattern.match(records)

    assert match("xmit [dummy]") == {1}
    assert match("[dummy]") == {1, 4}
    assert match("xmit:mod:*") == {1, 2}
    assert match("[not_there]") == set()
    with pytest.raises(InvalidProbe, match="'nope \\[dummy\\]' matches no traceable function of dummy") as raised:
        match("nope [dummy]")
    assert raised.value.no_match
