"""Patterns as ftrace reads them: ``lib/glob.c`` and ``filter_parse_regex()`` (kernel/trace/trace_events_filter.c).

Only what the kernel does, to the letter: no comma lists, no ``[^x]`` negation, no ``:mod:``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

__all__ = ["MatchType", "ParsedFilter", "glob_match", "has_meta", "matcher", "parse_filter"]


class MatchType(Enum):
    """``enum regex_type`` of kernel/trace/trace.h."""

    FULL = "full"
    FRONT_ONLY = "front"
    MIDDLE_ONLY = "middle"
    END_ONLY = "end"
    GLOB = "glob"
    INDEX = "index"


@dataclass(frozen=True, slots=True)
class ParsedFilter:
    """What ``filter_parse_regex()`` makes of a pattern."""

    type: MatchType
    #: The text to look for, without the ``*`` that only told the type.
    search: str
    #: The pattern began with ``!``.
    negated: bool


def parse_filter(pattern: str) -> ParsedFilter:
    """Tell how ftrace would match a pattern (Linux 6.1 and 6.12 agree).

    >>> parse_filter("vfs_*")
    ParsedFilter(type=<MatchType.FRONT_ONLY: 'front'>, search='vfs_', negated=False)
    """
    negated = pattern.startswith("!")
    text = pattern[1:] if negated else pattern
    if text[:1].isascii() and text[:1].isdigit():
        return ParsedFilter(MatchType.INDEX, text, negated)
    type_ = MatchType.FULL
    end = len(text)
    for i, char in enumerate(text):
        if char == "*":
            if i == 0:
                type_ = MatchType.END_ONLY
            elif i == len(text) - 1:
                type_ = MatchType.MIDDLE_ONLY if type_ is MatchType.END_ONLY else MatchType.FRONT_ONLY
                end = i
            else:
                return ParsedFilter(MatchType.GLOB, text, negated)
        elif char in "[?\\":
            return ParsedFilter(MatchType.GLOB, text, negated)
    return ParsedFilter(type_, text[1 if text.startswith("*") else 0 : end], negated)


def matcher(parsed: ParsedFilter) -> Callable[[str], bool]:
    """A function that tells whether a name matches, as ``ftrace_match()`` does. Not for :attr:`MatchType.INDEX`."""
    search = parsed.search
    match parsed.type:
        case MatchType.FULL:
            return lambda name: name == search
        case MatchType.FRONT_ONLY:
            return lambda name: name.startswith(search)
        case MatchType.END_ONLY:
            return lambda name: name.endswith(search)
        case MatchType.MIDDLE_ONLY:
            return lambda name: search in name
        case MatchType.GLOB:
            return lambda name: glob_match(search, name)
        case MatchType.INDEX:
            raise AssertionError("an index is not matched by name")


def has_meta(pattern: str) -> bool:
    """Whether a pattern can stand for more than the one name that it spells."""
    return any(char in "*?[\\!" for char in pattern)


def glob_match(pattern: str, text: str) -> bool:
    """Match as ``glob_match()`` of lib/glob.c: anchored at both ends, linear backtracking to the last ``*``.

    ``*`` any run, ``?`` one character, ``[a-z]`` and ``[!a-z]`` classes (``]`` first is a member, ``^`` always is),
    ``[`` without ``]`` is itself, ``\\c`` is c.
    """
    p = t = 0
    back_p = back_t = -1
    while True:
        if p < len(pattern) and pattern[p] == "*":
            if p + 1 == len(pattern):
                return True
            p += 1
            back_p, back_t = p, t
            continue
        if t == len(text):
            # The kernel reads the NUL behind a last backslash as the character that it protects.
            return pattern[p:] in ("", "\\")
        matched, following = _match_one(pattern, p, text[t])
        if matched:
            p, t = following, t + 1
        elif back_p >= 0:
            # Let the last star take one more character and try again from there.
            back_t += 1
            p, t = back_p, back_t
        else:
            return False


# One pattern element against one character: (does it match, where the pattern goes on).
def _match_one(pattern: str, p: int, char: str) -> tuple[bool, int]:
    if p == len(pattern):
        return False, p
    element = pattern[p]
    if element == "?":
        return True, p + 1
    if element == "[":
        found = _match_class(pattern, p + 1, char)
        if found is not None:
            return found
    elif element == "\\":
        return char == pattern[p + 1 : p + 2], p + 2
    return char == element, p + 1


# A class whose "[" stands at p - 1; None where it is never closed (the "[" is then an ordinary character).
def _match_class(pattern: str, p: int, char: str) -> tuple[bool, int] | None:
    inverted = p < len(pattern) and pattern[p] == "!"
    i = p + inverted
    matched = False
    first = True
    while True:
        if i >= len(pattern):
            return None
        low = pattern[i]
        if low == "]" and not first:
            return matched != inverted, i + 1
        first = False
        i += 1
        high = low
        if i + 1 < len(pattern) and pattern[i] == "-" and pattern[i + 1] != "]":
            high = pattern[i + 1]
            i += 2
        matched = matched or low <= char <= high
