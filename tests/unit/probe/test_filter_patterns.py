"""``filter_parse_regex()``, ``ftrace_match()`` and ``match_records()``: one pattern to ftrace records."""

from __future__ import annotations

import re

import pytest

from fprobe_gdb.errors import InvalidProbe
from fprobe_gdb.probe.filters import match_filter
from fprobe_gdb.probe.glob import MatchType, ParsedFilter, has_meta, matcher, parse_filter
from tests.unit.probe.made_up_kernel import TEXT, Function, MadeUpKernel, kernel_of

# Functions of the module behind the measurements of the reference.
FPT = kernel_of("fpt_t1", "fpt_t2", "fpt_tail", "fpt_rec", "xfpt_t1")

PARSED = [
    ("no meta character: strcmp", "vfs_read", MatchType.FULL, "vfs_read"),
    ("nothing at all", "", MatchType.FULL, ""),
    ("* last: prefix", "vfs_*", MatchType.FRONT_ONLY, "vfs_"),
    ("* first: suffix", "*_read", MatchType.END_ONLY, "_read"),
    ("* first and last: substring", "*fs_*", MatchType.MIDDLE_ONLY, "fs_"),
    ("* alone: suffix of nothing", "*", MatchType.END_ONLY, ""),
    ("** : substring of nothing", "**", MatchType.MIDDLE_ONLY, ""),
    ("*** : glob", "***", MatchType.GLOB, "***"),
    ("* elsewhere: the whole pattern is a glob", "v*d", MatchType.GLOB, "v*d"),
    ("* first and elsewhere: the whole pattern is a glob", "*f*d", MatchType.GLOB, "*f*d"),
    ("* elsewhere and last: the whole pattern is a glob", "v*d*", MatchType.GLOB, "v*d*"),
    ("? is a glob", "vfs_rea?", MatchType.GLOB, "vfs_rea?"),
    ("[ is a glob", "vfs_[rw]*", MatchType.GLOB, "vfs_[rw]*"),
    ("\\ is a glob", "vfs\\_read", MatchType.GLOB, "vfs\\_read"),
    ("* first, then ?: the whole pattern is a glob", "*rea?", MatchType.GLOB, "*rea?"),
    ("] alone is no meta character", "a]", MatchType.FULL, "a]"),
    ("a digit first: index", "7", MatchType.INDEX, "7"),
    ("a digit first: index, whatever follows", "7*", MatchType.INDEX, "7*"),
    ("a digit of another script is none", "\u0663", MatchType.FULL, "\u0663"),
]


@pytest.mark.parametrize(("rule", "pattern", "type_", "search"), PARSED, ids=[case[0] for case in PARSED])
def test_filter_parse_regex_rule(rule: str, pattern: str, type_: MatchType, search: str) -> None:
    assert parse_filter(pattern) == ParsedFilter(type_, search, negated=False), rule
    # A leading "!" is stripped, and the rest read as if it were not there.
    assert parse_filter("!" + pattern) == ParsedFilter(type_, search, negated=True), rule


def names(kernel: MadeUpKernel, pattern: str) -> list[str]:
    return [kernel.name_at(ip) for ip in sorted(match_filter(kernel, pattern))]


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("fpt_t1", ["fpt_t1"]),
        ("fpt_t?", ["fpt_t1", "fpt_t2"]),
        ("fpt_t[12]", ["fpt_t1", "fpt_t2"]),
        ("fpt_t[!1]", ["fpt_t2"]),
        ("*pt_t1", ["fpt_t1", "xfpt_t1"]),
        ("fpt_t*", ["fpt_t1", "fpt_t2", "fpt_tail"]),
        ("*pt_t*", ["fpt_t1", "fpt_t2", "fpt_tail", "xfpt_t1"]),
        ("fpt_*il", ["fpt_tail"]),
        ("fpt_t\\1", ["fpt_t1"]),
        ("*", ["fpt_t1", "fpt_t2", "fpt_tail", "fpt_rec", "xfpt_t1"]),
        ("**", ["fpt_t1", "fpt_t2", "fpt_tail", "fpt_rec", "xfpt_t1"]),
    ],
)
def test_filter_measured_on_a_live_kernel_matches(pattern: str, matched: list[str]) -> None:
    assert names(FPT, pattern) == matched


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "fpt_t1,fpt_t2",
        "fpt_t1 fpt_t2",
        "fpt_t1 ",
        "fpt_t1:mod:m",
        "m:fpt_t1",
        "fpt_t[1",
        "fpt_t[^2]x",
        "FPT_T1",
        "fpt_t",
        "pt_t1*",
        "*fpt_",
    ],
)
def test_filter_without_comma_lists_words_or_modules_matches_nothing_EINVAL(pattern: str) -> None:
    with pytest.raises(InvalidProbe, match="EINVAL") as raised:
        match_filter(FPT, pattern)
    assert raised.value.no_match


