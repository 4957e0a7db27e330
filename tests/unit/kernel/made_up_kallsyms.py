"""Encodes kallsyms tables as the ``scripts/kallsyms.c`` of each generation lays them out."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from fprobe_gdb.kernel.symbols import Symbol

#: Link address of the made-up read-only data.
RODATA = 0xFFFFFFFF82000000
TEXT = 0xFFFFFFFF81000000
_WORDS = [b"read", b"write", b"__x64_sys_", b"tcp_", b"_lock", b"vfs_", b"init", b"get", b"set", b"_", b"Tt", b"na"]


@dataclass(frozen=True)
class Generation:
    """One way to lay the tables out: ``order`` of labels, ``code`` of addresses."""

    order: str
    code: str
    seq_bytes: int = 3
    align: int = 8


OLD = "addresses base num names markers token_table token_index"
WITH_SEQS = "addresses base num names markers seqs token_table token_index"
NEW = "num names markers token_table token_index addresses base seqs"
NEWEST = "num names markers token_table token_index addresses seqs"

GENERATIONS = {
    "5.10, SMP": Generation(OLD, "percpu"),
    "5.10, UP": Generation(OLD, "unsigned"),
    "5.10, absolute": Generation(OLD.replace("base ", ""), "absolute"),
    "6.2, SMP": Generation(WITH_SEQS, "percpu"),
    "6.2, early": Generation(WITH_SEQS, "percpu", seq_bytes=4),
    "6.2, UP": Generation(WITH_SEQS, "unsigned"),
    "6.4, SMP": Generation(NEW, "percpu"),
    "6.15": Generation(NEW, "unsigned"),
    "6.4, absolute": Generation(NEWEST, "absolute"),
    "7.0": Generation(NEWEST, "place"),
    "7.0, tight": Generation(NEWEST, "place", align=4),
}


def some_symbols(count: int, *, percpu: bool = False) -> list[Symbol]:
    """Ascending symbols with aliases, all kinds of characters and, when percpu, absolute ones at the start."""
    symbols = [Symbol(f"percpu_{i}", 0x1000 * i, "A") for i in range(10)] if percpu else []
    for i in range(count - len(symbols)):
        stem = ("vfs_read", "tcp_init", "__x64_sys_get", "do_WRITE.isra", "__SCT__lock")[i % 5]
        name = f"{stem}_{i * 7919 % 1234567890}"
        symbols.append(Symbol(name, TEXT + 48 * (i - (i % 9 == 1)), "TtDdRrBbWV"[i % 10]))
    return symbols


def tokens_for(symbols: list[Symbol]) -> list[bytes]:
    """256 tokens: characters in use stand for themselves, other codes for words, the rest for nothing."""
    used = {byte for symbol in symbols for byte in (symbol.type + symbol.name).encode()} | set(b"0123456789")
    words = iter(_WORDS)
    return [bytes([code]) if code in used else next(words, b"") for code in range(256)]


def _compress(text: bytes, tokens: list[bytes]) -> bytes:
    long_ones = [(code, token) for code, token in enumerate(tokens) if len(token) > 1]
    packed, at = b"", 0
    while at < len(text):
        code, token = next(((c, t) for c, t in long_ones if text.startswith(t, at)), (text[at], text[at : at + 1]))
        packed += bytes([code])
        at += len(token)
    size = len(packed)
    return (bytes([size]) if size < 0x80 else bytes([size & 0x7F | 0x80, size >> 7])) + packed


def _addresses(symbols: list[Symbol], code: str, place: int, base: int) -> bytes:
    if code == "absolute":
        return b"".join(struct.pack("<Q", symbol.addr) for symbol in symbols)
    if code == "unsigned":
        return b"".join(struct.pack("<I", symbol.addr - base) for symbol in symbols)
    if code == "percpu":
        offsets = [s.addr if s.type == "A" else base - 1 - s.addr for s in symbols]
        return b"".join(struct.pack("<i", offset) for offset in offsets)
    return b"".join(struct.pack("<i", s.addr - (place + 4 * i)) for i, s in enumerate(symbols))


def rodata(symbols: list[Symbol], generation: Generation, before: bytes = b"\x5a" * 333) -> bytes:
    """Read-only data with the tables in it."""
    tokens = tokens_for(symbols)
    base = next(symbol.addr for symbol in symbols if symbol.type != "A")
    names, markers = b"", b""
    for i, symbol in enumerate(symbols):
        if i % 256 == 0:
            markers += struct.pack("<I", len(names))
        names += _compress((symbol.type + symbol.name).encode(), tokens)
    index, at = b"", 0
    for token in tokens:
        index += struct.pack("<H", at)
        at += len(token) + 1
    by_name = sorted(range(len(symbols)), key=lambda i: symbols[i].name)
    tables = {
        "base": struct.pack("<Q", base),
        "num": struct.pack("<I", len(symbols)),
        "names": names,
        "markers": markers,
        "seqs": b"".join(i.to_bytes(generation.seq_bytes, "big") for i in by_name),
        "token_table": b"".join(token + b"\0" for token in tokens),
        "token_index": index,
    }
    data = bytearray(before)
    for label in generation.order.split():
        data += bytes(-len(data) % generation.align)
        if label == "addresses":
            tables[label] = _addresses(symbols, generation.code, RODATA + len(data), base)
        data += tables[label]
    return bytes(data) + b"\xa5" * 100
