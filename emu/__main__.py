"""``python -m emu``: boot a machine by hand."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import click

import images
from emu.argv import dry_run
from emu.deadline import Deadline
from emu.errors import EmuError
from emu.interact import shell
from emu.machine import Machine
from emu.spec import ACCELS, MachineSpec
from images import initramfs
from images.errors import ImagesError
from images.progress import terminal_report


@click.group()
def main() -> None:
    """Boot a Linux kernel under QEMU, without any probes."""


@main.command()
@click.option("-k", "--kernel", help="bzImage by path, or a kernel of the catalog by name; default: the catalog's.")
@click.option("--initramfs", "initramfs_path", type=click.Path(path_type=Path), help="Default: busybox and our /init.")
@click.option("--smp", default=1, show_default=True, help="Number of vCPUs.")
@click.option("--memory", default=512, show_default=True, help="Memory in MiB.")
@click.option("--accel", type=click.Choice(ACCELS), default="tcg", show_default=True)
@click.option("--append", multiple=True, help="Word for the kernel's command line; may be repeated.")
@click.option("--qemu", default="qemu-system-x86_64", show_default=True, help="QEMU program.")
@click.option("--timeout", "timeout_sec", default=120.0, show_default=True, help="Limit for the boot, in seconds.")
@click.option("--no-kaslr", "kaslr", flag_value=False, default=True, help="The kernel's link addresses, at each boot.")
@click.option("-v", "--verbose", is_flag=True, help="Say on standard error how long the boot took.")
@click.option("--dry-run", is_flag=True, help="Only print QEMU's command line.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def boot(
    kernel: str | None,
    initramfs_path: Path | None,
    smp: int,
    memory: int,
    accel: str,
    append: tuple[str, ...],
    qemu: str,
    timeout_sec: float,
    kaslr: bool,
    verbose: bool,
    dry_run: bool,
    command: tuple[str, ...],
) -> None:
    """Boot, and run COMMAND in the guest (one word: shell text; several: a command and its arguments). Its status is
    ours. Without COMMAND: an interactive shell on the guest's console, which Ctrl-] leaves."""
    try:
        spec = MachineSpec(
            kernel=_kernel(kernel),
            initramfs=initramfs_path if initramfs_path is not None else initramfs.build(),
            memory_mib=memory,
            smp=smp,
            accel=accel,
            cmdline=append,
            kaslr=kaslr,
            qemu=qemu,
            gdbstub=False,
        )
        if dry_run:
            click.echo(_dry_run(spec))
            return
        status = _boot(spec, command, timeout_sec, verbose)
    except (EmuError, ImagesError) as error:
        raise click.ClickException(str(error)) from error
    sys.exit(status)


_dry_run = dry_run  # inside boot() the name is the option's


def _kernel(named: str | None) -> Path:
    if named is not None and ("/" in named or Path(named).is_file()):
        return Path(named)
    with terminal_report() as report:
        return images.kernel(named, progress=report).vmlinuz


def _boot(spec: MachineSpec, command: tuple[str, ...], timeout_sec: float, verbose: bool) -> int:
    started = time.monotonic()
    with Machine(spec) as machine:
        if sys.stderr.isatty():
            machine.console.tap = _to_stderr
        machine.wait_boot(Deadline(timeout_sec))
        if verbose:
            click.echo(f"{machine.agent.release} up after {time.monotonic() - started:.2f} s", err=True)
        if not command:
            return shell(machine)
        text = command[0] if len(command) == 1 else shlex.join(command)
        return _run(machine, text)


# The first Ctrl-C is the command's, the second one ours.
def _run(machine: Machine, command: str) -> int:
    running = machine.agent.start(command, keep_output=False)
    interrupted = False
    while True:
        try:
            result = running.poll()
            sys.stdout.buffer.write(running.take_output())
            sys.stdout.buffer.flush()
            if result is not None:
                return result.status
            machine.wait(Deadline.never())
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = True
            machine.agent.interrupt()


def _to_stderr(data: bytes) -> None:
    sys.stderr.buffer.write(data)
    sys.stderr.buffer.flush()


if __name__ == "__main__":
    main()
