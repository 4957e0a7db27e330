"""A kernel image file as its sections and segments, readable at link addresses.

All addresses are those that the kernel was linked at (``0xffffffff81000000`` and up, and from 0 for ``.data..percpu``
of kernels before 6.15). A kernel booted with ``nokaslr`` runs at the same ones.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile

from fprobe_gdb.errors import ImageError
from fprobe_gdb.kernel.payload import MAX_VMLINUX_BYTES, unpack

__all__ = ["NONSENSE", "KernelImage", "Section", "Segment"]

_SHF_WRITE = 1
_SHF_ALLOC = 2
_SHF_EXECINSTR = 4
_MAX_NAME_BYTES = 256
_EM_X86_64 = "EM_X86_64"
#: What pyelftools lets out when the headers are nonsense.
NONSENSE = (
    ELFError,
    ConstructError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    OverflowError,
    OSError,
)
_BUILD_ID = re.compile(rb"\x04\0\0\0([\x08-\x40])\0\0\0\x03\0\0\0GNU\0", re.DOTALL)
# linux_banner; an earlier, weak copy of it (init/version.c) still lacks the build number behind the "#".
_BANNER = re.compile(rb"Linux version \d[\x20-\x7e]{1,1000} #\d[\x20-\x7e]{0,1000}")


@dataclass(frozen=True, slots=True)
class Section:
    """One ELF section: ``addr`` and ``size_bytes`` as linked, ``offset`` in the ELF file."""

    name: str
    addr: int
    offset: int
    size_bytes: int
    is_alloc: bool
    is_exec: bool
    is_writable: bool
    has_bytes: bool
    link: int = 0

    @property
    def end(self) -> int:
        """The address after its last byte."""
        return self.addr + self.size_bytes


@dataclass(frozen=True, slots=True)
class Segment:
    """One PT_LOAD segment; what ``mem_bytes`` has beyond ``file_bytes`` is zero."""

    addr: int
    phys_addr: int
    offset: int
    file_bytes: int
    mem_bytes: int
    is_exec: bool


@dataclass(frozen=True, slots=False, eq=False)
class KernelImage:
    """An opened kernel image. Made by :meth:`open` or :meth:`from_bytes`."""

    #: The file that it came from, for messages.
    path: str
    #: The whole ELF image.
    elf: bytes = field(repr=False)
    #: In the order of the section header table, whose index ``Section.link`` uses.
    sections: tuple[Section, ...] = field(repr=False)
    segments: tuple[Segment, ...] = field(repr=False)
    #: How the kernel was packed: ``"xz"``, ..., or ``"none"``.
    compressor: str = "none"
    #: From the boot header; None for a bare ELF, which does not say.
    is_relocatable: bool | None = None

    @classmethod
    def open(cls, path: str | PathLike[str]) -> KernelImage:
        """Read a bzImage or an ELF ``vmlinux``. About 0.3 s for a distribution's kernel.

        :raise ImageError: it cannot be read, is no x86_64 kernel image, is truncated or damaged.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise ImageError(str(path), f"cannot be read: {error.strerror or error}") from error
        return cls.from_bytes(data, str(path))

    @classmethod
    def from_bytes(cls, data: bytes, path: str = "kernel image") -> KernelImage:
        """The same, from the file's bytes.

        :raise ImageError: as :meth:`open`.
        """
        unpacked = unpack(data, path)
        sections, segments = _headers(unpacked.elf, path)
        return cls(path, unpacked.elf, sections, segments, unpacked.compressor, unpacked.is_relocatable)

    def section(self, name: str) -> Section | None:
        """The first section of this name, or None."""
        return next((section for section in self.sections if section.name == name), None)

    def section_bytes(self, section: Section) -> bytes:
        """A section's contents; zeros when the file has none (``.bss``)."""
        if not section.has_bytes:
            return bytes(section.size_bytes)
        return self.elf[section.offset : section.offset + section.size_bytes]

    def read(self, addr: int, size_bytes: int) -> bytes:
        """Bytes at a link address, as they are before the kernel patches itself.

        :raise ImageError: the image has nothing there.
        """
        for segment in self.segments:
            skip = addr - segment.addr
            if skip >= 0 and size_bytes >= 0 and skip + size_bytes <= segment.mem_bytes:
                start = segment.offset + skip
                stop = min(start + size_bytes, segment.offset + segment.file_bytes)
                return self.elf[start:stop].ljust(size_bytes, b"\0") if stop > start else bytes(size_bytes)
        raise ImageError(self.path, f"has no {size_bytes} bytes at link address {addr:#x}")

    @cached_property
    def banner(self) -> str:
        """``Linux version 6.1.0-... #1 SMP ...``, or "" where none is found."""
        where = self.section(".rodata")
        found = _BANNER.search(self.elf, where.offset, where.offset + where.size_bytes) if where else None
        found = found or _BANNER.search(self.elf)
        return found[0].decode("ascii") if found else ""

    @cached_property
    def build_id(self) -> str | None:
        """The GNU build ID in hex, or None."""
        where = self.section(".notes")
        data = self.section_bytes(where) if where else b""
        found = _BUILD_ID.search(data)
        return data[found.end() : found.end() + found[1][0]].hex() if found else None

    @property
    def text_range(self) -> tuple[int, int]:
        """Start and end address of ``.text``, which holds all code that stays after boot.

        :raise ImageError: it has no ``.text``.
        """
        text = self.section(".text")
        if text is not None:
            return text.addr, text.end
        for segment in self.segments:
            if segment.is_exec:
                return segment.addr, segment.addr + segment.mem_bytes
        raise ImageError(self.path, "has no .text section and no executable segment")


