"""The command ``fprobe-gdb``, also as ``python -m fprobe_gdb``."""

from __future__ import annotations

import os
import signal
from typing import NoReturn

__all__ = ["main"]

_INTERRUPTED = 130


def _leave(_signal: int, _frame: object) -> NoReturn:
    os._exit(_INTERRUPTED)


def main() -> NoReturn:
    """Run the command and exit."""
    # While our modules are read, nothing has been started that would have to be ended, and a traceback of an import
    # helps nobody. Who ignores the signal (nohup, a shell's background job) goes on ignoring it.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    from fprobe_gdb.cli import main as command

    command()


if __name__ == "__main__":
    main()
