"""C types as people write them: ``unsigned long``, ``struct file *``, ``const char *[4]``.

Only what can be written without a name in the middle: no function pointers.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from fprobe_gdb.errors import TypeNotFound

__all__ = ["Spelling", "kernel_int_name", "parse_type", "same_int_names"]

_TOKEN = re.compile(r"\s*([A-Za-z_]\w*|\*|\[\s*(?:0[xX][0-9a-fA-F]+|\d+)?\s*\]|\S)")
_INT_WORDS = frozenset(("unsigned", "signed", "long", "short", "int", "char", "__int128"))
_QUALIFIERS = frozenset(("const", "volatile", "restrict"))
_TAGS = frozenset(("struct", "union", "enum"))
_MAX_CHARS = 4096
_MAX_SUFFIXES = 32
_MAX_ARRAY = (1 << 32) - 1


class Spelling(NamedTuple):
    """A type as its innermost name and what is made of it."""

    #: ``struct``, ``union``, ``enum``, or "".
    tag: str
    name: str
    #: From the inside out: ``*`` for a pointer, a number for an array of so many, a qualifier.
    suffixes: tuple[str | int, ...]


def parse_type(text: str) -> Spelling:
    """Take a written type apart.

    :raise TypeNotFound: it is no type that can be written so.
    """
    tokens = _TOKEN.findall(text) if len(text) <= _MAX_CHARS else []
    tag, at = "", 0
    words: list[str] = []
    qualifiers: list[str] = []
    while at < len(tokens) and re.match(r"\w", tokens[at]):
        word = tokens[at]
        if word in _QUALIFIERS:
            qualifiers.append(word)
        elif word in _TAGS and not words and not tag:
            tag = word
        else:
            words.append(word)
        at += 1
    name = " ".join(words) if len(words) == 1 or tag else _int_name(words)
    if not name or (tag and len(words) != 1):
        raise TypeNotFound(f"type {text[:80]!r}")
    return Spelling(tag, name, (*qualifiers, *_suffixes(text, tokens[at:])))


def same_int_names(name: str) -> tuple[str, ...]:
    """The spellings of an integer type that compilers put into type information, for any spelling of it."""
    words = name.split()
    if not words or not set(words) <= _INT_WORDS:
        return (name,)
    core = "char" if "char" in words else "__int128" if "__int128" in words else "int"
    length = "short" if "short" in words else " ".join(["long"] * words.count("long"))
    is_unsigned = "unsigned" in words
    sign = "unsigned" if is_unsigned else "signed" if core == "char" and "signed" in words else ""
    gcc = (length, sign, core)
    clang = (sign, length, core if core != "int" or not length else "")
    return tuple(dict.fromkeys(" ".join(filter(None, order)) for order in (gcc, (sign, length, core), clang)))


def kernel_int_name(name: str) -> str:
    """How the kernel's sources spell an integer type: ``unsigned long`` for a compiler's ``long unsigned int``."""
    words = name.split()
    if len(words) < 2 or not set(words) <= _INT_WORDS:
        return name
    kept = [word for word in words if word not in ("int", "unsigned", "signed")]
    if "char" in words and "signed" in words:
        kept.insert(0, "signed")
    return " ".join((["unsigned"] if "unsigned" in words else []) + (kept or ["int"]))


# Only integer types have names of several words.
def _int_name(words: list[str]) -> str:
    return " ".join(words) if words and set(words) <= _INT_WORDS and words.count("long") <= 2 else ""


def _suffixes(text: str, tokens: list[str]) -> list[str | int]:
    found: list[str | int] = []
    counts: list[int] = []
    for token in tokens:
        if token.startswith("[") and len(token) > 1:
            counts.append(int(token.strip("[] \t") or "0", 0))
        elif (token == "*" or token in _QUALIFIERS) and not counts:
            found.append(token)
        else:
            raise TypeNotFound(f"type {text[:80]!r}")
    if len(tokens) > _MAX_SUFFIXES or any(count > _MAX_ARRAY for count in counts):
        raise TypeNotFound(f"type {text[:80]!r}")
    # int [2][3] is two arrays of three.
    return found + list(reversed(counts))
