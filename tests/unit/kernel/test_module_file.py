"""Module files: what is no module, and damaged ones. Real ones are compared with guests in tests/integration."""

from __future__ import annotations

import contextlib
import random
import struct

import pytest

from fprobe_gdb.errors import ImageError
from fprobe_gdb.kernel.module_file import ModuleFile, ModuleFunction
from tests.unit.kernel.made_up_image import ALLOC, EXEC, SHT_STRTAB, SHT_SYMTAB, Part, elf

SHT_RELA = 4
NAMES = b"\0xmit\0setup\0gone\0"
# Section numbers, in the order of parts(): the first is 1.
TEXT, INIT, SYMTAB, STRTAB = 1, 2, 3, 4


def symbol(name: bytes, kind: int, section: int, value: int) -> bytes:
    return struct.pack("<IBBHQQ", NAMES.index(b"\0" + name) + 1 if name else 0, kind, 0, section, value, 16)


def ko() -> bytes:
    function, section = 2, 3
    symbols = [
        bytes(24), symbol(b"", section, TEXT, 0), symbol(b"", section, INIT, 0), symbol(b"xmit", function, TEXT, 0x10),
        symbol(b"setup", function, TEXT, 0x40), symbol(b"gone", function, INIT, 0),
    ]  # fmt: skip
    # xmit behind ENDBR, setup without, one in the middle of a function, and one of .init.text
    sites = [(1, 0x14), (1, 0x40), (1, 0x50), (2, 0)]
    relocations = b"".join(struct.pack("<QQq", 8 * i, base << 32 | 1, addend) for i, (base, addend) in enumerate(sites))
    return elf(
        [
            Part(".text", 0, bytes(0x80), ALLOC | EXEC),
            Part(".init.text", 0, bytes(0x10), ALLOC | EXEC),
            Part(".symtab", 0, b"".join(symbols), 0, SHT_SYMTAB, STRTAB, 24),
            Part(".strtab", 0, NAMES, 0, SHT_STRTAB),
            Part(".rela__mcount_loc", 0, relocations, 0, SHT_RELA, SYMTAB, 24),
            Part(".BTF", 0, b"types", 0),
        ]
    )


def test_functions_and_types() -> None:
    module = ModuleFile.read("dummy", ko())
    assert module.functions == (
        ModuleFunction("xmit", "dummy", ".text", 0x14),
        ModuleFunction("setup", "dummy", ".text", 0x40),
        ModuleFunction("gone", "dummy", ".init.text", 0),
    )
    assert module.btf == b"types"


def test_a_module_without_ftrace_and_types() -> None:
    assert ModuleFile.read("dummy", elf([Part(".modinfo", 0, b"license=GPL\0", 0)])) == ModuleFile("dummy", (), None)


def test_no_module() -> None:
    with pytest.raises(ImageError, match=r"dummy\.ko"):
        ModuleFile.read("dummy", b"#!/bin/sh\n")


@pytest.mark.parametrize("seed", range(40))
def test_damaged_files_are_image_errors_or_read_in_part(seed: int) -> None:
    rng = random.Random(seed)
    data = bytearray(ko())
    for _ in range(rng.randrange(1, 30)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    with contextlib.suppress(ImageError):
        ModuleFile.read("dummy", bytes(data[: rng.randrange(64, len(data) + 1)]))
