"""Characters to tokens: C's literals, and durations (``5us``, ``1.5ms``).

A number's C type is the first of ``int``, ``long`` (and, for hexadecimal and octal ones, the unsigned types between)
that holds it, or what its suffix says; as in C.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from fprobe_gdb.errors import ExprError

__all__ = ["MAX_CHARS", "Token", "duration_ns", "tokenize"]

#: Longer texts are refused; what people write has some hundred characters.
MAX_CHARS = 4096

_OPERATORS = ("<<", ">>", "<=", ">=", "==", "!=", "=~", "&&", "||", "->", *"<>+-*/%&|^~!?:()[].,")
_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<number>[0-9][\w.\u00b5\u03bc]*)"
    r"|(?P<name>\$?[A-Za-z_][A-Za-z0-9_]*)"
    r'|(?P<string>"(?:[^"\\\n]|\\.)*")'
    r"|(?P<char>'(?:[^'\\\n]|\\.)*')"
    r"|(?P<operator>" + "|".join(map(re.escape, _OPERATORS)) + ")",
    re.ASCII,
)
_WORDS = {"and": "&&", "or": "||", "=~": "~"}
_KEYWORDS = frozenset(("not", "in"))
_DURATION = re.compile(r"([0-9]+)(?:\.([0-9]+))?(ns|us|\u00b5s|\u03bcs|ms|s)")
_UNIT_NS = {"ns": 1, "us": 1000, "\u00b5s": 1000, "\u03bcs": 1000, "ms": 1_000_000, "s": 1_000_000_000}
_INTEGER = re.compile(r"(0[xX][0-9a-fA-F]+|0[bB][01]+|0[0-7]*|[1-9][0-9]*)((?:[uU][lL]{0,2})|(?:[lL]{1,2}[uU]?))?")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{1,2})|([0-7]{1,3})|(.))")
_ESCAPES = {"n": 10, "t": 9, "r": 13, "a": 7, "b": 8, "f": 12, "v": 11, "e": 27, "\\": 92, '"': 34, "'": 39}
_HINTS = {"=": "to compare, write ==", ";": "there are no statements here", "'": "this ' has no end",
          '"': 'this " has no end', "{": "lists are written ( )"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Token:
    """One token. ``kind`` is ``number``, ``name``, ``string``, ``end``, or the operator or keyword itself."""

    kind: str
    column: int
    text: str = ""
    #: Of a number, with its C type.
    value: int = 0
    bits: int = 32
    signed: bool = True


def tokenize(text: str) -> list[Token]:
    """All tokens of a text, and one of the kind ``end``.

    :raise ExprError: something in it is no token, or it is too long.
    """
    if len(text) > MAX_CHARS:
        raise ExprError(f"the expression has {len(text):,} characters; {MAX_CHARS:,} are the limit", text, MAX_CHARS)
    found: list[Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ExprError(_HINTS.get(text[at], f"{text[at]!r} means nothing here"), text, at)
        if match.lastgroup != "space":
            found.append(_token(match, text))
        at = match.end()
    return [*found, Token("end", len(text.rstrip()))]


def duration_ns(word: str) -> int | None:
    """Nanoseconds of ``5us``, ``1.5ms``, ``2s``, ``10ns``; None for other text. Parts of a nanosecond round up."""
    match = _DURATION.fullmatch(word)
    if match is None:
        return None
    return -int(-Fraction(f"{match[1]}.{match[2] or 0}") * _UNIT_NS[match[3]] // 1)


def _token(match: re.Match[str], text: str) -> Token:
    at, word = match.start(), match[0]
    match match.lastgroup:
        case "number":
            return _number(word, text, at)
        case "string":
            raw = _unescaped(word[1:-1], text, at + 1)
            if b"\0" in raw:
                raise ExprError("a C string ends at its first \\0; it cannot hold one", text, at)
            return Token("string", at, raw.decode("utf-8", "backslashreplace"))
        case "char":
            return _char(word, text, at)
        case "name" if word not in _WORDS and word not in _KEYWORDS:
            return Token("name", at, word)
    return Token(_WORDS.get(word, word), at, word)


def _number(word: str, text: str, at: int) -> Token:
    nanoseconds = duration_ns(word)
    if nanoseconds is not None:
        if nanoseconds >> 63:
            raise ExprError(f"{word} is longer than 64 bits of nanoseconds", text, at)
        return Token("number", at, word, nanoseconds, 64, True)
    match = _INTEGER.fullmatch(word)
    if match is None:
        raise ExprError(_number_hint(word), text, at)
    digits, suffix = match[1], (match[2] or "").lower()
    is_decimal = digits[0] != "0"
    value = int(digits, 10 if is_decimal else 0 if digits[1:2].isalpha() else 8)
    for bits, signed in ((32, True), (32, False), (64, True), (64, False)):
        allowed = (signed or "u" in suffix or not is_decimal) and not (signed and "u" in suffix)
        if allowed and not ("l" in suffix and bits == 32) and not value >> (bits - signed):
            return Token("number", at, word, value, bits, signed)
    if not value >> 64:
        # C has no type for it; the kernel's addresses are such numbers.
        return Token("number", at, word, value, 64, False)
    raise ExprError(f"{word} does not fit into 64 bits", text, at)


def _number_hint(word: str) -> str:
    if re.fullmatch(r"[0-9]+\.[0-9]*", word):
        return f"{word} is no integer; only durations have fractions, as 1.5ms"
    if re.fullmatch(r"0[0-9]+", word):
        return f"{word} begins with 0 and is octal in C; it has digits that octal numbers lack"
    return f"{word} is no number; integers are 10, 0x1f, 017, durations 10ns, 5us, 1.5ms, 2s"


def _char(word: str, text: str, at: int) -> Token:
    raw = _unescaped(word[1:-1], text, at + 1)
    if len(raw) != 1:
        hint = 'strings take double quotes, as "cat"' if len(raw) > 1 else "there is no character between the quotes"
        raise ExprError(hint, text, at)
    # char is signed on x86.
    return Token("number", at, word, raw[0] - 256 if raw[0] > 127 else raw[0])


def _unescaped(body: str, text: str, at: int) -> bytes:
    found, end = b"", 0
    for match in _ESCAPE.finditer(body):
        found += _utf8(body[end : match.start()], text, at + end) + bytes([_escape(match, text, at + match.start())])
        end = match.end()
    return found + _utf8(body[end:], text, at + end)


# Bytes of the command line that are no UTF-8 come to Python as lone surrogates.
def _utf8(piece: str, text: str, at: int) -> bytes:
    try:
        return piece.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ExprError("this character cannot be in a string", text, at + error.start) from None


def _escape(match: re.Match[str], text: str, column: int) -> int:
    if match[1]:
        return int(match[1], 16)
    if match[2]:
        if int(match[2], 8) > 255:
            raise ExprError(f"{match[0]} is more than a byte", text, column)
        return int(match[2], 8)
    if match[3] not in _ESCAPES:
        raise ExprError(f"C has no escape {match[0]!s}", text, column)
    return _ESCAPES[match[3]]
