"""Path, bytes, errors of each file that a command opens: `fprobe-gdb run examples/opened_files.py -- 'ls -l / > /x'`"""

from fprobe_gdb import Fprobe

COMMAND = "cat /etc/motd /etc/shadow; echo hello > /tmp/x; ls /tmp"
MOVING = ["vfs_read", "vfs_write", "do_splice_direct", "splice_file_to_pipe"]  # FUNCTION(struct file *, ...)
rows, files = [], {}  # [path, bytes, errors] of all files; of those that are open, by address of struct file


def probe(k):
    def entering(fp, entry_ip, ret_ip, regs, data):
        data[:] = regs.di.to_bytes(8, "little") + regs.si.to_bytes(8, "little")

    def opened(fp, entry_ip, ret_ip, regs, data):
        file, name = k.retval(regs, entry_ip), k.value("struct filename", int.from_bytes(data[8:], "little")).name
        rows.append([name.string(), 0, file.error_name() or ""])
        files[int(file)] = rows[-1]

    def moved(fp, entry_ip, ret_ip, regs, data):
        row, result = files.get(int.from_bytes(data[:8], "little"), ["", 0, ""]), k.retval(regs, entry_ip)
        row[1], row[2] = row[1] + max(int(result), 0), row[2] + (f" {result.error_name()}" if result < 0 else "")

    k.register_fprobe(Fprobe(entering, opened, entry_data_size=16), "do_filp_open")
    k.register_fprobe_syms(Fprobe(entering, moved, entry_data_size=16, nr_maxactive=16), MOVING)
    k.register_fprobe(Fprobe(lambda fp, entry_ip, ret_ip, regs, data: files.pop(regs.di, None)), "__fput")


def report(k):
    print(*("{:24} {:6} {}".format(*row) for row in rows if "/run/agent" not in row[0]), sep="\n")
