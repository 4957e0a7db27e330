"""The command group, and the one place where exceptions become messages and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import rich_click as click
from click.exceptions import Exit

from fprobe_gdb.cli.doctor import doctor
from fprobe_gdb.cli.exits import ExitCode, describe, exit_code
from fprobe_gdb.cli.list import list_
from fprobe_gdb.cli.run import run
from fprobe_gdb.cli.trace import trace
from fprobe_gdb.errors import OutputClosed
from fprobe_gdb.output.base import discard_output

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="fprobe-gdb")
def cli() -> None:
    """fprobe without the kernel's help: trace the functions of a Linux kernel from outside, under QEMU.

    \b
    fprobe-gdb trace -i 'vfs_*' -- cat /etc/motd
    fprobe-gdb list -v vfs_read
    fprobe-gdb run examples/opened_files.py -- ls -l /
    fprobe-gdb doctor

    Exit codes: 0 ok, 1 a handler or assertion failed, 2 usage, 3 no function matched, 4 the guest died, 5 timeout,
    130 Ctrl-C.
    """


for command in (list_, trace, run, doctor):
    cli.add_command(command)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit. Never shows a traceback, but that of a user's own handler."""
    sys.exit(int(_run(argv)))


def _run(argv: Sequence[str] | None) -> int:
    try:
        result = cli.main(args=None if argv is None else list(argv), prog_name="fprobe-gdb", standalone_mode=False)
        return int(result) if isinstance(result, int) else ExitCode.OK
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except Exit as error:
        return int(error.exit_code)
    except (OutputClosed, BrokenPipeError):
        # The reader has seen enough (| head). Nothing may be written any more, not even at interpreter exit.
        discard_output(sys.stdout)
        return ExitCode.OK
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except Exception as error:
        if os.environ.get("FPROBE_GDB_TRACEBACK"):
            raise
        click.echo(f"fprobe-gdb: {describe(error)}", err=True)
        return exit_code(error)
