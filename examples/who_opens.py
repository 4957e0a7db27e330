"""Who opens what: the whole path, and the processes up to init, by drgn's helpers: pip install 'fprobe-gdb[drgn]'.

fprobe-gdb run examples/who_opens.py --backend rsp
fprobe-gdb run examples/who_opens.py --backend rsp -- 'sh -c "cd /proc && cat self/stat"'
"""

from drgn import Object
from drgn.helpers.linux.fs import d_path

from fprobe_gdb import Fprobe

COMMAND = "cd /etc && sh -c 'cat motd > /tmp/x'"


def ancestors(task):
    while task.pid:  # 0 is the idle task, which started init
        yield f"{task.comm.string_().decode()}-{task.tgid.value_()}"
        task = task.real_parent


def probe(k):
    def on_entry(fp, entry_ip, ret_ip, regs, data):
        prog = k.drgn()  # int vfs_open(const struct path *path, struct file *file)
        path = d_path(Object(prog, "struct path *", regs.di)).decode()
        if not path.startswith("/run/agent"):  # our agent's
            print(f"{path:16}", *ancestors(Object(prog, "struct task_struct *", k.task)), sep=" < ")

    k.register_fprobe(Fprobe(on_entry), "vfs_open")
