"""Where a kernel's symbols come from: ELF symtab, System.map, ``/proc/kallsyms`` text, or the kallsyms tables."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path

from fprobe_gdb.errors import ImageError
from fprobe_gdb.kernel.image import KernelImage, Section
from fprobe_gdb.kernel.kallsyms import kallsyms_of_image
from fprobe_gdb.kernel.symbols import Symbol, SymbolTable

__all__ = [
    "from_elf",
    "from_kallsyms_tables",
    "from_proc_kallsyms",
    "from_system_map",
    "kallsyms_order",
    "load_symbols",
]

_SYMTAB_ENTRY = struct.Struct("<IBBHQQ")
_STT_OBJECT, _STT_FUNC = 1, 2
_STB_LOCAL, _STB_WEAK = 0, 2
_SHN_UNDEF, _SHN_LORESERVE = 0, 0xFF00
# What scripts/mksysmap leaves out: linker and compiler scaffolding.
_SCAFFOLDING = (".L", "L0", "$", "__crc_", "__kstrtab_", "__kstrtabns_", "__kcfi_typeid_")
_STUB_TEXT = "The real System.map is in"


def load_symbols(
    image: KernelImage,
    *,
    system_map: str | PathLike[str] | None = None,
    kallsyms: str | PathLike[str] | None = None,
) -> SymbolTable:
    """The symbols of an image from the best source that there is.

    In order: the image's ELF symtab, System.map, ``/proc/kallsyms`` text, the kallsyms tables in the image. A Debian
    System.map that is only a stub is passed over.

    :param system_map: path of the kernel's System.map.
    :param kallsyms: path of a copy of the guest's ``/proc/kallsyms``, read by root, from a boot with ``nokaslr``.
    :raise ImageError: no source has symbols, or a file that was given is damaged.
    """
    table = from_elf(image)
    if table is not None:
        return table
    if system_map is not None:
        text = _read(system_map)
        if not is_stub(text):
            return from_system_map(text, str(system_map))
    if kallsyms is not None:
        return from_proc_kallsyms(_read(kallsyms), str(kallsyms))
    return from_kallsyms_tables(image)


def from_kallsyms_tables(image: KernelImage) -> SymbolTable:
    """The symbols that the kernel carries for itself; no other file is needed. About 0.4 s for 120,000.

    :raise ImageError: the image has none (CONFIG_KALLSYMS off) or they are damaged.
    """
    return SymbolTable(kallsyms_of_image(image), "kallsyms tables")


def from_system_map(text: str, path: str = "System.map") -> SymbolTable:
    """The symbols of a System.map, aliases put in kallsyms order.

    :raise ImageError: it is Debian's stub, empty, or a line cannot be read.
    """
    if is_stub(text):
        raise ImageError(path, "only a stub (Debian ships the real one in the linux-image-<version>-dbg package)")
    symbols = _parse(text, path)
    return SymbolTable(kallsyms_order(symbols), "System.map")


def from_proc_kallsyms(text: str, path: str = "/proc/kallsyms") -> SymbolTable:
    """The symbols of a ``/proc/kallsyms`` text, modules included.

    :raise ImageError: all addresses are zero (not read by root), it is empty, or a line cannot be read.
    """
    symbols = _parse(text, path)
    if not any(symbol.addr for symbol in symbols):
        raise ImageError(path, "all addresses are zero: read it as root, with kernel.kptr_restrict below 2")
    return SymbolTable(symbols, "/proc/kallsyms")


def is_stub(text: str) -> bool:
    """Whether a System.map is the one line that Debian ships in its place."""
    return _STUB_TEXT in text[:200]


def kallsyms_order(symbols: Iterable[Symbol]) -> list[Symbol]:
    """Sorted as the kernel's build does it (scripts/kallsyms.c, compare_symbols).

    By address; then weak ones last, names as linker scripts make them last, fewer leading underscores first.
    """
    return sorted(symbols, key=_rank)


def _rank(symbol: Symbol) -> tuple[int, bool, bool, int]:
    name = symbol.name
    return symbol.addr, symbol.type in "wW", _is_linker_provided(name), len(name) - len(name.lstrip("_"))


# "may_be_linker_script_provide_symbol" of scripts/kallsyms.c
def _is_linker_provided(name: str) -> bool:
    if len(name) < 8 or not name.startswith("__"):
        return False
    return name.startswith(("__start_", "__stop_", "__end_")) or name.endswith(("_start", "_end"))


def _read(path: str | PathLike[str]) -> str:
    try:
        return Path(path).read_text("ascii")
    except UnicodeDecodeError as error:
        raise ImageError(str(path), "not a text of symbols") from error
    except OSError as error:
        raise ImageError(str(path), f"cannot be read: {error.strerror or error}") from error


# Lines of "address type name" and, for a module's symbol, "[module]".
def _parse(text: str, path: str) -> list[Symbol]:
    symbols = []
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split()
        if not parts:
            continue
        try:
            addr = int(parts[0], 16)
            kind, name = parts[1], parts[2]
            module = parts[3].strip("[]") if len(parts) > 3 else ""
        except (ValueError, IndexError) as error:
            raise ImageError(path, f"line {number} is not 'address type name': {line[:80]!r}") from error
        if len(kind) != 1 or addr >> 64 or len(parts) > 4:
            raise ImageError(path, f"line {number} is not 'address type name': {line[:80]!r}")
        symbols.append(Symbol(name, addr, kind, module))
    if not symbols:
        raise ImageError(path, "holds no symbols")
    return symbols


def from_elf(image: KernelImage) -> SymbolTable | None:
    """The symbols of an ELF ``vmlinux``, aliases in kallsyms order; None for a stripped one.

    :raise ImageError: the symbol table is damaged.
    """
    table = image.section(".symtab")
    if table is None or not table.size_bytes:
        return None
    if not 0 < table.link < len(image.sections) or table.size_bytes % _SYMTAB_ENTRY.size:
        raise ImageError(image.path, "its .symtab is damaged")
    names = image.section_bytes(image.sections[table.link])
    kinds = [_kind_of(section) for section in image.sections]
    symbols = []
    for entry in _SYMTAB_ENTRY.iter_unpack(image.section_bytes(table)):
        symbol = _elf_symbol(entry, names, kinds)
        if symbol is not None:
            symbols.append(symbol)
    if not symbols:
        return None
    return SymbolTable(kallsyms_order(symbols), "ELF symtab")


def _elf_symbol(entry: tuple[int, ...], names: bytes, kinds: Sequence[str]) -> Symbol | None:
    name_at, info, _other, section_index, addr, _size = entry
    bind, kind = info >> 4, info & 0xF
    if kind > _STT_FUNC or section_index == _SHN_UNDEF or section_index >= min(_SHN_LORESERVE, len(kinds)):
        return None
    end = names.find(b"\0", name_at)
    name = names[name_at:end].decode("ascii", "replace")
    letter = kinds[section_index]
    if not name or not letter or name.startswith(_SCAFFOLDING):
        return None
    if letter == "A":
        return Symbol(name, addr, letter)
    if bind == _STB_WEAK:
        return Symbol(name, addr, "V" if kind == _STT_OBJECT else "W")
    return Symbol(name, addr, letter if bind == _STB_LOCAL else letter.upper())


# The letter that nm gives to a local symbol of this section; "" for one that is not loaded.
def _kind_of(section: Section) -> str:
    if not section.is_alloc:
        return ""
    if section.name == ".data..percpu" and section.addr < 1 << 63:
        return "A"  # scripts/kallsyms.c, make_percpus_absolute()
    if section.is_exec:
        return "t"
    if not section.has_bytes:
        return "b"
    return "d" if section.is_writable else "r"
