"""The command group, and the one place where exceptions become messages and exit codes."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click as plain_click
import rich_click as click
from click.exceptions import Exit

from fprobe_gdb.cli.attach import attach
from fprobe_gdb.cli.doctor import doctor
from fprobe_gdb.cli.endings import Endings, endings
from fprobe_gdb.cli.exits import ExitCode, describe, exit_code
from fprobe_gdb.cli.list import list_
from fprobe_gdb.cli.run import run
from fprobe_gdb.cli.trace import trace
from fprobe_gdb.errors import OutputClosed, OutputError
from fprobe_gdb.output.base import discard_output

__all__ = ["main"]

click.rich_click.MAX_WIDTH = 100


class _Commands(click.RichGroup):
    # Click would end these with messages and exit codes of its own.
    def invoke(self, ctx: plain_click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise OutputClosed("standard output") from error
        except KeyboardInterrupt:
            raise click.Abort from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fprobe-gdb")
def cli() -> None:
    """fprobe without the kernel's help: trace the functions of a Linux kernel from outside, under QEMU.

    Examples:

    \b
    fprobe-gdb trace -i 'vfs_*' -- cat /etc/motd
    fprobe-gdb list -v vfs_read
    fprobe-gdb run examples/opened_files.py -- ls -l /
    fprobe-gdb doctor

    Exit codes: 0 ok, 1 a handler or assertion failed, 2 usage, 3 no function matched, 4 the guest died, 5 timeout,
    130 Ctrl-C (143 SIGTERM, 129 SIGHUP).

    \b
    Completion for bash: eval "$(_FPROBE_GDB_COMPLETE=bash_source fprobe-gdb)"
    """


for command in (list_, trace, run, attach, doctor):
    cli.add_command(command)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit. Never shows a traceback, but that of a user's own handler."""
    ended = endings()
    code = _run(argv, ended)
    ended.ignore()
    sys.exit(code)


def _run(argv: Sequence[str] | None, ended: Endings) -> int:
    try:
        code = _outcome(argv, ended)
        ended.over = True
    except KeyboardInterrupt:  # a second one, while the first was being told
        ended.over = True
        code = ended.exit_code
    return code


def _outcome(argv: Sequence[str] | None, ended: Endings) -> int:
    try:
        result = cli.main(args=None if argv is None else list(argv), prog_name="fprobe-gdb", standalone_mode=False)
        sys.stdout.flush()
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
        _complain(f"interrupted{ended.by}")
        return ended.exit_code
    except Exception as error:
        if os.environ.get("FPROBE_GDB_TRACEBACK"):
            raise
        if isinstance(error, OSError | OutputError):
            # Standard output may be what cannot be written to; then neither can what its buffer still holds.
            discard_output(sys.stdout)
        _complain(describe(error))
        return exit_code(error)


# The terminal may be gone: after SIGHUP, say.
def _complain(text: str) -> None:
    with contextlib.suppress(OSError):
        click.echo(f"fprobe-gdb: {text}", err=True)
