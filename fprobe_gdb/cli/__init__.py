"""The command ``fprobe-gdb``."""

from fprobe_gdb.cli.app import main

__all__ = ["main"]
