"""A kernel of a few functions, with their types, as the parser sees one."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from functools import cached_property

from fprobe_gdb.errors import InvalidProbe
from fprobe_gdb.kernel.btf import Btf, Kind
from tests.unit.kernel.btf.made_up_btf import MadeUpBtf

__all__ = ["MadeUpKernel"]

FUNCTIONS = ("vfs_read", "vfs_readv", "kernel_clone", "do_exit", "kfree", "dput", "getname_flags")
SYMBOLS = {
    "jiffies": 0xFFFFFFFF82000000,
    "__probestub_kfree": 0xFFFFFFFF81100000,
    "__tracepoint_sched_switch": 0xFFFFFFFF82000100,
}


class MadeUpKernel:
    """:class:`~fprobe_gdb.probe_events.catalog.ProbeCatalog`."""

    def addresses(self, name: str) -> Sequence[int]:
        if name in FUNCTIONS:
            return (0xFFFFFFFF81000000 + 0x100 * FUNCTIONS.index(name),)
        return (SYMBOLS[name],) if name in SYMBOLS else ()

    def refusal(self, pattern: str) -> InvalidProbe | None:
        return None if fnmatch.filter((*FUNCTIONS, *SYMBOLS), pattern) else InvalidProbe(f"{pattern} matches nothing")

    @cached_property
    def btf(self) -> Btf | None:
        return Btf.from_bytes(_types().bytes())


def _types() -> MadeUpBtf:
    b = MadeUpBtf()
    long_ = b.int("long int", 8, True)
    ulong = b.int("long unsigned int", 8)
    uint = b.int("unsigned int", 4)
    int_ = b.int("int", 4, True)
    # Kernels are built with -funsigned-char.
    char = b.int("char", 1)
    text = b.ptr(b.qualified(Kind.CONST, char))
    qstr = b.compound("qstr", 16, ("hash_len", ulong, 0), ("name", text, 64))
    dentry = b.compound(
        "dentry", 88, ("d_flags", uint, 0), ("d_parent", b.next_id, 192), ("d_name", qstr, 256),
        ("d_iname", b.array(char, 40), 384),
    )  # fmt: skip
    path = b.compound("path", 16, ("mnt", b.ptr(0), 0), ("dentry", b.ptr(dentry), 64))
    bits = b.compound("", 4, ("low", uint, 0, 3), ("neg", int_, 3, 5), ("wide", uint, 8, 24))
    mode = b.enum("mode", 4, {"MODE_OFF": 0, "MODE_ON": 1})
    inner = b.compound("", 8, ("f_count", long_, 0), ("f_raw", ulong, 0), kind=Kind.UNION)
    file = b.compound(
        "file", 64, ("f_mode", uint, 0), ("", bits, 32), ("", inner, 64), ("f_path", path, 512 - 128), ("m", mode, 128),
    )  # fmt: skip
    filename = b.compound("filename", 16, ("name", text, 0), ("refcnt", int_, 64))
    dentry_ptr, file_ptr, void_ptr = b.ptr(dentry), b.ptr(file), b.ptr(0)
    read = b.proto(long_, ("file", file_ptr), ("buf", b.ptr(char)), ("count", ulong), ("pos", b.ptr(long_)))
    b.func("vfs_read", read)
    b.func("kernel_clone", b.proto(int_, ("args", void_ptr)))
    b.func("do_exit", b.proto(0, ("code", long_)))
    b.func("kfree", b.proto(0, ("object", b.ptr(b.qualified(Kind.CONST, 0)))))
    b.func("dput", b.proto(0, ("dentry", dentry_ptr)))
    b.func("getname_flags", b.proto(b.ptr(filename), ("filename", text), ("flags", int_)))
    stub = b.proto(0, ("__data", void_ptr), ("call_site", ulong), ("ptr", void_ptr))
    b.func("__probestub_kfree", stub)
    return b
