"""A guest with one ``struct file`` in memory, as drgn sees it through us."""

from __future__ import annotations

import drgn

from fprobe_gdb.kernel.btf import Btf
from fprobe_gdb.kernel.drgn import DrgnPrograms, Guest
from fprobe_gdb.kernel.image import KernelImage
from fprobe_gdb.kernel.symbols import Symbol, SymbolTable
from tests.unit.kernel.btf.made_up_kernel_types import made_up
from tests.unit.kernel.made_up_image import EXEC, Part, elf
from tests.unit.kernel.values.made_up_memory import BASE, FILE, MadeUpMemory

TEXT = 0xFFFFFFFF81000000
BANNER = b"Linux version 6.1.0-made-up (gcc) #1 SMP\0"
SYMBOLS = SymbolTable(
    [
        Symbol("__per_cpu_start", 0, "A"),
        Symbol("_stext", TEXT, "T"),
        Symbol("vfs_read", TEXT + 0x10, "T"),
        Symbol("__do_vfs_read", TEXT + 0x10, "t"),
        Symbol("twin", TEXT + 0x40, "t"),
        Symbol("same", TEXT + 0x50, "t"),
        Symbol("same", TEXT + 0x60, "t"),
        Symbol("weak_one", TEXT + 0x70, "W"),
        Symbol("jiffies_64", TEXT + 0x100, "D"),
        # Room for one word only, where the table of types has three.
        Symbol("avenrun", TEXT + 0x108, "D"),
        Symbol("nr_cpu_ids", TEXT + 0x110, "D"),
        Symbol("init_task", TEXT + 0x120, "D"),
        Symbol("_end", TEXT + 0x1000, "B"),
    ]
)


class MadeUpGuest:
    """Programs over a page of memory, with an epoch."""

    def __init__(self) -> None:
        self.memory = MadeUpMemory()
        btf = made_up().bytes()
        self.image = KernelImage.from_bytes(
            elf([Part(".text", TEXT, b"\xc3" * 16, flags=6 | EXEC), Part(".rodata", TEXT + 0x200, BANNER)])
        )
        self.programs = DrgnPrograms(Guest(self.memory.guest_memory(), SYMBOLS, self.image, Btf.from_bytes(btf)))

    def file(self) -> drgn.Object:
        return drgn.Object(self.programs.program(), "struct file", address=FILE)


__all__ = ["BASE", "FILE", "TEXT", "MadeUpGuest"]
