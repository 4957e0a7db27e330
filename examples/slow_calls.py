"""How long the calls of a function take, as a histogram: the exit handler gets what the entry handler has stored.

    fprobe-gdb run examples/slow_calls.py
    FUNCTION=vfs_write fprobe-gdb run examples/slow_calls.py --smp 2 --backend rsp -- 'dd if=/dev/zero of=/x count=50'

Time is the guest's: it stands still while handlers run. Under TCG each stop makes the code that follows slower, so
compare calls with each other, not with a stopwatch.
"""

import os
from collections import Counter

from fprobe_gdb import Fprobe

COMMAND = "workload read 20 1000; (sleep 0.2; echo late) | cat"
FUNCTION = os.environ.get("FUNCTION", "vfs_read")
histogram = Counter()


def probe(k):
    def on_entry(fp, entry_ip, ret_ip, regs, data):
        data[:] = k.time_ns.to_bytes(8, "little")

    def on_exit(fp, entry_ip, ret_ip, regs, data):
        duration_us = (k.time_ns - int.from_bytes(data, "little")) // 1000
        histogram[duration_us.bit_length()] += 1

    k.register_fprobe(Fprobe(on_entry, on_exit, entry_data_size=8, nr_maxactive=64), FUNCTION)


def report(k):
    print(f"{FUNCTION}: {histogram.total()} calls")
    for bits in range(min(histogram, default=0), max(histogram, default=-1) + 1):
        count = histogram[bits]
        print(f"{2**bits // 2:>10} .. {2**bits:>8} us {count:6} {'#' * (40 * count // max(histogram.values()))}")
