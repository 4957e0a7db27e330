"""lib/glob.c, rule by rule, and against a matcher of another make."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fprobe_gdb.probe.glob import glob_match

CASES = [
    # (rule, pattern, text, matches)
    ("an empty pattern is an empty text", "", "", True),
    ("an empty pattern is an empty text", "", "a", False),
    ("plain text is itself", "vfs_read", "vfs_read", True),
    ("anchored at the start", "fs_read", "vfs_read", False),
    ("anchored at the end", "vfs_rea", "vfs_read", False),
    ("the text may not end early", "vfs_read", "vfs_rea", False),
    ("case-sensitive", "VFS_read", "vfs_read", False),
    ("* is any run", "v*d", "vfs_read", True),
    ("* is any run, the empty one too", "vfs*_read", "vfs_read", True),
    ("* alone is all", "*", "", True),
    ("* alone is all", "*", "anything/at.all", True),
    ("** is *", "a**b", "ab", True),
    ("** is *", "**", "", True),
    ("* goes back as often as it must", "*ab*abc", "ababababc", True),
    ("* goes back as often as it must", "a*b*c", "abcbc", True),
    ("* goes back as often as it must", "*aab", "aaaab", True),
    ("* cannot invent an end", "*aab", "aaaaba", False),
    ("* crosses / and .", "a*z", "a/b.c/z", True),
    ("? is one character", "v?s", "vfs", True),
    ("? is one character, never none", "vfs?", "vfs", False),
    ("? is one character, never two", "v?", "vfs", False),
    ("? takes / and .", "a?b?c", "a/b.c", True),
    ("*? needs one", "*?", "", False),
    ("*? needs one", "*?", "x", True),
    ("a class is one of its members", "t[123]", "t2", True),
    ("a class is one of its members", "t[123]", "t4", False),
    ("a class is exactly one character", "t[12]", "t12", False),
    ("a class never matches the end", "t[12]", "t", False),
    ("a range", "t[a-c]", "tb", True),
    ("a range holds both its ends", "[a-c][a-c]", "ac", True),
    ("a range holds nothing beyond", "[b-c]", "a", False),
    ("several ranges", "[a-cx-z]", "y", True),
    ("several ranges", "[a-cx-z]", "d", False),
    ("a range backwards holds nothing", "[c-a]", "b", False),
    ("! inverts", "t[!1]", "t2", True),
    ("! inverts", "t[!1]", "t1", False),
    ("an inverted class never matches the end", "t[!1]", "t", False),
    ("! inverts ranges", "[!a-c]", "d", True),
    ("! inverts ranges", "[!a-c]", "b", False),
    ("! elsewhere is a member", "[a!]", "!", True),
    ("^ is a plain member", "[^a]", "^", True),
    ("^ is a plain member", "[^a]", "a", True),
    ("^ is a plain member", "[^a]", "b", False),
    ("] first is a member", "[]a]", "]", True),
    ("] first is a member", "[]a]", "a", True),
    ("] first is a member, after ! too", "[!]a]", "]", False),
    ("] first is a member, after ! too", "[!]a]", "b", True),
    ("] first may begin a range", "[]-a]", "_", True),
    ("- last is a member", "[a-]", "-", True),
    ("- last is a member", "[a-]", "b", False),
    ("- first is a member", "[-a]", "-", True),
    ("- may end a range", "[+--]", ",", True),
    ("\\ in a class is a member", "[\\]", "\\", True),
    ("* and ? in a class are members", "[*?]", "*", True),
    ("* and ? in a class are members", "[*?]", "x", False),
    ("[ in a class is a member", "[[]", "[", True),
    ("[ without ] is itself", "a[b", "a[b", True),
    ("[ without ] is itself", "a[b", "ab", False),
    ("[ without ] is itself, alone", "[", "[", True),
    ("[] is not closed", "[]", "[]", True),
    ("[!] is not closed", "[!]", "[!]", True),
    ("[! is not closed", "[!", "[!", True),
    ("[a- is not closed", "[a-", "[a-", True),
    ("[ without ] leaves what follows special", "[a*", "[abc", True),
    ("] alone is itself", "a]", "a]", True),
    ("- alone is itself", "a-c", "b", False),
    ("\\c is c", "fpt_t\\1", "fpt_t1", True),
    ("\\* is *", "a\\*", "a*", True),
    ("\\* is *", "a\\*", "ab", False),
    ("\\? is ?", "a\\?", "ab", False),
    ("\\[ is [", "\\[a]", "[a]", True),
    ("\\\\ is \\", "\\\\", "\\", True),
    ("\\ last protects the end", "ab\\", "ab", True),
    ("\\ last protects the end", "ab\\", "ab\\", False),
    ("* then \\ last", "*\\", "anything", True),
]


@pytest.mark.parametrize(("rule", "pattern", "text", "matches"), CASES, ids=[f"{c[0]}: {c[1]}~{c[2]}" for c in CASES])
def test_glob_match_rule(rule: str, pattern: str, text: str, matches: bool) -> None:
    assert glob_match(pattern, text) is matches, rule


# One element of a pattern. Possessive, as glob.c never looks back within a class; DOTALL, as it knows no lines.
_ELEMENT = re.compile(
    r"(?P<star>\*)|(?P<any>\?)"
    r"|\[(?P<not>!?+)(?P<spans>(?>.-[^\]]|.)(?>(?!\]).-[^\]]|[^\]])*+)\]"
    r"|\\(?P<quoted>.?)|(?P<plain>.)",
    re.DOTALL,
)


# The oracle: all positions of the text that a prefix of the pattern can reach, element by element. No backtracking.
def reachable(pattern: str, text: str) -> bool:
    positions = {0}
    for element in _ELEMENT.finditer(pattern):
        if element["star"]:
            positions = {end for start in positions for end in range(start, len(text) + 1)}
        elif element["quoted"] == "":
            positions &= {len(text)}
        else:
            positions = {at + 1 for at in positions if at < len(text) and _takes(element, text[at])}
    return len(text) in positions


def _takes(element: re.Match[str], char: str) -> bool:
    if element["any"]:
        return True
    if element["spans"]:
        spans = re.findall(r"(.)-([^\]])|(.)", element["spans"], re.DOTALL)
        return any(low <= char <= high or char == one for low, high, one in spans if low or one) != bool(element["not"])
    return char == (element["quoted"] or element["plain"])


@given(pattern=st.text("ab-]![*?\\^", max_size=9), text=st.text("ab-]![\\^", max_size=7))
@settings(max_examples=120)
def test_glob_match_agrees_with_the_set_of_reachable_positions(pattern: str, text: str) -> None:
    assert glob_match(pattern, text) is reachable(pattern, text)


@given(pattern=st.text("ab*", max_size=12), text=st.text("ab", max_size=12))
@settings(max_examples=50)
def test_glob_match_of_many_stars_agrees_with_the_set_of_reachable_positions(pattern: str, text: str) -> None:
    assert glob_match(pattern, text) is reachable(pattern, text)


def test_glob_match_needs_no_exponential_time_for_many_stars() -> None:
    """Going back to the last star only is enough; more levels would not end here."""
    assert glob_match("*a" * 25 + "b", "a" * 400) is False
