"""Modules of a catalog kernel, and those that they need, as files for a guest in which ``modprobe NAME`` finds them."""

from __future__ import annotations

import io
import lzma
from collections.abc import Iterable
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from images.errors import BadPackage, UnknownName
from images.fetch import KernelFiles

__all__ = ["module_bytes", "module_files", "module_paths"]

_NEAR = 5


def module_paths(kernel: KernelFiles) -> dict[str, Path]:
    """All modules of a kernel: their files by name, with underscores."""
    return {_plain(path.name): path for path in sorted(kernel.modules.glob("kernel/**/*.ko*"))}


def module_files(kernel: KernelFiles, names: Iterable[str]) -> dict[str, bytes]:
    """Files by path in the guest: the modules, unpacked, and a ``modules.dep`` of them.

    :param names: as ``modprobe`` takes them: without folder and ending, dashes or underscores.
    :raise UnknownName: this kernel has no such module; it may be built in.
    :raise BadPackage: a module's file is damaged.
    """
    folder = f"lib/modules/{kernel.release}"
    there = module_paths(kernel)
    needs: dict[str, list[str]] = {}
    files: dict[str, bytes] = {}
    wanted = [_plain(name) for name in names]
    while wanted:
        name = wanted.pop()
        if name in needs:
            continue
        if name not in there:
            raise UnknownName(f"module of kernel {kernel.name}", name, _near(name, there))
        code = module_bytes(there[name])
        needs[name] = _depends(code, there[name])
        wanted += needs[name]
        files[f"{folder}/{name}.ko"] = code
    lines = [f"{name}.ko: {' '.join(f'{other}.ko' for other in _closure(name, needs))}" for name in sorted(needs)]
    if lines:
        files[f"{folder}/modules.dep"] = "".join(f"{line.rstrip()}\n" for line in lines).encode()
    return files


def module_bytes(path: Path) -> bytes:
    """The ELF file that a ``.ko`` or ``.ko.xz`` is.

    :raise BadPackage: it is damaged, or packed in another way.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".xz":
            data = lzma.decompress(data)
    except (OSError, lzma.LZMAError) as error:
        raise BadPackage(path.name, f"cannot be read: {error}") from error
    if not data.startswith(b"\x7fELF"):
        raise BadPackage(path.name, "is no ELF file (packed in a way that is not known here?)")
    return data


# "depends=" of the section .modinfo.
def _depends(code: bytes, path: Path) -> list[str]:
    try:
        section = ELFFile(io.BytesIO(code)).get_section_by_name(".modinfo")
        words = section.data().split(b"\0") if section is not None else []
    except ELFError as error:
        raise BadPackage(path.name, f"is a damaged ELF file: {error}") from error
    found = next((word for word in words if word.startswith(b"depends=")), b"depends=")
    return [_plain(name) for name in found.removeprefix(b"depends=").decode("ascii", "replace").split(",") if name]


# All that a module needs, in the order in which modules.dep has it: nearest first, to be loaded from the end.
def _closure(name: str, needs: dict[str, list[str]]) -> list[str]:
    found: list[str] = []
    for other in needs[name]:
        for one in (other, *_closure(other, needs)):
            if one in found:
                found.remove(one)
            found.append(one)
    return found


def _plain(name: str) -> str:
    return name.partition(".ko")[0].replace("-", "_")


def _near(name: str, there: Iterable[str]) -> list[str]:
    return sorted(there, key=lambda one: (name not in one, one[:3] != name[:3], one))[:_NEAR]
