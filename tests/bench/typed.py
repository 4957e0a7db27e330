"""What a handler pays for looking at a hit by C types: each kind of access, timed by itself."""

from __future__ import annotations

import time
from collections.abc import Callable

import drgn
from drgn.helpers.linux.fs import d_path

from fprobe_gdb import Fprobe, Kernel, PtRegs
from tests.bench.guests import FUNCTION, LIMIT_SEC

__all__ = ["typed_accesses"]


def _path(k: Kernel, regs: PtRegs, ip: int) -> bytes:
    return bytes(d_path(drgn.Object(k.drgn(), "struct file *", regs.di).f_path))


def _name(k: Kernel, regs: PtRegs, ip: int) -> str:
    return k.args(regs, ip).file.f_path.dentry.d_name.name.string()


#: A kernel, the registers, and the location of the hit, to something that was read.
Access = Callable[[Kernel, PtRegs, int], object]
ACCESSES: dict[str, Access] = {
    "an argument's number": lambda k, regs, ip: int(k.args(regs, ip)["count"]),
    "file->f_path.dentry->d_name.name as text": _name,
    "k.current: comm, pid and tgid": lambda k, regs, ip: k.current.comm,
    "k.stack(), by ORC": lambda k, regs, ip: len(k.stack().frames),
    "d_path(file->f_path) by drgn": _path,
}


def typed_accesses(k: Kernel, hits: int) -> dict[str, list[tuple[float, float]]]:
    """The seconds of each access in each of so many hits: by the clock, and of our own processor time."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ACCESSES}

    def on_entry(fp: Fprobe, entry_ip: int, ret_ip: int, regs: PtRegs, data) -> None:  # type: ignore[no-untyped-def]
        for name, access in ACCESSES.items():
            started, before = time.perf_counter(), time.thread_time()
            assert access(k, regs, entry_ip)
            times[name].append((time.perf_counter() - started, time.thread_time() - before))
        if fp.hits >= hits:
            k.stop()

    fp = Fprobe(on_entry)
    k.register_fprobe(fp, FUNCTION)
    k.run(timeout_sec=LIMIT_SEC)
    k.unregister_fprobe(fp)
    return times
