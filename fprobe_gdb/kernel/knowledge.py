"""Everything that is known of a kernel before it runs, out of its image file alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from os import PathLike

from fprobe_gdb.kernel.btf import Btf
from fprobe_gdb.kernel.image import KernelImage
from fprobe_gdb.kernel.locations import LocationTable
from fprobe_gdb.kernel.percpu import PerCpuLayout
from fprobe_gdb.kernel.symbol_sources import load_symbols
from fprobe_gdb.kernel.symbols import SymbolTable

__all__ = ["KernelKnowledge"]


@dataclass(frozen=True, eq=False)
class KernelKnowledge:
    """One kernel's image, symbols, probe locations and per-CPU layout. All addresses are link addresses (nokaslr)."""

    image: KernelImage
    symbols: SymbolTable

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        *,
        system_map: str | PathLike[str] | None = None,
        kallsyms: str | PathLike[str] | None = None,
    ) -> KernelKnowledge:
        """Read a kernel: a bzImage or an ELF ``vmlinux``. 0.6 to 1.1 s with locations.

        :param system_map, kallsyms: other sources of symbols, see :func:`.load_symbols`.
        :raise ImageError: it is no kernel image, or a damaged one, or has no symbols.
        """
        image = KernelImage.open(path)
        return cls(image, load_symbols(image, system_map=system_map, kallsyms=kallsyms))

    @property
    def banner(self) -> str:
        """``Linux version ...``"""
        return self.image.banner

    @cached_property
    def locations(self) -> LocationTable:
        """The locations of the kernel once it has booted.

        :raise ImageError: the image's tables are damaged.
        """
        return LocationTable.build(self.image, self.symbols)

    @cached_property
    def boot_locations(self) -> LocationTable:
        """The locations while it boots: ``__init`` functions too."""
        return LocationTable.build(self.image, self.symbols, boot=True)

    @cached_property
    def percpu(self) -> PerCpuLayout:
        """Where ``current`` and the preempt count are.

        :raise ImageError: the symbols do not tell.
        """
        return PerCpuLayout.from_symbols(self.symbols, self.image)

    @cached_property
    def btf(self) -> Btf:
        """The kernel's types.

        :raise BtfError: the image has no BTF, or a damaged one.
        """
        return Btf.of_image(self.image)
