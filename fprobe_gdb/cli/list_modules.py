"""``fprobe-gdb list 'FUNC [MODULE]'``: functions of modules of a catalog kernel, out of their files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import images
from fprobe_gdb.errors import BtfError, InvalidProbe, TypeLookupError, UsageError
from fprobe_gdb.kernel.btf import Btf
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from fprobe_gdb.kernel.module_file import ModuleFile
from fprobe_gdb.kernel.sites import SiteKind
from fprobe_gdb.probe.glob import glob_match
from fprobe_gdb.probe.module_patterns import ModulePattern
from images.modules import module_bytes, module_paths

__all__ = ["module_lines"]


def module_lines(pattern: ModulePattern, kernel: str | None, knowledge: KernelKnowledge, verbose: bool) -> list[str]:
    """A line for each function: its place in the file, the kind of site, and its name or prototype.

    :raise UsageError: the kernel is not of the catalog, so nobody knows where its modules are.
    :raise InvalidProbe: it has no such module, or the module no such function.
    """
    if kernel is not None and ("/" in kernel or Path(kernel).is_file()):
        raise UsageError(f"{pattern.text!r} needs the modules of the kernel, which are known for the catalog's alone")
    paths = {name: path for name, path in module_paths(images.kernel(kernel)).items() if pattern.matches_module(name)}
    lines = [line for name, path in paths.items() for line in _lines(pattern, name, path, knowledge, verbose)]
    if not lines:
        what = f"traceable function of {', '.join(paths)}" if paths else "module of this kernel; it may be built in"
        error = InvalidProbe(f"pattern {pattern.text!r} matches no {what}")
        error.no_match = True
        raise error
    return lines


def _lines(pattern: ModulePattern, name: str, path: Path, knowledge: KernelKnowledge, verbose: bool) -> Iterator[str]:
    module = ModuleFile.read(name, module_bytes(path))
    btf = None
    if verbose and module.btf is not None:
        btf = Btf.from_bytes(module.btf, f"module {name}", knowledge.btf)
    for one in module.functions:
        if glob_match(pattern.func, one.name):
            place = f"{one.section}+{one.offset:#x}"
            yield f"{place:>16}  {SiteKind.FENTRY_CALL.value:<11} {_text(btf, one.name)} [{name}]"


def _text(btf: Btf | None, name: str) -> str:
    try:
        return f"{btf.function(name)}" if btf is not None else name
    except (BtfError, TypeLookupError):
        return name
