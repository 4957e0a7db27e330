"""A little of everything, as a kernel's type information would have it."""

from __future__ import annotations

from fprobe_gdb.kernel.btf import Kind
from tests.unit.kernel.btf.made_up_btf import MadeUpBtf


def made_up(byte_order: str = "<") -> MadeUpBtf:
    b = MadeUpBtf(byte_order)
    long_ = b.int("long int", 8, True)
    ulong = b.int("long unsigned int", 8)
    uint = b.int("unsigned int", 4)
    int_ = b.int("int", 4, True)
    char = b.int("char", 1, True)
    bool_ = b.typedef("bool", b.int("_Bool", 1, encoding=4))
    uchar = b.int("unsigned char", 1)
    size_t = b.typedef("size_t", b.typedef("__kernel_size_t", ulong))
    ssize_t = b.typedef("ssize_t", long_)
    loff_t = b.typedef("loff_t", b.int("long long int", 8, True))
    const_char = b.qualified(Kind.CONST, char)
    text = b.ptr(const_char)
    qstr = b.compound("qstr", 16, ("hash", uint, 0), ("len", uint, 32), ("name", text, 64))
    dentry = b.compound("dentry", 40, ("d_flags", uint, 0), ("d_name", qstr, 64), ("d_iname", b.array(char, 12), 192))
    path = b.compound("path", 16, ("mnt", b.ptr(0), 0), ("dentry", b.ptr(dentry), 64))
    void_fn = b.ptr(b.proto(0))
    mode = b.enum("mode", 4, {"MODE_OFF": 0, "MODE_ON": 1, "MODE_BAD": -2}, signed=True)
    big = b.enum("big", 8, {"BIG_ONE": 1, "BIG_TOP": 1 << 63})
    inner = b.compound("", 8, ("f_count", int_, 0), ("f_raw", uint, 0), kind=Kind.UNION)
    bits = b.compound("", 4, ("low", uint, 0, 3), ("neg", int_, 3, 5), ("wide", uint, 8, 24))
    matrix = b.array(b.array(int_, 3), 2)
    tail = b.array(int_, 0)
    # IDs that come later can be named before: "file" points to itself.
    file = b.next_id + 1
    file_ptr = b.ptr(file)
    b.compound(
        "file",
        112,
        ("", inner, 0),
        ("f_path", path, 64),
        ("f_mode", mode, 192),
        ("", bits, 224),
        ("f_next", file_ptr, 256),
        ("release", void_fn, 320),
        ("string", int_, 384),
        ("class", uchar, 416),
        ("f_lock", bool_, 424),
        ("f_pos", loff_t, 448),
        ("f_array", matrix, 512),
        ("f_big", big, 704),
        ("f_tail", tail, 896),
    )
    read = b.proto(ssize_t, ("file", file_ptr), ("buf", b.ptr(char)), ("count", size_t), ("pos", b.ptr(loff_t)))
    b.func("vfs_read", read)
    b.func("many", b.proto(bool_, *((name, int_) for name in "abcdefgh")))
    b.func("twin", b.proto(0, ("a", int_)))
    b.func("twin", b.proto(0, ("a", long_)))
    b.func("same", b.proto(0, ("a", int_)))
    b.func("same", b.proto(0, ("a", int_)))
    b.func("printk", b.proto(int_, ("fmt", text), ("", 0)))
    argv = b.ptr(b.qualified(Kind.CONST, text))
    callback = b.ptr(b.proto(int_, ("", b.ptr(0)), ("", b.ptr(b.array(int_, 4)))))
    b.func("odd", b.proto(b.ptr(b.proto(0, ("", int_))), ("argv", argv), ("cb", callback)))
    b.func("user", b.proto(0, ("buf", b.ptr(b.qualified(Kind.TYPE_TAG, char, "user")))))
    pair = b.compound("pair", 16, ("a", long_, 0), ("b", long_, 64))
    huge = b.compound("huge", 24, ("a", b.array(long_, 3), 0))
    b.func("by_value", b.proto(pair, ("a", int_), ("p", pair), ("h", huge), ("q", pair), ("r", pair), ("z", int_)))
    b.func("gives_huge", b.proto(huge, ("a", int_)))
    b.func("floats", b.proto(0, ("a", int_), ("f", b.add(Kind.FLOAT, "double", 8)), ("b", int_)))
    b.func("find", b.proto(file_ptr, ("mode", mode)))
    b.func("nothing", b.proto(0))
    counter = b.add(Kind.VAR, "this_cpu_off", ulong, 1)
    b.add(Kind.DATASEC, ".data..percpu", 64, counter, 16, 8, vlen=1)
    b.add(Kind.FWD, "hidden", 0)
    b.add(Kind.DECL_TAG, "remark", file, 0xFFFFFFFF)
    return b
