"""Which files a command opens, and with what result: strings read from the guest's memory, no type information needed.

    fprobe-gdb run examples/opened_files.py
    fprobe-gdb run examples/opened_files.py -- ls -l /

Every task of the guest is seen; what our agent in the guest opens for itself is left out.
"""

import errno

from fprobe_gdb import Fprobe

COMMAND = "cat /etc/motd /etc/shadow; ls /tmp"


def probe(k):
    def on_entry(fp, entry_ip, ret_ip, regs, data):
        # struct file *do_filp_open(int dfd, struct filename *pathname, ...); a struct filename begins with char *name.
        path = k.read_string(k.read_u64(regs.si))
        data[:] = path.encode()[:256].ljust(256, b"\0")
        return path.startswith("/run/agent")  # true: no exit handler for this call

    def on_exit(fp, entry_ip, ret_ip, regs, data):
        path = bytes(data).rstrip(b"\0").decode()
        error = (1 << 64) - regs.ax  # ERR_PTR(): the last 4095 addresses are negative error numbers
        print(f"{path:40} {errno.errorcode.get(error, error) if error < 4096 else 'ok'}")

    k.register_fprobe(Fprobe(on_entry, on_exit, entry_data_size=256, nr_maxactive=16), "do_filp_open")
