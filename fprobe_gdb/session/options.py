"""What to boot and how to watch it: one frozen record, and what follows from it without starting anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import images
from emu.spec import MachineSpec
from fprobe_gdb.dispatch.trampoline.dispatch import DEFAULT_ANSWER_SEC
from fprobe_gdb.dispatch.trampoline.zone import with_rings_bytes
from fprobe_gdb.errors import TooManySites, UsageError
from fprobe_gdb.target.base import BreakpointKind
from images.catalog import load as load_catalog
from images.initramfs import build as build_initramfs
from images.modules import module_files
from images.progress import Report

__all__ = ["BACKENDS", "DEFAULT_MAX_SITES", "DISPATCHES", "BootOptions"]

#: How the guest is driven: through the gdb program, or by our own client of the remote protocol.
BACKENDS = ("gdb", "rsp")
#: How hits reach handlers; ``auto`` takes trampolines where the guest can have them.
DISPATCHES = ("auto", "breakpoint", "trampoline")
#: Functions that breakpoints serve by default. Each armed breakpoint slows the whole guest under TCG.
DEFAULT_MAX_SITES = 256


@dataclass(frozen=True, slots=True)
class BootOptions:
    """How :meth:`fprobe_gdb.Kernel.boot` boots.

    :raise UsageError: for a backend or breakpoint kind that does not exist.
    """

    #: A name from the catalog of ``images/``, or the path of a bzImage or vmlinux; None is the catalog's default.
    kernel: str | Path | None = None
    smp: int = 1
    memory_mib: int = 512
    #: One of :data:`BACKENDS`.
    backend: str = "gdb"
    #: One of :data:`DISPATCHES`.
    dispatch: str = "auto"
    #: ``"sw"`` or ``"hw"``.
    breakpoint: str = "sw"
    #: ``"tcg"``, ``"mttcg"`` (one host thread a vCPU) or ``"kvm"``.
    accel: str = "tcg"
    #: Let the kernel choose its own address, as it does on real machines; it is found. False: its link addresses.
    kaslr: bool = True
    #: Additional words for the kernel's command line.
    cmdline: tuple[str, ...] = ()
    #: A QEMU program, or the name of an emulator from the catalog (``"qemu-10.0"``); None is the installed one.
    qemu: str | None = None
    #: Additional arguments for QEMU.
    extra_args: tuple[str, ...] = ()
    #: Files for the guest's root filesystem, by path in the guest.
    files: Mapping[str, bytes | Path] = field(default_factory=dict)
    #: Modules of a kernel of the catalog for the guest, with those that they need: its ``modprobe NAME`` finds them.
    modules: tuple[str, ...] = ()
    #: How long the boot may take.
    boot_timeout_sec: float = 120.0
    #: More breakpoints than this are refused.
    max_sites: int = DEFAULT_MAX_SITES
    #: Trampolines: how long a call waits for its handler to begin before it goes on without, as a lost one.
    answer_sec: float = DEFAULT_ANSWER_SEC
    #: :meth:`fprobe_gdb.Kernel.attach` borrows memory for records, too: 36 MiB instead of 4, or more with many CPUs.
    recording: bool = False

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise UsageError(f"backend {self.backend!r} is none of {', '.join(BACKENDS)}")
        if self.dispatch not in DISPATCHES:
            raise UsageError(f"dispatch {self.dispatch!r} is none of {', '.join(DISPATCHES)}")
        kinds = [kind.value for kind in BreakpointKind]
        if self.breakpoint not in kinds:
            raise UsageError(f"breakpoint {self.breakpoint!r} is none of {', '.join(kinds)}")

    def check_sites(self, count: int, why: str = "") -> None:
        """Check that breakpoints can serve so many functions.

        :param why: why there are no trampolines, as a clause; empty where nobody wants them.
        :raise TooManySites: when there are more than :attr:`max_sites`.
        """
        if count > self.max_sites:
            raise TooManySites(
                count,
                self.max_sites,
                f"breakpoints serve {self.max_sites}: each one slows the whole guest, whether it is hit or not "
                "(100 of them about 5 times, 1,000 about 50 times under TCG); "
                f"narrow the pattern, or raise the limit (--max-sites {count}, max_sites={count})"
                + (f"; trampolines would serve any number, but {why}" if why else ""),
            )

    def kernel_path(self, progress: Report | None = None) -> Path:
        """The kernel's file, fetched first if it is one of the catalog.

        :raise ImagesError: when it cannot be fetched or is unknown.
        """
        if isinstance(self.kernel, Path):
            return self.kernel
        if self.kernel is not None and ("/" in self.kernel or Path(self.kernel).is_file()):
            return Path(self.kernel)
        return images.kernel(self.kernel, progress=progress).vmlinuz

    def _module_files(self, progress: Report | None) -> Mapping[str, bytes | Path]:
        if not self.modules:
            return {}
        if isinstance(self.kernel, Path) or (self.kernel is not None and "/" in self.kernel):
            raise UsageError("only the modules of a kernel of the catalog are known by name; give the .ko with --file")
        return module_files(images.kernel(self.kernel, progress=progress), self.modules)

    def machine_spec(
        self, kernel: Path, *, gdb_socket: Path | None = None, progress: Report | None = None
    ) -> MachineSpec:
        """The machine: stopped before its first instruction, so that a debugger is there from the start.

        :param gdb_socket: where the gdb program finds the gdbstub; None hands out a connected socket instead.
        """
        qemu: str | Path = self.qemu or "qemu-system-x86_64"
        data_dirs: tuple[Path, ...] = ()
        if self.qemu in {entry.name for entry in load_catalog().emulators} and self.qemu is not None:
            emulator = images.emulator(self.qemu, progress=progress)
            qemu, data_dirs = emulator.binary, emulator.data_dirs
        with_zone = self.dispatch != "breakpoint"
        return MachineSpec(
            kernel=kernel,
            initramfs=build_initramfs(files={**self._module_files(progress), **self.files}),
            memory_mib=self.memory_mib,
            smp=self.smp,
            accel=self.accel,
            cmdline=self.cmdline,
            kaslr=self.kaslr,
            qemu=qemu,
            data_dirs=data_dirs,
            extra_args=self.extra_args,
            start_stopped=True,
            shared_ram=with_zone,
            reserved_mib=self._zone_mib if with_zone else 0,
            doorbell=with_zone,
            gdb_socket=gdb_socket,
        )

    @property
    def _zone_mib(self) -> int:
        return min(with_rings_bytes(self.smp) >> 20, self.memory_mib // 4 & ~1)
