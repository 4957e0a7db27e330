"""A module's ``.ko`` file: which of its functions can be probed, without a guest that has loaded it.

It is an object file, not linked: places are offsets into sections. ``__mcount_loc`` is nothing but relocations, each of
which says where a fentry call is.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

from fprobe_gdb.errors import ImageError
from fprobe_gdb.kernel.image import NONSENSE
from fprobe_gdb.kernel.sites import ENDBR_BYTES

__all__ = ["INIT_TEXT", "ModuleFile", "ModuleFunction"]

_EXECUTABLE = 4
#: Where functions are that are freed when the module is initialised.
INIT_TEXT = ".init.text"
_GONE = ".exit.text"


@dataclass(frozen=True, slots=True)
class ModuleFunction:
    """A function with a fentry call."""

    name: str
    module: str
    #: Where the call is.
    section: str
    offset: int


@dataclass(frozen=True)
class ModuleFile:
    """What is in the file."""

    name: str
    functions: tuple[ModuleFunction, ...]
    #: Its split BTF; None where it was built without.
    btf: bytes | None

    @classmethod
    def read(cls, name: str, data: bytes) -> ModuleFile:
        """Read a file, unpacked.

        :param name: the module's, with underscores.
        :raise ImageError: it is damaged, or no module.
        """
        try:
            elf = ELFFile(io.BytesIO(data))
            btf = elf.get_section_by_name(".BTF")
            return cls(name, tuple(_functions(elf, name)), btf.data() if btf else None)
        except NONSENSE as error:
            raise ImageError(f"{name}.ko", f"it is no module, or a damaged one ({error})") from error


def _functions(elf: ELFFile, module: str) -> Iterator[ModuleFunction]:
    relocations, symbols = elf.get_section_by_name(".rela__mcount_loc"), elf.get_section_by_name(".symtab")
    if not isinstance(relocations, RelocationSection) or not isinstance(symbols, SymbolTableSection):
        return
    # The first name of each place, as ftrace has it.
    names: dict[tuple[int, int], str] = {}
    for symbol in symbols.iter_symbols():
        if symbol["st_info"]["type"] in ("STT_FUNC", "STT_NOTYPE") and isinstance(symbol["st_shndx"], int):
            names.setdefault((symbol["st_shndx"], symbol["st_value"]), symbol.name)
    sites = set()
    for one in relocations.iter_relocations():
        base = symbols.get_symbol(one["r_info_sym"])
        if isinstance(base["st_shndx"], int):
            sites.add((base["st_shndx"], base["st_value"] + one["r_addend"]))
    for index, offset in sorted(sites):
        section = elf.get_section(index)
        name = names.get((index, offset)) or names.get((index, offset - ENDBR_BYTES))
        if name and section["sh_flags"] & _EXECUTABLE and not section.name.startswith(_GONE):
            yield ModuleFunction(name, module, section.name, offset)
