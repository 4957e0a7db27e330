"""Where KASLR has put the kernel: found by looking for its banner in guest memory.

The kernel image is mapped somewhere in a gigabyte from ``__START_KERNEL_map``, moved by a multiple of
CONFIG_PHYSICAL_ALIGN (2 MiB on x86_64 as distributions build it; arch/x86/boot/compressed/kaslr.c,
``find_random_virt_addr()``). So there are 512 places to look at, which is one pipelined exchange.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fprobe_gdb.errors import ImageError, MemoryFault
from fprobe_gdb.kernel.image import KernelImage
from fprobe_gdb.kernel.symbols import SymbolTable

__all__ = ["find_slide"]

_ALIGN = 2 << 20
# KERNEL_IMAGE_SIZE with KASLR (arch/x86/include/asm/page_64_types.h).
_REACH = 1 << 30
_BANNER_BYTES = 256

ReadMany = Callable[[Sequence[tuple[int, int]]], Sequence[bytes | MemoryFault]]


def find_slide(image: KernelImage, symbols: SymbolTable, read_many: ReadMany) -> int | None:
    """How far the guest's kernel is from its link addresses; 0 without KASLR.

    :param read_many: reads (address, size) pieces of guest memory with the kernel mapped.
    :return: None where the kernel is not mapped (yet), or is another one than this image.
    :raise ImageError: the image does not tell where its banner is.
    """
    banner = image.banner.encode()[:_BANNER_BYTES]
    addrs = [addr for addr in symbols.addresses("linux_banner") if image.read(addr, len(banner)) == banner]
    if not addrs:
        raise ImageError(image.path, "it has no linux_banner, so a guest cannot be checked to run it")
    # Most often there is no KASLR, and a read of one place will do.
    for slides in ([0], range(-_REACH + _ALIGN, _REACH, _ALIGN)):
        places = [(addrs[0] + slide, len(banner)) for slide in slides]
        # Below and above the gigabyte there is no kernel.
        places = [place for place in places if place[0] >> 31 == (1 << 33) - 1]
        for (addr, _), found in zip(places, read_many(places), strict=True):
            if found == banner:
                return addr - addrs[0]
    return None
