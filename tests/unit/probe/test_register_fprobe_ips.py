"""``register_fprobe_ips()`` and ``register_fprobe_syms()``."""

from __future__ import annotations

import errno

import pytest

from fprobe_gdb.errors import InvalidProbe, ProbeNotFound
from fprobe_gdb.probe.fprobe import FPROBE_FL_ANY_FUNCTION, Fprobe
from tests.unit.probe.made_up_kernel import TEXT, Function, MadeUpKernel
from tests.unit.probe.scripted_guest import ScriptedGuest

# Two functions behind ENDBR, one without, one notrace; a name at three addresses of which the lowest is notrace.
KERNEL = MadeUpKernel(
    [
        Function("__pfx_endbr", TEXT + 0xF0, site=None),
        Function("endbr", TEXT + 0x100, aliases=("__x64_endbr",)),
        Function("endbr2", TEXT + 0x200),
        Function("bare", TEXT + 0x300, site=0),
        Function("quiet", TEXT + 0x400, site=None),
        Function("dup", TEXT + 0x500, site=None),
        Function("dup", TEXT + 0x600),
        Function("dup", TEXT + 0x700),
    ]
)


def ignore(*_: object) -> None:
    """A handler."""


@pytest.fixture
def guest() -> ScriptedGuest:
    return ScriptedGuest(KERNEL, possible_cpus=1)


def pool_of(guest: ScriptedGuest, fprobe: Fprobe, function: str) -> int:
    """How many calls can be in flight."""
    while not fprobe.nmissed:
        guest.enter(function)
    return fprobe.hits


# Section: addresses


def test_register_fprobe_ips_checks_its_arguments_first_EINVAL(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(exit_handler=ignore, nr_maxactive=-1)
    for args in ((None, [TEXT]), (fprobe, None), (fprobe, []), (fprobe, [1], 0), (fprobe, [1], -1), (None, None, 0)):
        with pytest.raises(InvalidProbe, match=r"needs an fprobe and at least one address") as raised:
            guest.core.register_fprobe_ips(*args)
        assert raised.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("addr", "location"),
    [
        (0x100, 0x104),  # sym+0, site behind ENDBR
        *((0x104 + inside, 0x104) for inside in range(5)),
        *((0x300 + inside, 0x300) for inside in range(5)),
    ],
)
def test_register_fprobe_ips_takes_the_start_and_any_byte_inside_the_site(
    guest: ScriptedGuest, addr: int, location: int
) -> None:
    fprobe = Fprobe()
    guest.core.register_fprobe_ips(fprobe, [TEXT + addr])
    assert guest.core.locations(fprobe) == [TEXT + location]


@pytest.mark.parametrize(
    "addr",
    [0x101, 0x103, 0x109, 0x305, 0xF0, 0x400, 0x404, 0, -TEXT],
    ids=["sym+1", "sym+3", "behind the site", "behind a bare site", "__pfx_", "notrace", "notrace+4", "text", "zero"],
)
def test_register_fprobe_ips_bad_address_is_EINVAL(guest: ScriptedGuest, addr: int) -> None:
    fprobe = Fprobe()
    with pytest.raises(InvalidProbe, match=f"{TEXT + addr:#x} is not an ftrace location"):
        guest.core.register_fprobe_ips(fprobe, [KERNEL.ip("endbr"), TEXT + addr])
    assert not guest.core.fprobe_is_registered(fprobe)
    assert guest.core.take_site_changes() == (set(), set())


def test_register_fprobe_ips_address_is_checked_before_the_pool(guest: ScriptedGuest) -> None:
    with pytest.raises(InvalidProbe, match="not an ftrace location"):
        guest.core.register_fprobe_ips(Fprobe(exit_handler=ignore, nr_maxactive=-1), [TEXT])


def test_register_fprobe_ips_negative_nr_maxactive_is_EINVAL(guest: ScriptedGuest) -> None:
    with pytest.raises(InvalidProbe, match="nr_maxactive"):
        guest.core.register_fprobe_ips(Fprobe(exit_handler=ignore, nr_maxactive=-1), [KERNEL.ip("endbr")])


def test_register_fprobe_ips_bad_address_has_zeroed_nmissed_already(guest: ScriptedGuest) -> None:
    fprobe = Fprobe()
    fprobe.nmissed = 7
    with pytest.raises(InvalidProbe):
        guest.core.register_fprobe_ips(fprobe, [])
    assert fprobe.nmissed == 7
    with pytest.raises(InvalidProbe):
        guest.core.register_fprobe_ips(fprobe, [TEXT])
    assert fprobe.nmissed == 0


