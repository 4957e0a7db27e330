"""From the bytes of a kernel image file to the ELF ``vmlinux`` inside it; pure, bytes in, bytes out.

A bzImage is a real-mode boot sector and setup code, then the protected-mode code, which carries the compressed
``vmlinux`` at ``payload_offset`` (Documentation/arch/x86/boot.rst). Distribution kernels also wear a PE header (the EFI
stub), which changes nothing here. The compressor is told by the payload's magic, never by the kernel's configuration.

Rule: whatever the input, either the ELF image comes out or :class:`~fprobe_gdb.errors.ImageError` is raised, and no
more than :data:`MAX_VMLINUX_BYTES` are ever produced.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from fprobe_gdb.errors import ImageError
from fprobe_gdb.kernel.decompress import DecompressError, compressor_of, decompress

__all__ = ["MAX_VMLINUX_BYTES", "Unpacked", "is_elf", "unpack"]

#: No kernel is larger than this when unpacked; a size field above it is damage.
MAX_VMLINUX_BYTES = 512 << 20

_SETUP_HEADER_END = 0x268
_XLF_SIZE_TRAILER = 4


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What a kernel image file held."""

    #: The ELF image; relocation records may follow it (CONFIG_X86_NEED_RELOCS).
    elf: bytes
    #: ``"xz"``, ``"zstd"``, ... or ``"none"`` for an ELF file that was not packed.
    compressor: str
    #: The setup header's ``relocatable_kernel``; None when the file was an ELF and had no setup header.
    is_relocatable: bool | None


def is_elf(data: bytes) -> bool:
    """Whether the bytes begin as a 64-bit little-endian ELF file."""
    return data[:6] == b"\x7fELF\x02\x01"


def unpack(data: bytes, name: str = "kernel image") -> Unpacked:
    """The ELF image of a bzImage, or of an ELF ``vmlinux`` itself.

    :param data: the whole file.
    :param name: what to call the file in errors.
    :raise ImageError: the input is neither, is truncated, or is damaged.
    """
    if is_elf(data):
        return Unpacked(data, "none", None)
    payload, is_relocatable = _payload(data, name)
    compressor = compressor_of(payload)
    if compressor is None:
        if is_elf(payload):  # CONFIG_KERNEL_UNCOMPRESSED is not for x86, but some loaders store it so
            return Unpacked(payload, "none", is_relocatable)
        raise ImageError(
            name, f"the compressed kernel inside begins with {payload[:6].hex(' ')}, which no kernel compressor writes"
        )
    size_bytes = int.from_bytes(payload[-_XLF_SIZE_TRAILER:], "little")
    if not 0 < size_bytes <= MAX_VMLINUX_BYTES:
        raise ImageError(name, f"says that its kernel unpacks to {size_bytes} bytes; the file is damaged or truncated")
    try:
        elf = decompress(compressor, payload, size_bytes)
    except DecompressError as error:
        raise ImageError(name, f"its {compressor} payload does not unpack ({error}); damaged or truncated") from error
    if len(elf) != size_bytes:
        raise ImageError(
            name,
            f"its {compressor} payload unpacks to {len(elf)} bytes, but {size_bytes} were announced; it is damaged",
        )
    if not is_elf(elf):
        raise ImageError(name, f"what it unpacks to is not a 64-bit ELF image (begins with {elf[:6].hex(' ')})")
    return Unpacked(elf, compressor, is_relocatable)


# The payload of a bzImage and its relocatable_kernel flag.
# Offsets: Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".
def _payload(data: bytes, name: str) -> tuple[bytes, bool]:
    _refuse_other_formats(data, name)
    if len(data) < _SETUP_HEADER_END:
        raise ImageError(name, f"truncated: {len(data)} bytes do not hold a boot header")
    if data[0x202:0x206] != b"HdrS" or data[0x1FE:0x200] != b"\x55\xaa":
        raise ImageError(name, "not a Linux x86 bzImage (no HdrS header) and not an ELF vmlinux")
    (version,) = struct.unpack_from("<H", data, 0x206)
    if version < 0x0208:
        raise ImageError(
            name, f"boot protocol {version >> 8}.{version & 0xFF:02} is too old: payload_offset came with 2.08"
        )
    setup_sects = data[0x1F1] or 4
    payload_offset, payload_length = struct.unpack_from("<II", data, 0x248)
    start = (setup_sects + 1) * 512 + payload_offset
    if not payload_length or not payload_offset:
        raise ImageError(name, "its boot header names no payload; it is damaged")
    if start + payload_length > len(data):
        raise ImageError(name, f"truncated: the kernel inside ends at byte {start + payload_length} of {len(data)}")
    if payload_length < 16:
        raise ImageError(name, f"its payload of {payload_length} bytes is too short; the boot header is damaged")
    return data[start : start + payload_length], bool(data[0x234])


# A clear word for what people give by mistake.
def _refuse_other_formats(data: bytes, name: str) -> None:
    if not data:
        raise ImageError(name, "the file is empty")
    if data[:2] == b"MZ" and data[4:8] == b"zimg":
        raise ImageError(name, "an EFI zboot image (arm64, riscv, loongarch); only x86_64 kernels can be used")
    if data[:2] == b"MZ" and data[0x38:0x3C] in (b"ARM\x64", b"RSC\x05"):
        raise ImageError(name, "a kernel Image of another architecture; only x86_64 kernels can be used")
    if data[:4] == b"\x7fELF":
        raise ImageError(name, "an ELF file, but not a 64-bit little-endian one; only x86_64 kernels can be used")
    if data[:4] == b"\x27\x05\x19\x56":
        raise ImageError(name, "a U-Boot uImage; give the bzImage or vmlinux that it was made from")
    if data[:8] == b"!<arch>\n":
        raise ImageError(name, "an ar archive (a Debian package?); unpack it and give boot/vmlinuz-*")
    if compressor_of(data) is not None:
        raise ImageError(name, f"a bare {compressor_of(data)} file; unpack it and give the bzImage or vmlinux in it")
