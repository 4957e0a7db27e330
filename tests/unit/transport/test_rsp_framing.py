"""The remote protocol's framing: tables of wire bytes and packets, fed whole and byte by byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fprobe_gdb.errors import ProtocolError
from fprobe_gdb.transport.rsp import PacketParser, frame

# GDB manual, "Overview" of the remote protocol: "0* " is four zeros.
PACKETS = [
    (b"$OK#9a", [b"OK"]),
    (b"$#00", [b""]),
    (b"+$OK#9a", [b"OK"]),
    (b"++$OK#9A+$#00+", [b"OK", b""]),
    (b"$0* #7a", [b"0000"]),
    (b"$}\x03#80", [b"#"]),
    (b"$T05thread:01;#07+", [b"T05thread:01;"]),
]
GARBAGE = [
    b"hello",
    b"-",
    b"%Stop:T05#aa",
    b"\x00",
    b"$OK#9b",
    b"$OK#zz",
    b"$a$b#e7",
    b"$* #4a",
    b"$a}#de",
    b"$a*#8b",
    b"$a*\x1f#aa",
]


def packets(parser: PacketParser) -> list[bytes]:
    found = []
    while (packet := parser.next_packet()) is not None:
        found.append(packet)
    return found


@pytest.mark.parametrize(("wire", "expected"), PACKETS)
def test_packets(wire: bytes, expected: list[bytes]) -> None:
    whole = PacketParser()
    whole.feed(wire)
    assert packets(whole) == expected

    piecewise, found = PacketParser(), []
    for byte in wire:
        piecewise.feed(bytes((byte,)))
        found += packets(piecewise)
    assert found == expected


@pytest.mark.parametrize("wire", GARBAGE)
def test_garbage_is_an_error_and_stays_one(wire: bytes) -> None:
    parser = PacketParser()
    parser.feed(wire)
    for _ in range(2):
        with pytest.raises(ProtocolError):
            parser.next_packet()
    parser.feed(b"$OK#9a")
    with pytest.raises(ProtocolError):
        parser.next_packet()


def test_a_packet_without_an_end_is_bounded() -> None:
    parser = PacketParser(max_packet_bytes=100)
    parser.feed(b"$" + b"a" * 90)
    assert parser.next_packet() is None
    parser.feed(b"a" * 90)
    with pytest.raises(ProtocolError, match="more than 100 bytes"):
        parser.next_packet()


def test_a_run_length_bomb_is_bounded() -> None:
    wire = b"a" + b"*~" * 50
    parser = PacketParser(max_packet_bytes=200)
    parser.feed(b"$" + wire + b"#%02x" % (sum(wire) & 0xFF))
    with pytest.raises(ProtocolError, match="unpacks to more"):
        parser.next_packet()


@given(st.binary(max_size=200), st.integers(1, 7))
def test_what_is_framed_comes_back(payload: bytes, piece_bytes: int) -> None:
    wire, parser, found = frame(payload), PacketParser(), []
    for at in range(0, len(wire), piece_bytes):
        parser.feed(wire[at : at + piece_bytes])
        found += packets(parser)
    assert found == [payload]


@given(st.binary(max_size=300))
def test_any_bytes_end_in_packets_or_an_error(wire: bytes) -> None:
    parser = PacketParser()
    parser.feed(wire)
    try:
        found = packets(parser)
    except ProtocolError:
        return
    assert sum(map(len, found)) <= 98 * len(wire)