@pytest.mark.parametrize(
    ("pattern", "as_regex"),
    [
        ("*schedule", "schedule$"),
        ("*schedule*", "schedule"),
        ("schedule*", "^schedule"),
        ("*pin*lock", "pin.*lock$"),
        ("mutex*unl*", "^mutex.*unl"),
        ("sch*ule", "^sch.*ule$"),
        ("[Ss]y[Ss]_*", "^[Ss]y[Ss]_"),
        ("sch?dule", "^sch.dule$"),
    ],
)
def test_func_filter_glob_selftest_equals_grep(pattern: str, as_regex: str) -> None:
    """tools/testing/selftests/ftrace/test.d/ftrace/func-filter-glob.tc."""
    kernel = kernel_of(
        "schedule", "schedule_timeout", "io_schedule", "do_schedule_x", "sched_rule", "schule", "schadule",
        "_raw_spin_lock", "pin_user_lock", "spin_unlock_bh", "mutex_unlock", "mutex_lock", "rt_mutex_unlock",
        "sys_read", "SyS_read", "Sys_x", "ksys_read", "syS", "xschedule",
    )  # fmt: skip
    expected = [record.name for record in kernel.records if re.search(as_regex, record.name)]
    assert expected
    assert names(kernel, pattern) == expected


@pytest.mark.parametrize(
    ("pattern", "index"),
    [
        ("1", 1),
        ("5", 5),
        ("012", 10),
        ("00", None),
        ("0xa", 10),
        ("0XA", 10),
        ("10\n", 10),
        ("0x0a\n", 10),
        ("01", 1),
        ("0" * 40 + "1", 1),
    ],
)
def test_filter_that_begins_with_a_digit_is_a_record_number_from_1_in_kstrtoul_base_0(
    pattern: str, index: int | None
) -> None:
    kernel = kernel_of(*"abcdefghij")
    if index is None:
        with pytest.raises(InvalidProbe):
            match_filter(kernel, pattern)
    else:
        assert match_filter(kernel, pattern) == {kernel.records[index - 1].ip}


@pytest.mark.parametrize(
    "pattern",
    [
        "0", "13", "08", "1a", "1*", "1_0", "0b1", "0o7", "0x", "0xg", "1 ", "1\t", "1\n\n", "1-2",
        "1\u0660", "0\u00b2", "9" * 5000, "0x" + "f" * 16, "9f",
    ],
    ids=lambda pattern: repr(pattern)[:12],
)  # fmt: skip
def test_filter_index_that_kstrtoul_refuses_or_that_is_no_record_matches_nothing(pattern: str) -> None:
    kernel = kernel_of(*"abcdefghij", "9f", "1*")
    with pytest.raises(InvalidProbe) as raised:
        match_filter(kernel, pattern)
    assert raised.value.no_match


@pytest.mark.parametrize("pattern", ["!f", "!*", "!", "!nothing", "!1", "!!f"])
def test_filter_that_begins_with_an_exclamation_mark_is_refused_DIFFERS(pattern: str) -> None:
    """6.12 makes "!f" every function of the kernel; we answer as 6.6 does."""
    for what in ("filter", "notfilter"):
        with pytest.raises(InvalidProbe, match=rf"^{what} .*begins with '!'"):
            match_filter(kernel_of("f", "g"), pattern, what=what)


def test_filter_sees_only_the_first_name_of_an_address() -> None:
    kernel = MadeUpKernel([Function("__do_sys_fork", TEXT, aliases=("__x64_sys_fork", "__ia32_sys_fork"))])
    assert names(kernel, "*sys_fork") == ["__do_sys_fork"]
    with pytest.raises(InvalidProbe):
        match_filter(kernel, "__x64_sys_fork")


def test_filter_hits_every_function_of_a_duplicate_name() -> None:
    kernel = MadeUpKernel([Function("dup", TEXT), Function("dup", TEXT + 0x100, site=0), Function("e", TEXT + 0x200)])
    assert match_filter(kernel, "dup") == {TEXT + 4, TEXT + 0x100}


def test_filter_matches_suffixed_clones_only_by_their_whole_name() -> None:
    kernel = kernel_of("foo.isra.0", "foo.part.0")
    assert names(kernel, "foo*") == ["foo.isra.0", "foo.part.0"]
    with pytest.raises(InvalidProbe):
        match_filter(kernel, "foo")


def test_filter_never_matches_a_function_without_a_record() -> None:
    kernel = MadeUpKernel([Function("quiet", TEXT, site=None), Function("quite", TEXT + 0x100)])
    assert names(kernel, "qui*") == ["quite"]
    with pytest.raises(InvalidProbe, match="it is notrace") as raised:
        match_filter(kernel, "quiet")
    assert raised.value.near == ()


def test_filter_of_an_unknown_name_tells_near_ones() -> None:
    with pytest.raises(InvalidProbe, match="did you mean vfs_read") as raised:
        match_filter(kernel_of("vfs_read", "x"), "vfs_raed")
    assert raised.value.near == ("vfs_read",)


def test_any_function_takes_an_exact_name_without_a_record_and_no_pattern() -> None:
    kernel = MadeUpKernel([Function("quiet", TEXT, site=None), Function("quite", TEXT + 0x100)])
    assert match_filter(kernel, "quiet", any_function=True) == {TEXT}
    assert match_filter(kernel, "quite", any_function=True) == {TEXT + 0x104}
    for pattern in ("quie*", "quie?", "quiet\\", "missing"):
        with pytest.raises(InvalidProbe):
            match_filter(kernel, pattern, any_function=True)


def test_has_meta_tells_patterns_from_names() -> None:
    assert [has_meta(p) for p in ("a*", "?", "[", "\\a", "!a", "a.b-c]")] == [True] * 5 + [False]


def test_an_index_is_not_matched_by_name() -> None:
    with pytest.raises(AssertionError):
        matcher(parse_filter("1"))
