"""What machine to boot: one frozen record, checked when it is made. Nothing is started or opened here."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from emu.errors import SpecError

__all__ = ["ACCELS", "MachineSpec"]

#: What can execute the guest's instructions: TCG with one host thread for all vCPUs, with one for each, or KVM.
ACCELS = ("tcg", "mttcg", "kvm")

# A unix socket's address has 108 bytes with the final NUL (Linux, unix(7)).
_SUN_PATH_BYTES = 107

_MIB = 1 << 20
# QEMU's pc machine maps at least so much RAM one to one below 4 GiB (7.2 hw/i386/pc_piix.c: 3.5 GiB, or 3 GiB where
# there is more).
_LOW_MIB = 3072


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """A machine to boot.

    The rest of the hardware is fixed: QEMU's ``pc`` machine, no disk, no network, no display, two serial ports.

    :raise SpecError: when no machine can be made from it; also for a kernel file that does not exist.
    """

    #: bzImage.
    kernel: Path
    #: The initramfs as a file, or its bytes (no file is made of them), or None for one that is inside the kernel.
    initramfs: bytes | Path | None = field(repr=False)
    memory_mib: int = 512
    #: Number of vCPUs.
    smp: int = 1
    #: One of :data:`ACCELS`.
    accel: str = "tcg"
    #: QEMU's CPU model and flags (``-cpu``). None is the model that suits best: see :data:`emu.argv.TCG_CPU`.
    cpu: str | None = None
    #: Additional words for the kernel's command line. They come last, so they win over ours.
    cmdline: tuple[str, ...] = ()
    #: Name or path of the QEMU program.
    qemu: str | Path = "qemu-system-x86_64"
    #: Where QEMU finds its firmware (``-L``), for one that is not installed.
    data_dirs: tuple[Path, ...] = ()
    #: Additional arguments for QEMU, last on its command line.
    extra_args: tuple[str, ...] = ()
    #: Do not run a single instruction before a debugger says so (``-S``).
    start_stopped: bool = False
    #: Let the kernel choose its own address. Symbol addresses of the image are then not those of the guest.
    kaslr: bool = True
    #: Offer QEMU's gdbstub.
    gdbstub: bool = True
    #: Put the gdbstub at this unix socket, for a program that cannot inherit a connected socket. The directory has to
    #: exist and should be private (mode 0700): who can connect owns the guest, and under TCG the host user.
    gdb_socket: Path | None = None
    #: Share the guest's RAM with this process: :attr:`emu.machine.Machine.ram`.
    shared_ram: bool = False
    #: MiB of RAM, at :attr:`reserved_addr`, that the kernel is told to leave alone (``memmap=``).
    reserved_mib: int = 0
    #: Let the guest wake this process by writing a byte to port 0xe9: :attr:`emu.machine.Machine.doorbell`.
    doorbell: bool = False

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_words()
        if not self.kernel.is_file():
            raise SpecError("kernel", f"{self.kernel} is not a file")
        if isinstance(self.initramfs, Path) and not self.initramfs.is_file():
            raise SpecError("initramfs", f"{self.initramfs} is not a file")
        if self.gdb_socket is not None:
            self._check_gdb_socket(self.gdb_socket)

    def _check_numbers(self) -> None:
        # Below some 64 MiB no distribution kernel unpacks itself; 255 is the limit of the pc machine without extras.
        if self.memory_mib < 32:
            raise SpecError("memory_mib", f"{self.memory_mib} MiB of memory are too few, give 128 or more")
        if not 1 <= self.smp <= 255:
            raise SpecError("smp", f"{self.smp} vCPUs; 1 to 255 are possible")
        if self.accel not in ACCELS:
            raise SpecError("accel", f"{self.accel!r} is none of {', '.join(ACCELS)}")

        # As much again has to stay on either side of it, for the kernel below and what QEMU loads at the top.
        if self.reserved_mib % 2 or not 0 <= self.reserved_mib <= min(self.memory_mib, _LOW_MIB) // 4:
            raise SpecError(
                "reserved_mib", f"{self.reserved_mib} MiB; an even number up to a quarter of the memory can be reserved"
            )

    @property
    def reserved_addr(self) -> int:
        """Physical address of the reserved RAM, 2 MiB aligned.

        In the middle: kernels are loaded at the bottom, and QEMU puts the initramfs and ACPI tables at the top (7.2
        hw/i386/x86.c, ``x86_load_linux()``). Below 4 GiB a physical address is also the offset in the RAM file.
        """
        return min(self.memory_mib, _LOW_MIB) // 4 * 2 * _MIB & ~(2 * _MIB - 1)

    def _check_words(self) -> None:
        for word in self.cmdline:
            # The kernel splits at spaces; a quoted value may hold them, so only what ends a line is refused.
            if not word or "\0" in word or "\n" in word:
                raise SpecError("cmdline", f"{word!r} is no word for a kernel command line")
        for arg in self.extra_args:
            if "\0" in arg:
                raise SpecError("extra_args", f"{arg!r} has a NUL in it")

    def _check_gdb_socket(self, path: Path) -> None:
        if not self.gdbstub:
            raise SpecError("gdb_socket", "makes no sense without gdbstub")
        if "," in str(path):
            raise SpecError("gdb_socket", f"{path} has a comma in it, which separates options for QEMU")
        if len(os.fsencode(path)) > _SUN_PATH_BYTES:
            raise SpecError("gdb_socket", f"{path} is longer than the {_SUN_PATH_BYTES} bytes of a unix socket address")
        if not path.parent.is_dir():
            raise SpecError("gdb_socket", f"{path.parent} is not a directory")

    def check_host(self) -> None:
        """Check what depends on the host, not on the spec: that QEMU is there and KVM usable if asked for.

        :raise SpecError: with what to install or to change.
        """
        if shutil.which(self.qemu) is None:
            raise SpecError("qemu", f"no program {str(self.qemu)!r}; Debian: apt-get install qemu-system-x86")
        if self.accel == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
            raise SpecError("accel", "/dev/kvm is missing or not ours to use; use tcg, or join the group kvm")
