"""``python -m fprobe_gdb``: the same as the command ``fprobe-gdb``."""

from fprobe_gdb.cli import main

if __name__ == "__main__":
    main()
