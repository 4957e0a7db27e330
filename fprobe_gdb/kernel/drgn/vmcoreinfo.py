"""VMCOREINFO: what a kernel writes down about itself for those who look at it from outside; drgn begins with it."""

from __future__ import annotations

import contextlib

from fprobe_gdb.errors import MemoryFault
from fprobe_gdb.kernel.image import KernelImage
from fprobe_gdb.kernel.symbols import SymbolTable
from fprobe_gdb.kernel.values import GuestMemory

__all__ = ["made_up_vmcoreinfo", "read_vmcoreinfo"]

# VMCOREINFO_BYTES (include/linux/vmcore_info.h, Linux 6.12) is one page.
_MAX_BYTES = 4096
_PAGE_BYTES = 4096


def read_vmcoreinfo(memory: GuestMemory, symbols: SymbolTable) -> bytes | None:
    """The guest's own text; None before it is written (a late initcall) or where the kernel has none."""
    try:
        addr = _read_int(memory, symbols, "vmcoreinfo_data", 8)
        size_bytes = _read_int(memory, symbols, "vmcoreinfo_size", 8)
        if not addr or not 0 < size_bytes <= _MAX_BYTES:
            return None
        text = memory.read(addr, size_bytes, memory.epoch)
    except MemoryFault:
        return None
    return text if text.startswith(b"OSRELEASE=") else None


def made_up_vmcoreinfo(memory: GuestMemory, symbols: SymbolTable, image: KernelImage, slide: int) -> bytes:
    """The few lines that drgn cannot do without, for a kernel that has no text of its own (yet).

    :param slide: how far KASLR has moved the kernel.
    """
    (stext,) = symbols.addresses("_stext")[:1] or (0,)
    # x86_64 calls swapper_pg_dir so (arch/x86/include/asm/pgtable_64.h, Linux 6.12). drgn wants it to be there; it is
    # for walks of page tables that our reading of memory makes needless.
    (pgd,) = symbols.addresses("init_top_pgt")[:1] or (stext or 1,)
    words = image.banner.split()
    lines = [
        f"OSRELEASE={words[2] if len(words) > 2 else 'unknown'}",
        f"PAGESIZE={_PAGE_BYTES}",
        f"SYMBOL(swapper_pg_dir)={pgd:x}",
        f"SYMBOL(_stext)={stext:x}",
        f"KERNELOFFSET={slide:x}",
    ]
    with contextlib.suppress(MemoryFault):
        lines.append(f"NUMBER(pgtable_l5_enabled)={_read_int(memory, symbols, '__pgtable_l5_enabled', 4)}")
    return "".join(f"{line}\n" for line in lines).encode()


# 0 where there is no such variable.
def _read_int(memory: GuestMemory, symbols: SymbolTable, name: str, size_bytes: int) -> int:
    addrs = symbols.addresses(name)
    return int.from_bytes(memory.read(addrs[0], size_bytes, memory.epoch), "little") if addrs else 0
