"""Each file that a command opens: how often, bytes read and written, errors. By C types, so it needs the kernel's BTF.

fprobe-gdb run examples/opened_files.py --backend rsp -- 'ls -l / > /tmp/list'
"""

from collections import Counter, defaultdict

from fprobe_gdb import Fprobe

COMMAND = "cat /etc/motd /etc/shadow; echo hello > /tmp/x; ls /tmp"
MOVING = ["vfs_read", "vfs_write", "do_splice_direct", "splice_file_to_pipe"]  # FUNCTION(struct file *, ...)
paths, counts = {}, defaultdict(Counter)  # path by opening task, then by struct file; counts by path


def probe(k):
    def opening(fp, entry_ip, ret_ip, regs, data):
        paths[k.task] = k.args(regs, entry_ip).pathname.name.string()
        return paths[k.task].startswith("/run/agent")  # our agent's. True means: no exit handler for this call

    def opened(fp, entry_ip, ret_ip, regs, data):
        file = k.retval(regs, entry_ip)
        path = paths[int(file)] = paths.pop(k.task)
        counts[path][file.error_name() or "opened"] += 1

    def moving(fp, entry_ip, ret_ip, regs, data):
        data[:] = regs.di.to_bytes(8, "little")
        return regs.di not in paths

    def moved(fp, entry_ip, ret_ip, regs, data):
        result, path = k.retval(regs, entry_ip), paths[int.from_bytes(data, "little")]
        counts[path].update({result.error_name(): 1} if result < 0 else {"bytes": int(result)})

    k.register_fprobe(Fprobe(opening, opened), "do_filp_open")
    k.register_fprobe_syms(Fprobe(moving, moved, entry_data_size=8, nr_maxactive=16), MOVING)
    k.register_fprobe(Fprobe(lambda fp, entry_ip, ret_ip, regs, data: paths.pop(regs.di, None)), "__fput")


def report(k):
    print(*(f"{path:24} {dict(count)}" for path, count in counts.items()), sep="\n")
