"""kallsyms tables of every generation decode to what went in, and damaged ones are an ImageError."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fprobe_gdb.errors import ImageError
from fprobe_gdb.kernel.image import KernelImage
from fprobe_gdb.kernel.kallsyms import decode_kallsyms, kallsyms_of_image
from fprobe_gdb.kernel.symbols import Symbol
from tests.unit.kernel.made_up_image import ALLOC, EXEC, Part, elf
from tests.unit.kernel.made_up_kallsyms import GENERATIONS, RODATA, TEXT, Generation, rodata, some_symbols

SPAN = (TEXT, RODATA + (1 << 20))
each_generation = pytest.mark.parametrize("generation", GENERATIONS.values(), ids=GENERATIONS)


def symbols_for(generation: Generation, count: int = 700) -> list[Symbol]:
    return some_symbols(count, percpu=generation.code in ("percpu", "absolute"))


@each_generation
@pytest.mark.parametrize("count", [300, 512, 513])
def test_what_went_in_comes_out(generation: Generation, count: int) -> None:
    symbols = symbols_for(generation, count)
    assert decode_kallsyms(rodata(symbols, generation), RODATA, SPAN) == symbols


@each_generation
def test_long_names_have_two_bytes_of_length(generation: Generation) -> None:
    symbols = symbols_for(generation)
    symbols[300] = symbols[300]._replace(name="q" * 511)
    symbols[301] = symbols[301]._replace(name="z" * 127)
    symbols[-1] = symbols[-1]._replace(name="y" * 126)
    assert decode_kallsyms(rodata(symbols, generation), RODATA, SPAN) == symbols


def test_numbers_before_the_tables_do_not_mislead() -> None:
    symbols = some_symbols(400)
    decoys = (
        b"".join(struct.pack("<Q", n) for n in range(1, 400)) + b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00"
    )
    assert decode_kallsyms(rodata(symbols, GENERATIONS["6.15"], decoys), RODATA, SPAN) == symbols


@pytest.mark.parametrize("name", ["5.10, SMP", "6.4, SMP", "7.0"])
def test_they_are_found_in_an_image(name: str) -> None:
    symbols = symbols_for(GENERATIONS[name])
    data = rodata(symbols, GENERATIONS[name])
    parts = [Part(".text", TEXT, b"\xcc" * 64, ALLOC | EXEC), Part(".rodata", RODATA, data)]
    assert kallsyms_of_image(KernelImage.from_bytes(elf(parts))) == symbols
    parts[1].name = ".somewhere"  # then the segments are searched
    assert kallsyms_of_image(KernelImage.from_bytes(elf(parts))) == symbols


@pytest.mark.parametrize(
    "data", [b"", b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00", random.Random(1).randbytes(9000)]
)
def test_data_without_tables_is_an_image_error(data: bytes) -> None:
    with pytest.raises(ImageError, match="no kallsyms tables"):
        decode_kallsyms(data, RODATA, SPAN)


@each_generation
def test_contradictions_are_an_image_error(generation: Generation) -> None:
    symbols = symbols_for(generation)
    good = rodata(symbols, generation)
    descending = [symbol._replace(addr=symbol.addr + 0x1000 * (i == 400)) for i, symbol in enumerate(symbols)]
    with pytest.raises(ImageError, match="no table of ascending addresses"):
        decode_kallsyms(rodata(descending, generation), RODATA, SPAN)
    with pytest.raises(ImageError, match="no table of names"):
        decode_kallsyms(
            good.replace(struct.pack("<II", 700, 0)[: generation.align], b"\0" * generation.align), RODATA, SPAN
        )
    with pytest.raises(ImageError):
        decode_kallsyms(good, RODATA, (TEXT + 4096, SPAN[1]))
    with pytest.raises(ImageError):
        decode_kallsyms(good, RODATA, (TEXT - 4096, SPAN[1]))
    with pytest.raises(ImageError):
        decode_kallsyms(good, RODATA, (TEXT, symbols[-1].addr - 1))


@each_generation
def test_every_truncation_is_an_image_error(generation: Generation) -> None:
    symbols = symbols_for(generation, 300)
    whole = rodata(symbols, generation)[:-100]
    needed = len(whole) - (3 * 300 if generation.order.endswith("seqs") else 0) - 8
    for size in range(0, needed, 397):
        with pytest.raises(ImageError):
            decode_kallsyms(whole[:size], RODATA, SPAN)


_DAMAGED = {name: rodata(symbols_for(g, 300), g) for name, g in GENERATIONS.items()}


@settings(max_examples=100)
@given(
    name=st.sampled_from(sorted(_DAMAGED)),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), min_size=1, max_size=6),
)
def test_damage_gives_an_image_error_or_ascending_symbols(name: str, flips: list[tuple[float, int]]) -> None:
    data = bytearray(_DAMAGED[name])
    for where, bits in flips:
        data[int(where * len(data))] ^= bits
    try:
        symbols = decode_kallsyms(bytes(data), RODATA, SPAN)
    except ImageError:
        return
    addrs = [symbol.addr for symbol in symbols]
    assert addrs == sorted(addrs)
    assert all(symbol.type and (symbol.addr < 1 << 30 or SPAN[0] <= symbol.addr <= SPAN[1]) for symbol in symbols)