def test_register_fprobe_ips_duplicates_merge_but_scale_the_pool(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(exit_handler=ignore)
    site = KERNEL.ip("endbr")
    guest.core.register_fprobe_ips(fprobe, [site, site, site - 4, site + 2])
    assert guest.core.locations(fprobe) == [site]
    guest.leave(guest.enter("endbr"))
    assert (fprobe.hits, fprobe.exits) == (1, 1)
    assert pool_of(guest, fprobe, "endbr") - 1 == 4 * 1 * 2


def test_register_fprobe_ips_takes_the_first_num_addresses(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(exit_handler=ignore)
    guest.core.register_fprobe_ips(fprobe, (KERNEL.ip("endbr"), KERNEL.ip("bare"), 1), 2)
    assert guest.core.locations(fprobe) == [KERNEL.ip("endbr"), KERNEL.ip("bare")]
    assert pool_of(guest, fprobe, "bare") == 2 * 1 * 2


def test_any_function_flag_lets_a_first_instruction_without_a_record_in(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(flags=FPROBE_FL_ANY_FUNCTION)
    for addr in (TEXT + 0x401, TEXT + 0x101):
        with pytest.raises(InvalidProbe):
            guest.core.register_fprobe_ips(fprobe, [addr])
    guest.core.register_fprobe_ips(fprobe, [TEXT + 0x400, TEXT + 0x100])
    assert guest.core.locations(fprobe) == [TEXT + 0x104, TEXT + 0x400]


def test_num_beyond_the_array_is_refused_DIFFERS(guest: ScriptedGuest) -> None:
    """The kernel reads behind the array."""
    with pytest.raises(InvalidProbe, match="num is 2"):
        guest.core.register_fprobe_ips(Fprobe(), [KERNEL.ip("endbr")], 2)
    with pytest.raises(InvalidProbe, match="num is 2"):
        guest.core.register_fprobe_syms(Fprobe(), ["endbr"], 2)


# Section: names


def test_register_fprobe_syms_checks_its_arguments_first_EINVAL(guest: ScriptedGuest) -> None:
    fprobe = Fprobe()
    syms = ["missing", "endbr"]
    for args in ((None, syms), (fprobe, None), (fprobe, []), (fprobe, syms, 0), (fprobe, syms, -1)):
        with pytest.raises(InvalidProbe, match=r"needs an fprobe and at least one symbol"):
            guest.core.register_fprobe_syms(*args)
    assert syms == ["missing", "endbr"]


def test_register_fprobe_syms_probes_names_and_sorts_the_array_in_place(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(exit_handler=ignore)
    syms = ["endbr2", "bare", "endbr"]
    guest.core.register_fprobe_syms(fprobe, syms)
    assert syms == ["bare", "endbr", "endbr2"]
    assert guest.core.locations(fprobe) == [KERNEL.ip("endbr"), KERNEL.ip("endbr2"), KERNEL.ip("bare")]
    assert pool_of(guest, fprobe, "bare") == 3 * 1 * 2


def test_register_fprobe_syms_sorts_as_strcmp_and_only_num_names(guest: ScriptedGuest) -> None:
    syms = ["endbr", "_a", "B", "a"]
    with pytest.raises(ProbeNotFound):
        guest.core.register_fprobe_syms(Fprobe(), syms, 3)
    assert syms == ["B", "_a", "endbr", "a"]


@pytest.mark.parametrize(
    ("syms", "why"),
    [
        (["endbr", "missing"], "'missing': no such symbol"),
        (["quiet"], "'quiet': it is notrace"),
        (["__pfx_endbr"], "notrace"),
        (["endbr*"], "no such symbol"),
        (["endbr,bare"], "no such symbol"),
        ([""], "no such symbol"),
        (["endbr", "bare", "endbr"], "'endbr' is given twice"),
    ],
    ids=["unknown", "untraceable", "prefix symbol", "pattern", "comma list", "empty", "twice"],
)
def test_register_fprobe_syms_that_do_not_all_resolve_are_ENOENT(
    guest: ScriptedGuest, syms: list[str], why: str
) -> None:
    fprobe = Fprobe()
    fprobe.nmissed = 7
    expected = sorted(syms)
    with pytest.raises(ProbeNotFound, match=why) as raised:
        guest.core.register_fprobe_syms(fprobe, syms)
    assert (raised.value.errno, raised.value.errno_name) == (errno.ENOENT, "ENOENT")
    assert guest.core.take_site_changes() == (set(), set())
    # Sorted in place nevertheless; and fprobe_init() comes later.
    assert (syms, fprobe.nmissed) == (expected, 7)


def test_register_fprobe_syms_unknown_name_tells_near_ones(guest: ScriptedGuest) -> None:
    with pytest.raises(ProbeNotFound) as raised:
        guest.core.register_fprobe_syms(Fprobe(), ["endbr3"])
    assert raised.value.near == ("endbr", "endbr2")
    with pytest.raises(ProbeNotFound) as raised:
        guest.core.register_fprobe_syms(Fprobe(), ["quiet"])
    assert raised.value.near == ()


def test_register_fprobe_syms_ENOENT_comes_before_the_pool_EINVAL(guest: ScriptedGuest) -> None:
    with pytest.raises(ProbeNotFound):
        guest.core.register_fprobe_syms(Fprobe(exit_handler=ignore, nr_maxactive=-1), ["missing"])
    with pytest.raises(InvalidProbe):
        guest.core.register_fprobe_syms(Fprobe(exit_handler=ignore, nr_maxactive=-1), ["endbr"])


def test_register_fprobe_syms_takes_the_lowest_traceable_address_of_several(guest: ScriptedGuest) -> None:
    fprobe = Fprobe()
    guest.core.register_fprobe_syms(fprobe, ["dup"])
    assert guest.core.locations(fprobe) == [TEXT + 0x604]


def test_register_fprobe_syms_takes_aliases_and_merges_two_names_of_one_address(guest: ScriptedGuest) -> None:
    fprobe = Fprobe(exit_handler=ignore)
    guest.core.register_fprobe_syms(fprobe, ["__x64_endbr", "endbr"])
    assert guest.core.locations(fprobe) == [KERNEL.ip("endbr")]
    # Two names, so a pool for two.
    assert pool_of(guest, fprobe, "endbr") == 2 * 1 * 2
