"""How much is read from which file: the handler calls a function of the guest, here file_path(), to get the name.

    fprobe-gdb run examples/read_files.py --backend rsp
    fprobe-gdb run examples/read_files.py --backend rsp -- 'wc /etc/motd /init'

What our agent in the guest reads is in the list too: /run/agent and /dev/ttyS1.
"""

from collections import Counter

from fprobe_gdb import Fprobe

COMMAND = "head /etc/motd; wc -c /init; grep -c flags /proc/cpuinfo"
SIZE = 256
GFP_KERNEL = 0xCC0
read_bytes = Counter()


def probe(k):
    buffer = 0
    kmalloc = "__kmalloc" if k.symbols.addresses("__kmalloc") else "__kmalloc_noprof"  # since Linux 6.10

    def on_entry(fp, entry_ip, ret_ip, regs, data):
        data[:] = regs.di.to_bytes(8, "little")  # ssize_t vfs_read(struct file *file, ...)

    def on_exit(fp, entry_ip, ret_ip, regs, data):
        nonlocal buffer
        buffer = buffer or k.call(kmalloc, SIZE, GFP_KERNEL)
        path = k.call("file_path", int.from_bytes(data, "little"), buffer, SIZE)
        if regs.ax >> 63 == 0:  # no error
            read_bytes[k.read_string(path)] += regs.ax

    k.register_fprobe(Fprobe(on_entry, on_exit, entry_data_size=8, nr_maxactive=16), "vfs_read")


def report(k):
    for path, total in read_bytes.most_common():
        print(f"{total:8} {path}")
