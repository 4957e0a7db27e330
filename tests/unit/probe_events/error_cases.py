"""Definitions that the kernel refuses, and what it says: the cases of its own selftests, and some more.

From tools/testing/selftests/ftrace/test.d/dynevent/{fprobe,tprobe}_syntax_errors.tc, fprobe_args_vfs.tc and
add_remove_btfarg.tc of Linux 6.12. A ``^`` stands before the place that the kernel's caret points at. The unit tests
run them against made-up types; tests/integration/test_probe_event_errors.py writes each into a real kernel's tracefs
too, so that what is expected here is what that kernel answers.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ACCEPTED", "REFUSED", "REFUSED_TRACEPOINTS", "Refused"]

_TESTEVENT = "f:fprobes/testevent kernel_clone abcd=\\1"


@dataclass(frozen=True)
class Refused:
    """A line and the error that it gets."""

    marked: str
    message_id: str
    #: Lines that are accepted before.
    before: tuple[str, ...] = ()
    errno_name: str = "EINVAL"
    #: What the kernel logs after that for the same line.
    later: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """Without the mark."""
        return self.marked.replace("^", "")

    @property
    def column(self) -> int:
        """Where the mark is."""
        return self.marked.index("^")

    def __str__(self) -> str:
        return f"{self.marked[:60]} {self.message_id}"


_LONG = "a" * 65
_NESTED = "+0(^" + "+0(" * 13 + "@0" + ")" * 14
#: Everything behind the probed function, which fprobe and tprobe events share.
_ARGUMENTS = [
    ("^$stack10000", "BAD_STACK_NUM"),
    ("^$stackx", "BAD_VAR"),
    ("^$arg10000", "NO_BTFARG", "ENOENT"),
    ("^$argx", "BAD_VAR"),
    ("^$arg1x", "BAD_VAR", "ENOENT"),
    ("a=^$arg0", "BAD_ARG_NUM"),
    ("a=^$arg2049", "BAD_ARG_NUM"),
    ("^$none_var", "BAD_VAR"),
    ("^@12345678abcde", "BAD_MEM_ADDR"),
    ("^@09", "BAD_MEM_ADDR"),
    ("^@0x10000000000000000", "BAD_MEM_ADDR", "ERANGE"),
    ("^@+10", "FILE_ON_KPROBE"),
    ("arg1=\\^x", "BAD_IMM"),
    ("\\^", "BAD_IMM"),
    ("\\^-x", "BAD_IMM"),
    ('arg1=\\"abcd^', "IMMSTR_NO_CLOSE"),
    ('arg1=\\"^', "IMMSTR_NO_CLOSE"),
    ("^+0@0)", "DEREF_NEED_BRACE"),
    ("^+0ab1(@0)", "BAD_DEREF_OFFS"),
    ("a=^-9223372036854775809(@0)", "BAD_DEREF_OFFS", "ERANGE"),
    ("+0(+0(@0^)", "DEREF_OPEN_BRACE"),
    ("+u0(+0(@^0)", "DEREF_OPEN_BRACE"),
    ("+0(^$comm)", "COMM_CANT_DEREF"),
    ('+0(^\\"a")', "COMM_CANT_DEREF"),
    ("^&1", "BAD_FETCH_ARG"),
    ("+0(^)", "BAD_FETCH_ARG"),
    ("-0(^)", "BAD_FETCH_ARG"),
    (_NESTED, "TOO_MANY_OPS"),
    ("+0(@11):u8[10^", "ARRAY_NO_CLOSE"),
    ("+0(@11):u8[10]^a", "BAD_ARRAY_SUFFIX"),
    ("+0(@11):u8[^10a]", "BAD_ARRAY_NUM"),
    ("+0(@11):u8[^0]", "BAD_ARRAY_NUM"),
    ("+0(@11):u8[^]", "BAD_ARRAY_NUM"),
    ("+0(@11):u8[^256]", "ARRAY_TOO_BIG"),
    ("+0(@11):u8[^65]", "ARRAY_TOO_BIG"),
    ("$stack0:^u8[4]", "BAD_STRING"),
    ("+u8(\\1):x8[^2]", "BAD_STRING"),
    ("@11:^unknown_type", "BAD_TYPE"),
    ("@11:^", "BAD_TYPE"),
    ("@11:^b1@2/12", "BAD_TYPE"),
    ("$stack0:^string", "BAD_STRING"),
    ("$stack0:^ustring", "BAD_STRING"),
    ("\\1:^symstr", "BAD_SYMSTRING"),
    ("@11:^b10@a/16", "BAD_BITFIELD"),
    ("@11:^b0@1/16", "BAD_BITFIELD"),
    ("@11:^b9@8/16", "BAD_BITFIELD"),
    ("$comm:^u8", "NEED_STRING_TYPE"),
    ("$comm:^ustring", "NEED_STRING_TYPE"),
    ("$comm:^string[2]", "NEED_STRING_TYPE"),
    ('\\"a":^u8', "NEED_STRING_TYPE"),
    (f"^arg{'1' * 30}=@11", "ARG_NAME_TOO_LONG"),
    ("^=@11", "NO_ARG_NAME"),
    ("^var.1=@11", "BAD_ARG_NAME"),
    ("^1var=@11", "BAD_ARG_NAME"),
    ("var1=@11 ^var1=@12", "USED_ARG_NAME"),
    ("arg2=@11 ^@12", "USED_ARG_NAME"),
    ("^common_type=@11", "USED_ARG_NAME"),
    ("^__probe_ip=@11", "USED_ARG_NAME"),
    ("^" + "+1234567(" * 6 + "@1234" + ")" * 6, "ARG_TOO_LONG", "E2BIG"),
    ("arg1=^", "NO_ARG_BODY"),
    ("args=^$arg*", "BAD_VAR"),
    ("+0(^$arg*)", "BAD_VAR"),
    ("$arg* ^$arg*", "DOUBLE_ARGS"),
    ("^hoge", "NO_BTFARG", "ENOENT"),
    ("x=^hoge->foo", "NO_BTFARG", "ENOENT"),
]


def _argument_cases(head: str) -> list[Refused]:
    return [
        Refused(f"{head} {text}", message_id, errno_name=more[0] if more else "EINVAL")
        for text, message_id, *more in _ARGUMENTS
    ]


#: ``f`` events.
REFUSED = [
    Refused("f^100 vfs_read", "BAD_MAXACT_TYPE"),
    Refused("f^1a111 vfs_read", "BAD_MAXACT"),
    Refused("f^0 vfs_read%return", "BAD_MAXACT"),
    Refused(f"f^{'1' * 64} vfs_read%return", "BAD_MAXACT"),
    Refused("f^100000 vfs_read", "MAXACT_TOO_BIG"),
    Refused("f^4097:g/e vfs_read%return", "MAXACT_TOO_BIG"),
    Refused("f ^non_exist_func", "FAIL_REG_PROBE"),
    Refused("f ^vfs_read+10", "FAIL_REG_PROBE"),
    Refused("f:^/bar vfs_read", "NO_GROUP_NAME"),
    Refused("f:^.bar vfs_read", "NO_GROUP_NAME"),
    Refused(f"f:^{_LONG}/bar vfs_read", "GROUP_TOO_LONG"),
    Refused("f:^foo.1/bar vfs_read", "BAD_GROUP_NAME"),
    Refused("f:^1foo/bar vfs_read", "BAD_GROUP_NAME"),
    Refused("f:^ vfs_read", "NO_EVENT_NAME"),
    Refused(f"f:foo/^{_LONG} vfs_read", "EVENT_TOO_LONG"),
    Refused("f:foo/^bar.1 vfs_read", "BAD_EVENT_NAME"),
    Refused("f:foo/^a/b vfs_read", "BAD_EVENT_NAME"),
    Refused("f16:foo/^1bar vfs_read%return", "BAD_EVENT_NAME"),
    *_argument_cases("f vfs_read"),
    Refused("f vfs_read ^%ax", "BAD_VAR", later=("BAD_FETCH_ARG",)),
    Refused("f vfs_read file->^foo", "NO_BTF_FIELD", errno_name="ENOENT"),
    Refused("f vfs_read file->f_path.^foo", "NO_BTF_FIELD", errno_name="ENOENT"),
    Refused("f vfs_read file->f_path.dentry->^foo", "NO_BTF_FIELD", errno_name="ENOENT"),
    Refused("f vfs_read file^-.foo", "BAD_HYPHEN"),
    Refused("f vfs_read file->f_path^-x", "BAD_HYPHEN"),
    Refused("f vfs_read file.^foo", "NOSUP_DAT_ARG", errno_name="EOPNOTSUPP"),
    Refused("f vfs_read count->^foo", "NO_PTR_STRCT"),
    Refused("f vfs_read buf->^foo", "BAD_BTF_TID"),
    Refused("f vfs_read file->f_path->^dentry", "NO_PTR_STRCT"),
    Refused("f vfs_read ^file:string", "BAD_TYPE4STR"),
    Refused("f vfs_read ^count:ustring", "BAD_TYPE4STR"),
    Refused("f vfs_read file->^f_mode:string", "BAD_TYPE4STR"),
    Refused("f vfs_read ^$arg0", "NO_BTF_ENTRY", errno_name="ENOENT"),
    Refused("f vfs_read^%hoge", "BAD_ADDR_SUFFIX"),
    Refused("f vfs_read^%return+1", "BAD_ADDR_SUFFIX"),
    Refused("f kfree ^$arg10", "NO_BTFARG", errno_name="ENOENT"),
    Refused("f kfree%return ^$retval", "NO_RETVAL", errno_name="ENOENT"),
    Refused("f kfree a=^$retval", "NO_RETVAL", errno_name="ENOENT"),
    Refused("f vfs_read%return $retval->^foo", "NO_PTR_STRCT"),
    Refused("f vfs_read%return ^$retvalx", "NO_BTFARG", errno_name="ENOENT"),
    Refused("f vfs_read ^$retvalx", "RETVAL_ON_PROBE"),
    Refused("f vfs_read%return $arg1^:symstr", "BAD_SYMSTRING"),
    Refused("f vfs_rea* ^file", "NO_BTF_ENTRY", errno_name="ENOENT"),
    Refused("f vfs_rea* ^$arg*", "NOSUP_BTFARG", later=("BAD_VAR",)),
    Refused("f ^vfs_read @no_such_symbol", "BAD_PROBE_ADDR", errno_name="ENOENT"),
    Refused("f ^vfs_read @jiffies+x", "FAIL_REG_PROBE"),
    Refused("^f:fprobes/testevent do_exit%return", "DIFF_PROBE_TYPE", (_TESTEVENT,), "EEXIST"),
    Refused("f:fprobes/testevent do_exit ^bcd=\\1", "DIFF_ARG_TYPE", (_TESTEVENT,), "EEXIST"),
    Refused("f:fprobes/testevent do_exit ^abcd=\\1:u8", "DIFF_ARG_TYPE", (_TESTEVENT,), "EEXIST"),
    Refused('f:fprobes/testevent do_exit ^abcd=\\"foo"', "DIFF_ARG_TYPE", (_TESTEVENT,), "EEXIST"),
    Refused("f:fprobes/testevent do_exit abcd=\\1 ^b=\\2", "DIFF_ARG_TYPE", (_TESTEVENT,), "EEXIST"),
    Refused("f:fprobes/testevent do_exit ^", "DIFF_ARG_TYPE", (_TESTEVENT,), "EEXIST"),
    Refused("^f:fprobes/testevent kernel_clone abcd=\\1", "SAME_PROBE", (_TESTEVENT,), "EEXIST"),
]

#: ``t`` events. What is right about them we refuse with an error of our own.
REFUSED_TRACEPOINTS = [
    Refused("t^100 kfree", "BAD_MAXACT_TYPE"),
    Refused("t^1a111 kfree", "BAD_MAXACT"),
    Refused("t^100000 kfree", "MAXACT_TOO_BIG"),
    Refused("t:^/bar kfree", "NO_GROUP_NAME"),
    Refused(f"t:^{_LONG}/bar kfree", "GROUP_TOO_LONG"),
    Refused("t:^foo.1/bar kfree", "BAD_GROUP_NAME"),
    Refused("t:^ kfree", "NO_EVENT_NAME"),
    Refused(f"t:foo/^{_LONG} kfree", "EVENT_TOO_LONG"),
    Refused("t:foo/^bar.1 kfree", "BAD_EVENT_NAME"),
    *_argument_cases("t kfree"),
    Refused("t kfree ^%rax", "BAD_VAR", later=("BAD_FETCH_ARG",)),
    Refused("t kfree ^$retval", "RETVAL_ON_PROBE"),
    Refused("t kfree a=+0(^$retval)", "RETVAL_ON_PROBE"),
    Refused("t kfree^+1", "BAD_TP_NAME"),
    Refused("t kfree^%return", "BAD_ADDR_SUFFIX"),
]

#: Lines that are accepted, and what ``dynamic_events`` shows of them. ``{dentry}``, ``{name}``: offsets by the types.
ACCEPTED = [
    ("f vfs_read", "f:fprobes/vfs_read__entry vfs_read"),
    ("f vfs_read%return", "f:fprobes/vfs_read__exit vfs_read%return"),
    ("f16 vfs_read%return", "f16:fprobes/vfs_read__exit vfs_read%return"),
    ("f:myevent1 kernel_clone", "f:fprobes/myevent1 kernel_clone"),
    ("f:a.b kernel_clone", "f:a/b kernel_clone"),
    ("f:grp/ kernel_clone", "f:grp/kernel_clone__entry kernel_clone"),
    ("f:g-1/x kernel_clone", "f:g-1/x kernel_clone"),
    ("foo vfs_read", "f:fprobes/vfs_read__entry vfs_read"),
    ("f:w vfs_rea*", "f:fprobes/w vfs_rea*"),
    ("f vfs_rea*", "f:fprobes/vfs_rea___entry vfs_rea*"),
    ("f vfs_read $retval", "f:fprobes/vfs_read__exit vfs_read%return arg1=$retval"),
    ("f   vfs_read\t$stack  # a comment", "f:fprobes/vfs_read__entry vfs_read arg1=$stack"),
    ("f vfs_read $stack2048", "f:fprobes/vfs_read__entry vfs_read arg1=$stack2048"),
    ("f kfree object", "f:fprobes/kfree__entry kfree object=object"),
    ("f kfree $arg1", "f:fprobes/kfree__entry kfree object=object"),
    ("f kfree $arg1:u8", "f:fprobes/kfree__entry kfree object=object:u8"),
    ("f kfree $arg*", "f:fprobes/kfree__entry kfree object=object"),
    ("f kfree%return $arg*", "f:fprobes/kfree__exit kfree%return object=object"),
    ("f vfs_read $arg* x=$arg2", "f:fprobes/vfs_read__entry vfs_read file=file buf=buf count=count pos=pos x=$arg2"),
    ("f vfs_rea* $arg1", "f:fprobes/vfs_rea___entry vfs_rea* arg1=$arg1"),
    (
        "f dput name=$arg1:%pd",
        "f:fprobes/dput__entry dput name=+0x0(+{name:#x}($arg1)):string",
    ),
    ("f dput $arg1:%pd", "f:fprobes/dput__entry dput arg1=+0x0(+{name:#x}(dentry)):string"),
    (
        "f vfs_read a=$arg1:%pD",
        "f:fprobes/vfs_read__entry vfs_read a=+0x0(+{name:#x}(+{dentry:#x}($arg1))):string",
    ),
    (
        "f getname_flags%return path=$retval->name:string",
        "f:fprobes/getname_flags__exit getname_flags%return path=$retval->name:string",
    ),
    ("f vfs_read file->f_path.dentry->d_name.name:string", None),
    ('f vfs_read \\"a" \\"" \\-5 \\+5 \\0x10 @jiffies @jiffies+8 @0xffffffff81000000:u8[4]', None),
    ("f vfs_read +u8(buf):x8 -8(file):symbol file:symstr +0(file):symstr $stack0:symstr", None),
    ("f vfs_read buf:ustring $comm $COMM:string file->f_path.dentry->d_iname:string", None),
    ("f vfs_read a=count:b4@4/8 file->f_mode:b1@0/32 b=count:s16 c=count:char count:x8", None),
    ("f vfs_read " + "+0(" * 13 + "@0" + ")" * 13, None),
    ("f vfs_read " + " ".join(f"\\{n}" for n in range(128)), None),
]
