"""Planting: what is written where, what is refused and why, and that a refusal changes nothing."""

from __future__ import annotations

import pytest

from fprobe_gdb.dispatch.trampoline.planter import Planter
from fprobe_gdb.errors import MemoryFault, PlantRefused, SiteInUse, SiteNoFentry, SiteOutOfReach, SiteUnmapped

TEXT = 0xFFFFFFFF81000000
PAD = 0xFFFFFFFF83C00000
FENTRY = TEXT + 0x9000
NOPS = [bytes.fromhex(nop) for nop in ("0f1f440000", "6666666690", "3e8d742600")]


def call(ip: int, to: int) -> bytes:
    return b"\xe8" + (to - ip - 5).to_bytes(4, "little", signed=True)


class Text:
    """Kernel text, and a debugger that writes to it."""

    def __init__(self) -> None:
        self.bytes = bytearray(b"\x90" * 0x1000)
        self.planter = Planter(self, self.read, PAD, FENTRY)  # type: ignore[arg-type]

    def read(self, addr: int, size_bytes: int) -> bytes:
        if not TEXT <= addr <= TEXT + len(self.bytes) - size_bytes:
            raise MemoryFault(addr, size_bytes)
        return bytes(self.bytes[addr - TEXT : addr - TEXT + size_bytes])

    def put(self, ip: int, code: bytes) -> None:
        self.bytes[ip - TEXT : ip - TEXT + len(code)] = code

    def write_many(self, requests: list[tuple[int, bytes]]) -> None:
        for ip, code in requests:
            self.put(ip, code)


@pytest.mark.parametrize("own", [*NOPS, call(TEXT + 0x40, FENTRY)], ids=["p6", "k8", "generic", "call"])
def test_plant_and_back(own: bytes) -> None:
    text = Text()
    text.put(TEXT + 0x40, own)
    before = bytes(text.bytes)
    text.planter.plant([TEXT + 0x40])
    assert text.read(TEXT + 0x40, 5) == call(TEXT + 0x40, PAD)
    assert (TEXT + 0x40) in text.planter
    assert len(text.planter) == 1
    text.planter.plant([TEXT + 0x40])
    text.planter.unplant([TEXT + 0x40, TEXT + 0x80])
    assert bytes(text.bytes) == before
    assert not text.planter.ips


def test_all_at_once() -> None:
    text = Text()
    ips = range(TEXT, TEXT + 0x1000, 16)
    for ip in ips:
        text.put(ip, NOPS[0])
    before = bytes(text.bytes)
    text.planter.plant(ips)
    assert all(text.read(ip, 5) == call(ip, PAD) for ip in ips)
    text.planter.unplant_all()
    assert bytes(text.bytes) == before


@pytest.mark.parametrize(
    ("ip", "code", "error", "says"),
    [
        (TEXT + 0x40, bytes.fromhex("4157415641"), SiteNoFentry, "41 57 41 56 41"),
        (TEXT + 0x40, call(TEXT + 0x40, TEXT - 0x1000), SiteInUse, hex(TEXT - 0x1000)),
        (TEXT + 0x1000, b"", SiteUnmapped, "__init"),
    ],
)
def test_refusals_change_nothing(ip: int, code: bytes, error: type[PlantRefused], says: str) -> None:
    text = Text()
    text.put(TEXT, NOPS[0])
    if code:
        text.put(ip, code)
    before = bytes(text.bytes)
    with pytest.raises(error, match=says) as caught:
        text.planter.plant([TEXT, ip])
    assert caught.value.ip == ip
    assert bytes(text.bytes) == before
    assert not len(text.planter)


def test_out_of_reach() -> None:
    text = Text()
    text.put(TEXT, NOPS[0])
    far = Planter(text, text.read, TEXT + (3 << 30))  # type: ignore[arg-type]
    with pytest.raises(SiteOutOfReach):
        far.plant([TEXT])
