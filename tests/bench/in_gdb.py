# Runs inside gdb, not in our Python: breakpoints in Python as gdb's manual shows them (node "Breakpoints In Python").
# DESCRIPTOR, SOCKET and ADDRESS are set before. For each line "N" on DESCRIPTOR: N + 1 hits, and their times back.
import socket
import time

import gdb  # type: ignore[import-not-found]


class Hit(gdb.Breakpoint):  # type: ignore[misc]
    hits = 0
    times = []  # noqa: RUF012

    def stop(self):  # type: ignore[no-untyped-def]
        arguments = [int(gdb.parse_and_eval(name)) for name in ("$rdi", "$rsi", "$rdx")]
        sp = int(gdb.parse_and_eval("$rsp"))
        assert arguments
        assert bytes(gdb.selected_inferior().read_memory(sp, 8))
        Hit.times.append(time.monotonic())
        return len(Hit.times) > Hit.hits


gdb.execute("set pagination off")
gdb.execute("target remote " + SOCKET)  # type: ignore[name-defined]  # noqa: F821
Hit(f"*{ADDRESS:#x}")  # type: ignore[name-defined]  # noqa: F821
with socket.socket(fileno=DESCRIPTOR) as sock, sock.makefile("rw") as stream:  # type: ignore[name-defined]  # noqa: F821
    for line in stream:
        Hit.hits, Hit.times = int(line), []
        gdb.execute("continue")
        stream.write(" ".join(map(repr, Hit.times)) + "\n")
        stream.flush()
