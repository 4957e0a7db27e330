"""Text from the guest made harmless. A guest may print anything; a terminal obeys some of it.

Rule: every string of an event that may come from the guest (console lines, and symbol names too, which come from its
image) goes through :func:`printable` before it reaches a terminal and through :func:`scalar_values` before JSON.
"""

from __future__ import annotations

import re

__all__ = ["encodable", "printable", "scalar_values"]

_SURROGATE = re.compile("[\ud800-\udfff]")
# Bytes that are no UTF-8, as the error handler "surrogateescape" keeps them: 0x80 + i becomes U+DC80 + i.
_ESCAPED_BYTES = range(0xDC80, 0xDD00)


def printable(text: str) -> str:
    r"""``text`` on one line, with everything that does not simply print shown as an escape (``\x1b``, ``\u202e``).

    That is what :meth:`str.isprintable` refuses: control characters (C0, C1, DEL), formatting characters (such as those
    that reverse the order of a line), line and paragraph separators, surrogates, unassigned characters. Tabs become
    spaces; an end of line at the end is dropped. Backslashes of the guest stay as they are.
    """
    if text.isprintable():
        return text
    text = text.rstrip("\r\n")
    if "\t" in text:
        text = text.expandtabs()
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def scalar_values(text: str) -> str:
    r"""``text`` without surrogates, which strict readers of JSON refuse: bytes as ``\xff``, others as ``\ud800``."""
    return text if text.isascii() else _SURROGATE.sub(lambda match: _escaped(match[0]), text)


def encodable(text: str, encoding: str) -> str:
    r"""``text`` with escapes (``\xe9``, ``\u2192``) for what ``encoding`` does not have."""
    return text if text.isascii() else text.encode(encoding, "backslashreplace").decode(encoding)


def _escaped(char: str) -> str:
    code = ord(char)
    if code in _ESCAPED_BYTES:
        return f"\\x{code - 0xDC00:02x}"
    # Python's own escapes: \n, \x1b, \u202e, \U000e0001.
    return char.encode("unicode_escape").decode("ascii")