# Section and segment headers, checked so that later slices cannot fall outside the file. They are read one by one as
# plain records: pyelftools' section objects follow links and tables, which in a damaged file lead anywhere.
def _headers(elf: bytes, path: str) -> tuple[tuple[Section, ...], tuple[Segment, ...]]:
    try:
        file = ELFFile(io.BytesIO(elf))
        header, structs = file.header, file.structs
        raw_sections = _records(elf, structs.Elf_Shdr, header["e_shoff"], header["e_shnum"])
        raw_segments = _records(elf, structs.Elf_Phdr, header["e_phoff"], header["e_phnum"])
        names_at = raw_sections[header["e_shstrndx"]]["sh_offset"] if raw_sections else 0
        sections = tuple(_section(_string(elf, names_at + raw["sh_name"]), raw) for raw in raw_sections)
        segments = tuple(_segment(raw) for raw in raw_segments if raw["p_type"] == "PT_LOAD")
    except NONSENSE as error:
        raise ImageError(path, f"its ELF headers cannot be read ({error}); damaged or truncated") from error
    if header["e_machine"] != _EM_X86_64:
        raise ImageError(path, f"an ELF file for {header['e_machine']}; only x86_64 kernels can be used")
    for section in sections:
        if section.has_bytes and section.offset + section.size_bytes > len(elf):
            raise ImageError(path, f"truncated: section {section.name} ends behind the file's end")
        if section.size_bytes > MAX_VMLINUX_BYTES:
            raise ImageError(path, f"section {section.name} claims {section.size_bytes} bytes; the file is damaged")
    for segment in segments:
        if segment.offset + segment.file_bytes > len(elf) or segment.file_bytes > segment.mem_bytes:
            raise ImageError(path, f"truncated: the segment for {segment.addr:#x} ends behind the file's end")
    if not segments:
        raise ImageError(path, "an ELF file without loadable segments (an object file or a module?), not a kernel")
    return sections, segments


# A table of fixed-size records. A file has at most 0xff00 of either kind, so a loop over them is bounded.
def _records(elf: bytes, layout: Any, offset: int, count: int) -> list[Any]:
    size_bytes = layout.sizeof()
    if offset + count * size_bytes > len(elf):
        raise ValueError(f"a table of {count} headers at {offset:#x} ends behind the file's end")
    return [layout.parse(elf[at : at + size_bytes]) for at in range(offset, offset + count * size_bytes, size_bytes)]


def _string(elf: bytes, at: int) -> str:
    end = elf.find(b"\0", at, at + _MAX_NAME_BYTES)
    return elf[at:end].decode("ascii", "replace") if end >= at else ""


def _section(name: str, header: Any) -> Section:
    flags = int(header["sh_flags"])
    return Section(
        name=name,
        addr=int(header["sh_addr"]),
        offset=int(header["sh_offset"]),
        size_bytes=int(header["sh_size"]),
        is_alloc=bool(flags & _SHF_ALLOC),
        is_exec=bool(flags & _SHF_EXECINSTR),
        is_writable=bool(flags & _SHF_WRITE),
        has_bytes=header["sh_type"] not in ("SHT_NOBITS", "SHT_NULL"),
        link=int(header["sh_link"]),
    )


def _segment(header: Any) -> Segment:
    return Segment(
        addr=header["p_vaddr"],
        phys_addr=header["p_paddr"],
        offset=header["p_offset"],
        file_bytes=header["p_filesz"],
        mem_bytes=header["p_memsz"],
        is_exec=bool(header["p_flags"] & 1),
    )
