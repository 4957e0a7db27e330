"""Numbers as the kernel's kstrtoul() and friends read them (lib/kstrtox.c, Linux 6.12).

Python's int() also reads spaces, underscores, ``0b1`` and the digits of all scripts.
"""

from __future__ import annotations

import re

__all__ = ["NotANumber", "kstrtol", "kstrtouint", "kstrtoul", "simple_strtoul"]

_DIGITS = re.compile(r"0[xX](?P<hex>[0-9a-fA-F]+)|(?P<octal>0[0-7]*)|(?P<decimal>[1-9][0-9]*)")
_DECIMAL = re.compile(r"[0-9]+")
# Longer than any 64-bit number with some zeros before it; int() must not be fed megabytes.
_MAX_DIGITS = 256


class NotANumber(ValueError):
    """The text is no number (``EINVAL``), or too large a one (``ERANGE``)."""

    def __init__(self, text: str, errno_name: str) -> None:
        super().__init__(f"{text[:_MAX_DIGITS]!r} is {'no number' if errno_name == 'EINVAL' else 'too large'}")
        self.errno_name = errno_name


def _unsigned(text: str, base: int) -> int:
    found = (_DECIMAL if base == 10 else _DIGITS).fullmatch(text)
    if found is None:
        raise NotANumber(text, "EINVAL")
    if len(text) > _MAX_DIGITS:
        raise NotANumber(text, "ERANGE")
    return int(text) if base == 10 else _value(found)


def _value(found: re.Match[str]) -> int:
    if found["hex"]:
        return int(found["hex"], 16)
    return int(found["octal"], 8) if found["octal"] else int(found["decimal"])


def kstrtoul(text: str, base: int = 0, bits: int = 64) -> int:
    """An unsigned number that is all of the text.

    :param base: 0 takes ``0x`` and ``0`` prefixes, 10 does not.
    :raise NotANumber: it is none, or does not fit.
    """
    value = _unsigned(text.removeprefix("+"), base)
    if value >= 1 << bits:
        raise NotANumber(text, "ERANGE")
    return value


def kstrtouint(text: str) -> int:
    """The same for 32 bits."""
    return kstrtoul(text, bits=32)


def kstrtol(text: str) -> int:
    """A signed number of 64 bits that is all of the text.

    :raise NotANumber: it is none, or does not fit.
    """
    if not text.startswith("-"):
        return kstrtoul(text, bits=63)
    value = _unsigned(text[1:], 0)
    if value > 1 << 63:
        raise NotANumber(text, "ERANGE")
    return -value


def simple_strtoul(text: str) -> tuple[int, str]:
    """The number that the text begins with (0 for none), and what follows it."""
    found = _DIGITS.match(text)
    if found is None or found.end() > _MAX_DIGITS:
        return 0, text
    return _value(found) & ((1 << 64) - 1), text[found.end() :]
