"""What an unwinder knows of code addresses: the kernel's text, its ORC entries, ftrace's trampolines, return hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fprobe_gdb.errors import ImageError, MemoryFault
from fprobe_gdb.kernel.image import KernelImage
from fprobe_gdb.kernel.orc import OrcBase, OrcEntry, OrcTable, OrcType
from fprobe_gdb.kernel.symbols import SymbolTable
from fprobe_gdb.kernel.unwind_stack import Read
from fprobe_gdb.registers import MASK64

__all__ = ["FRAME_POINTER_GUESS", "HOOKS", "KernelCode", "ModuleOrc"]

#: Where the tracers of the kernel send a function's return (arch/x86/kernel: ftrace_64.S, rethook.c, kprobes/core.c).
HOOKS = ("return_to_handler", "arch_rethook_trampoline", "__kretprobe_trampoline", "kretprobe_trampoline")
# Modules, BPF programs and ftrace's trampolines lie above the image and below the fixed mappings
# (Documentation/x86/x86_64/mm), ours on either side of it.
_CODE_START, _CODE_END = 0xFFFF_FFFF_8000_0000, 0xFFFF_FFFF_FF00_0000
_PAGE_BYTES = 4096
# Each of ftrace's entry functions: its name and the label up to which trampolines are exact copies of it.
_FTRACE_CALLERS = (("ftrace_regs_caller", "ftrace_regs_caller_op_ptr"), ("ftrace_caller", "ftrace_caller_op_ptr"))
_MAX_CALLER_BYTES = 1024

# push %rbp; mov %rsp,%rbp: somewhere in a function's first bytes, behind ENDBR and the fentry call.
_SET_FRAME = bytes.fromhex("554889e5")
_HEAD_BYTES = 24
_FENTRY_END = 9

#: For generated code, which ORC does not know: as ``orc_fp_entry`` in arch/x86/kernel/unwind_orc.c.
FRAME_POINTER_GUESS = OrcEntry(OrcType.CALL, OrcBase.BP, 16, OrcBase.PREV_SP, -16, False)
# A call through a NULL pointer: ``null_orc_entry``.
_NULL_CALL = OrcEntry(OrcType.CALL, OrcBase.SP, 8, OrcBase.UNDEFINED, 0, False)


class ModuleOrc(NamedTuple):
    """The ORC table of a module (or anything else outside the image), for addresses of the running kernel."""

    start: int
    stop: int
    table: OrcTable


class KernelCode:
    """The code of one running kernel.

    :param slide: what KASLR has added to the image's addresses.
    """

    def __init__(self, image: KernelImage, symbols: SymbolTable, slide: int = 0) -> None:
        self.image = image
        self.symbols = symbols
        self.slide = slide
        self.table = OrcTable.from_image(image, symbols)
        #: More tables, filled as modules become known.
        self.modules: list[ModuleOrc] = []
        #: Asked for addresses outside the image that none of these covers.
        self.find_table: Callable[[int], OrcTable | None] = lambda ip: None
        sections = [(s.addr, s.end) for s in image.sections if s.is_exec and s.size_bytes]
        self._text = sections or [image.text_range]
        self._image_start, self._image_end = self._text[0][0], max(end for _, end in self._text)
        self._hooks = {addr for name in HOOKS for addr in symbols.addresses(name)}
        self._callers = [
            (start[0], label[0] - start[0])
            for name, until in _FTRACE_CALLERS
            if (start := symbols.addresses(name))
            and (label := symbols.addresses(until))
            and 0 < label[0] - start[0] <= _MAX_CALLER_BYTES
        ]

    def is_text(self, ip: int) -> bool:
        """Whether an address of the running kernel is in the image's code."""
        link = (ip - self.slide) & MASK64
        return any(start <= link < end for start, end in self._text)

    def is_code(self, ip: int) -> bool:
        """Whether it may be code: the image's, a module's, or generated."""
        outside = not self._image_start <= ip - self.slide < self._image_end
        return self.is_text(ip) or (outside and _CODE_START <= ip < _CODE_END)

    def is_hook(self, ip: int) -> bool:
        """Whether the kernel's own tracers put this address into return slots."""
        return (ip - self.slide) & MASK64 in self._hooks

    def orc(self, ip: int) -> OrcEntry | None:
        """The ORC entry of an instruction, None for code that no table covers."""
        if ip == 0:
            return _NULL_CALL
        if self.table is not None and self.is_text(ip):
            return self.table.find((ip - self.slide) & MASK64)
        table = next((m.table for m in self.modules if m.start <= ip < m.stop), None) or self.find_table(ip)
        return table.find(ip) if table else None

    def trampoline_origin(self, ip: int, read: Read) -> int | None:
        """For an address in a trampoline of ftrace, the one in the image's function that it was copied from, else None.

        The kernel asks its list of ftrace_ops (``orc_ftrace_find``). From outside the code tells: a trampoline begins
        at a page and is a copy of ftrace_regs_caller or ftrace_caller, exact up to where it loads its ftrace_ops.
        Two or three reads.
        """
        start = ip & -_PAGE_BYTES
        if self.is_text(ip) or not self.is_code(ip):
            return None
        for caller, size in self._callers:
            try:
                if read(caller + self.slide, size) == read(start, size):
                    return caller + self.slide + ip - start
            except MemoryFault:
                return None
        return None

    def pushed_words(self, ip: int) -> int | None:
        """How many words a function with frame pointers has pushed before an instruction of its beginning.

        :return: None behind the beginning, where the frame pointer is the function's own.
        """
        link = (ip - self.slide) & MASK64
        found = self.symbols.lookup(link)
        if found is None or found[1] > _HEAD_BYTES or not self.is_text(ip):
            return None
        try:
            head = self.image.read(found[0].addr, _HEAD_BYTES + len(_SET_FRAME))
        except ImageError:
            return None
        push = head.find(_SET_FRAME)
        if push < 0:
            return 0 if found[1] <= _FENTRY_END else None
        return 0 if found[1] <= push else 1 if found[1] == push + 1 else None

    def symbolize(self, ip: int, *, back: int = 0) -> str:
        """``vfs_read+0x75`` for an address of the running kernel.

        :param back: how far before ``ip`` to look for the symbol.
        """
        found = self.symbols.lookup((ip - back - self.slide) & MASK64)
        if found is None:
            return f"{ip:#x}"
        symbol, offset = found
        return f"{symbol.name}+{offset + back:#x}" + (f" [{symbol.module}]" if symbol.module else "")
