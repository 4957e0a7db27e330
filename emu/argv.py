"""From a :class:`~emu.spec.MachineSpec` to QEMU's arguments. Pure: nothing is opened, nothing is started.

No file is written for QEMU and nothing listens: the gdbstub, QMP and the two serial ports are sockets connected from
birth, whose file descriptors QEMU inherits, and an initramfs given as bytes is a memory file that it inherits too.
Accepted alike by QEMU 7.2 and 10.0.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from emu.spec import MachineSpec

__all__ = ["DOORBELL_PORT", "TCG_CPU", "QEMUFds", "dry_run", "kernel_cmdline", "qemu_argv"]

#: The CPU under TCG. QEMU's default model is the fastest one (``max`` walks five levels of page tables, Intel models
#: make the kernel isolate its own), but QEMU 7.2's CMPXCHG16B leaves garbage in the flags, NT and IOPL included. An
#: interrupt before the next arithmetic instruction then ends in a double fault: 7 of 15 boots of Debian's 6.12, which
#: allocates all its memory with this instruction. Without it the kernel uses a substitute of its own: 0 of 25.
#: QEMU 10.0 is right (0 of 15), but a guest should not depend on the QEMU that it runs on.
TCG_CPU = "qemu64,-cx16"


@dataclass(frozen=True, slots=True)
class QEMUFds:
    """The file descriptors that QEMU inherits, by their numbers in QEMU."""

    #: The console, ttyS0.
    console: int
    #: The agent's port, ttyS1.
    agent: int
    qmp: int
    #: None when there is no gdbstub, or one at a path.
    gdb: int | None = None
    #: A second QMP monitor, for who drives the gdbstub. None when there is none.
    gdb_qmp: int | None = None
    #: The memory file with the initramfs. None when it is a file of its own, or there is none.
    initramfs: int | None = None
    #: The memory file that is the guest's RAM, where it is shared.
    ram: int | None = None
    #: Where the guest's bytes to :data:`DOORBELL_PORT` come out.
    doorbell: int | None = None


#: The port of ISA debug consoles, as Bochs has it. Any code in the kernel can write to it, with no driver.
DOORBELL_PORT = 0xE9

# One host thread for all vCPUs: with one each, code that another vCPU patches may run from a stale translation. Linux
# 6.12 then died of "Oops: int3" at a static key in 1 of 22 boots with two vCPUs on a loaded host (QEMU 7.2).
_ACCEL = {"tcg": "tcg,thread=single", "mttcg": "tcg,thread=multi", "kvm": "kvm"}


def kernel_cmdline(spec: MachineSpec) -> str:
    """The kernel's command line: ours, then the words of the spec, which win where both say something."""
    words = [
        "console=ttyS0",
        # The kernel ends QEMU on a panic: an immediate reboot (Documentation/admin-guide/kernel-parameters.txt,
        # "panic="), which -no-reboot turns into an exit. The panic's own lines are printed before, whatever loglevel.
        "panic=-1",
        # Only warnings and worse. A guest that hangs while booting says more with "loglevel=7".
        "quiet",
        # The self-tests of the crypto code are 0.4 s of a boot of 2.5 s under TCG.
        "cryptomgr.notests",
    ]
    if spec.accel != "kvm":
        # The kernel waits for ten ticks and panics where fewer than five came: "IO-APIC + timer doesn't work!"
        # (arch/x86/kernel/apic/io_apic.c, timer_irq_works()). On a loaded host they come late.
        words.append("no_timer_check")
    if not spec.kaslr:
        words.append("nokaslr")
    if spec.reserved_mib:
        words.append(f"memmap={spec.reserved_mib}M${spec.reserved_addr:#x}")
    return " ".join([*words, *spec.cmdline])


def qemu_argv(spec: MachineSpec, fds: QEMUFds) -> list[str]:
    """QEMU's arguments, its program first."""
    argv = [str(spec.qemu), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    for directory in spec.data_dirs:
        argv += ["-L", str(directory)]
    machine = "pc"
    if spec.shared_ram:
        # Opened anew through /proc, the memory file needs no name in any directory.
        size = f"{spec.memory_mib}M"
        argv += ["-object", f"memory-backend-file,id=ram,size={size},mem-path=/proc/self/fd/{fds.ram},share=on"]
        machine = "pc,memory-backend=ram"
    argv += ["-machine", machine, "-accel", _ACCEL[spec.accel], "-m", f"{spec.memory_mib}M", "-smp", str(spec.smp)]
    cpu = spec.cpu or (None if spec.accel == "kvm" else TCG_CPU)
    if cpu is not None:
        argv += ["-cpu", cpu]
    argv += ["-kernel", str(spec.kernel)]
    if isinstance(spec.initramfs, Path):
        argv += ["-initrd", str(spec.initramfs)]
    elif spec.initramfs is not None:
        argv += ["-initrd", f"/proc/self/fd/{fds.initramfs}"]
    argv += ["-append", kernel_cmdline(spec)]
    # The order of the -serial arguments is the order of the ports.
    for name, fd in (("console", fds.console), ("agent", fds.agent)):
        argv += ["-chardev", f"socket,id={name},fd={fd}", "-serial", f"chardev:{name}"]
    argv += ["-chardev", f"socket,id=qmp,fd={fds.qmp}", "-mon", "chardev=qmp,mode=control"]
    if fds.gdb_qmp is not None:
        argv += ["-chardev", f"socket,id=gdb-qmp,fd={fds.gdb_qmp}", "-mon", "chardev=gdb-qmp,mode=control"]
    if spec.gdb_socket is not None:
        argv += ["-gdb", f"unix:{spec.gdb_socket},server=on,wait=off"]
    elif spec.gdbstub:
        argv += ["-chardev", f"socket,id=gdb,fd={fds.gdb}", "-gdb", "chardev:gdb"]
    if spec.doorbell:
        argv += ["-chardev", f"socket,id=doorbell,fd={fds.doorbell}"]
        argv += ["-device", f"isa-debugcon,iobase={DOORBELL_PORT:#x},chardev=doorbell"]
    if spec.start_stopped:
        argv.append("-S")
    return [*argv, *spec.extra_args]


def dry_run(spec: MachineSpec) -> str:
    """The command line for reading and for a shell, with a comment on what stands for inherited descriptors.

    To paste it into a shell, replace each ``fd=N`` chardev by another backend, say ``stdio`` for the console and
    ``null`` for the rest; a dry run cannot hand out sockets.
    """
    fds = QEMUFds(
        console=10, agent=11, qmp=12, gdb=13, initramfs=14, ram=15, doorbell=16, gdb_qmp=17 if spec.gdbstub else None
    )
    names = {10: "console (ttyS0)", 11: "agent (ttyS1)", 12: "QMP"}
    if spec.gdbstub and spec.gdb_socket is None:
        names[13] = "gdbstub"
    if isinstance(spec.initramfs, bytes):
        names[14] = f"initramfs, {len(spec.initramfs)} bytes in memory"
    if spec.shared_ram:
        names[15] = f"RAM, {spec.memory_mib} MiB of shared memory"
    if spec.doorbell:
        names[16] = "doorbell"
    if spec.gdbstub:
        names[17] = "QMP, for the client of the gdbstub"
    legend = "".join(f"# fd {fd}: {name}\n" for fd, name in names.items())
    return (
        f"# Descriptors that QEMU inherits (the numbers here are examples):\n{legend}{shlex.join(qemu_argv(spec, fds))}"
    )
