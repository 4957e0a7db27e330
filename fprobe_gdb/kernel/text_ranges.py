"""The kernel's special stretches of text: freed after boot, or never traced. Their bounds are linker symbols."""

from __future__ import annotations

from fprobe_gdb.kernel.image import KernelImage
from fprobe_gdb.kernel.symbols import SymbolTable

__all__ = ["TextRanges"]

# include/asm-generic/vmlinux.lds.h and arch/x86/kernel/vmlinux.lds.S: name in the linker script, what lies there.
_UNTRACED = (
    ("__noinstr_text", "it is noinstr code (.noinstr.text), which must not be instrumented"),
    ("__cpuidle_text", "it is idle code (.cpuidle.text), which must not be instrumented"),
    ("__entry_text", "it is kernel entry code (.entry.text), which runs before tracing is possible"),
    ("__irqentry_text", "it is an interrupt entry stub"),
    ("__static_call_text", "it is a static call trampoline"),
    ("__indirect_thunk", "it is a retpoline thunk"),
)
_INIT_SECTIONS = (".init.text", ".exit.text", ".altinstr_aux", ".altinstr_replacement")


class TextRanges:
    """Which special stretch an address is in."""

    def __init__(self, image: KernelImage, symbols: SymbolTable) -> None:
        self._init = [
            (start, stop)
            for first, last in (("__init_begin", "__init_end"), ("_sinittext", "_einittext"))
            for start, stop in zip(symbols.addresses(first), symbols.addresses(last), strict=False)
        ]
        self._init += [(s.addr, s.end) for name in _INIT_SECTIONS if (s := image.section(name)) is not None]
        self._untraced = [
            (start, stop, why)
            for name, why in _UNTRACED
            for start, stop in zip(symbols.addresses(f"{name}_start"), symbols.addresses(f"{name}_end"), strict=False)
        ]

    def is_init(self, addr: int) -> bool:
        """Whether the code is given back to the page allocator after boot (``free_initmem``)."""
        return any(start <= addr < stop for start, stop in self._init)

    def why_untraced(self, addr: int) -> str:
        """Why nothing there is traced, as a clause; "" for ordinary text."""
        return next((why for start, stop, why in self._untraced if start <= addr < stop), "")
