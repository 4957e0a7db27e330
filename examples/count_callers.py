"""Who calls a function most: the ten most frequent callers. One stop a call, as there is no exit handler.

    fprobe-gdb run examples/count_callers.py --backend rsp
    PATTERN='*spin_lock' fprobe-gdb run examples/count_callers.py --backend rsp --timeout 20 -- ls /

A caller such as getname_flags.part.0 is a part of a function that the compiler has split off.
"""

import os
from collections import Counter

from fprobe_gdb import Fprobe

COMMAND = "ls -l /etc"
PATTERN = os.environ.get("PATTERN", "kmem_cache_alloc*")
callers = Counter()


def probe(k):
    def on_entry(fp, entry_ip, ret_ip, regs, data):
        callers[k.symbolize(entry_ip).partition("+")[0], k.symbolize(ret_ip)] += 1

    k.register_fprobe(Fprobe(on_entry), PATTERN)


def report(k):
    print(f"{callers.total()} calls from {len(callers)} places")
    for (function, caller), count in callers.most_common(10):
        print(f"{count:6}  {function} <- {caller}")
