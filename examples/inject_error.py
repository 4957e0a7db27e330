"""Let the N-th call of a function fail, and see how a program copes: override_return() skips the function.

    fprobe-gdb run examples/inject_error.py
    FUNCTION=vfs_symlink NTH=1 fprobe-gdb run examples/inject_error.py -- 'ln -s a /tmp/l; echo status $?'

Exit handlers of other fprobes see the value; what the function would have done does not happen.
"""

import errno
import os

from fprobe_gdb import Fprobe

COMMAND = "for i in 1 2 3 4; do mkdir /tmp/$i && echo made $i; done; ls /tmp"
FUNCTION = os.environ.get("FUNCTION", "vfs_mkdir")
NTH = int(os.environ.get("NTH", "3"))


def probe(k):
    def on_entry(fp, entry_ip, ret_ip, regs, data):
        if fp.hits == NTH:
            print(f"*** call {NTH} of {FUNCTION}, from {k.symbolize(ret_ip)}: returns -ENOMEM")
            regs.override_return(-errno.ENOMEM)

    k.register_fprobe(Fprobe(on_entry), FUNCTION)
