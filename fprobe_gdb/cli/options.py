"""Options that several commands share, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click

from emu.spec import ACCELS
from fprobe_gdb.dispatch.trampoline.dispatch import DEFAULT_ANSWER_SEC
from fprobe_gdb.errors import UsageError
from fprobe_gdb.session.options import BACKENDS, DEFAULT_MAX_SITES, DISPATCHES, BootOptions
from fprobe_gdb.target.base import BreakpointKind

__all__ = ["answer_option", "boot_options", "dispatch_option", "guest_options", "kernel_option", "timeout_option"]

F = TypeVar("F", bound=Callable[..., Any])


def kernel_option(function: F) -> F:
    """``-k KERNEL``."""
    return click.option(
        "-k",
        "--kernel",
        metavar="KERNEL",
        help="A name from the catalog (6.1, 6.12, 5.10, newest), or the path of a bzImage or vmlinux. "
        "Default: Debian's newest 6.1 cloud kernel, fetched once.",
    )(function)


def timeout_option(function: F) -> F:
    """``--timeout S``."""
    return click.option(
        "--timeout",
        "timeout_sec",
        default=600.0,
        show_default=True,
        metavar="S",
        type=click.FloatRange(0, min_open=True),
        help="Seconds that the guest's command may take.",
    )(function)


def dispatch_option(function: F) -> F:
    """``--dispatch``."""
    return click.option(
        "--dispatch",
        type=click.Choice(DISPATCHES),
        default=DISPATCHES[0],
        show_default=True,
        help="How hits reach handlers: trampolines take microseconds, breakpoints milliseconds.",
    )(function)


def answer_option(function: F) -> F:
    """``--answer-within S``."""
    return click.option(
        "--answer-within",
        "answer_sec",
        default=DEFAULT_ANSWER_SEC,
        show_default=True,
        metavar="S",
        type=click.FloatRange(0, min_open=True),
        help="Trampolines: seconds that a call waits for us before it goes on without, counted as lost.",
    )(function)


_GUEST_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    kernel_option,
    click.option("--smp", default=1, show_default=True, metavar="N", type=click.IntRange(1, 255), help="vCPUs."),
    click.option(
        "--memory",
        "memory_mib",
        default=512,
        show_default=True,
        metavar="MIB",
        type=click.IntRange(64),
        help="Memory of the guest.",
    ),
    click.option(
        "--backend",
        type=click.Choice(BACKENDS),
        default=BACKENDS[0],
        show_default=True,
        help="The gdb program, or our own client of the remote protocol (faster).",
    ),
    dispatch_option,
    click.option(
        "--breakpoint",
        type=click.Choice([kind.value for kind in BreakpointKind]),
        default=BreakpointKind.SOFTWARE.value,
        show_default=True,
        help="Software breakpoints, or the CPU's own.",
    ),
    click.option(
        "--accel", type=click.Choice(ACCELS), default="tcg", show_default=True, help="How QEMU runs the guest's code."
    ),
    click.option("--qemu", metavar="QEMU", help="A QEMU program, or qemu-10.0 from the catalog."),
    click.option(
        "--no-kaslr",
        "kaslr",
        flag_value=False,
        default=True,
        help="The same addresses at each boot, those of the image. Else the kernel chooses, as on real machines.",
    ),
    click.option("--append", metavar="WORDS", default="", help="More words for the kernel's command line."),
    click.option(
        "--file",
        "files",
        metavar="GUEST=HOST",
        multiple=True,
        help="Put a file or folder into the guest; may be repeated.",
    ),
    click.option(
        "--module",
        "modules",
        metavar="NAME",
        multiple=True,
        help="A module of this kernel for the guest, which 'modprobe NAME' loads; may be repeated.",
    ),
    click.option(
        "--max-sites",
        default=DEFAULT_MAX_SITES,
        show_default=True,
        metavar="N",
        type=click.IntRange(1),
        help="Refuse more breakpoints than this: every one slows the guest.",
    ),
    answer_option,
    click.option(
        "--boot-timeout",
        "boot_timeout_sec",
        default=120.0,
        show_default=True,
        metavar="S",
        type=click.FloatRange(0, min_open=True),
        help="Seconds that the boot may take.",
    ),
)


def guest_options(function: F) -> F:
    """Options of everything that boots a guest."""
    for option in reversed(_GUEST_OPTIONS):
        function = option(function)
    return function


def boot_options(values: dict[str, Any]) -> BootOptions:
    """Take the options of :func:`guest_options` out of a command's keywords.

    :raise UsageError: for a ``--file`` that is not GUEST=HOST.
    """
    files: dict[str, bytes | Path] = {}
    for entry in values.pop("files"):
        guest, equals, host = entry.partition("=")
        if not (guest and equals and host):
            raise UsageError(f"--file {entry!r} is not GUEST=HOST, e.g. /root/test.sh=./test.sh")
        files[guest] = Path(host)
    names = (
        "kernel", "smp", "memory_mib", "backend", "dispatch", "breakpoint", "accel", "qemu", "kaslr", "max_sites",
        "answer_sec", "boot_timeout_sec", "modules",
    )  # fmt: skip
    chosen = {name: values.pop(name) for name in names}
    return BootOptions(cmdline=tuple(values.pop("append").split()), files=files, **chosen)
