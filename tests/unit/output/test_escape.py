"""What may not reach a terminal, and what may."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fprobe_gdb.output.escape import encodable, printable, scalar_values
from tests.unit.output.properties import PROPERTY


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain text, /dev/vda: 50%", "plain text, /dev/vda: 50%"),
        ("é 中 😀", "é 中 😀"),
        ("\x1b[2J", r"\x1b[2J"),  # clear the screen
        ("\x9b2J", r"\x9b2J"),  # the same with the 8-bit CSI
        ("\x1b]52;c;AAAA\x07", r"\x1b]52;c;AAAA\x07"),  # write to the clipboard
        ("50%\r100%", r"50%\r100%"),  # overwrite the line
        ("a\b\x7f\0", r"a\x08\x7f\x00"),
        ("one\ntwo", r"one\ntwo"),
        ("one\u2028two", r"one\u2028two"),
        ("a\u202eb", r"a\u202eb"),  # right-to-left override
        ("a\u200bb", r"a\u200bb"),  # zero width space
        ("\U000e0041", r"\U000e0041"),  # tag character, invisible
        ("\udc80\udcff", r"\x80\xff"),  # bytes that were no UTF-8
        ("\ud800", r"\ud800"),
        ("end of line\r\n", "end of line"),
        ("a\tb", "a       b"),
    ],
)
def test_printable(raw, shown):
    assert printable(raw) == shown


@PROPERTY
@given(st.text())
def test_printable_is_printable_and_stays_so(text):
    once = printable(text)
    assert once.isprintable()
    assert printable(once) == once


@PROPERTY
@given(st.binary())
def test_scalar_values_of_any_bytes_can_be_encoded(raw):
    scalar_values(raw.decode("utf-8", "surrogateescape")).encode("utf-8")


@PROPERTY
@given(st.text(st.characters(codec="utf-8")))
def test_scalar_values_leaves_proper_text_alone(text):
    assert scalar_values(text) == text


@PROPERTY
@given(st.text(st.characters(codec="utf-8")), st.sampled_from(["ascii", "latin-1", "cp437"]))
def test_encodable_can_be_encoded(text, encoding):
    encodable(text, encoding).encode(encoding)


def test_encodable_keeps_what_the_encoding_has():
    assert encodable("é→", "latin-1") == "é\\u2192"
