"""Expressions against the C compiler, and against the types of both catalog kernels. No guest is booted.

The compiler judges precedence, conversions and results: the same random expressions go through gcc and through us.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import images
from fprobe_gdb.errors import ExprError, MemoryFault, TypeAmbiguous, TypeNotFound
from fprobe_gdb.expr import Scope, compile_filter, compile_keys, errors_filter
from fprobe_gdb.expr.check import check
from fprobe_gdb.expr.compile import number
from fprobe_gdb.expr.kinds import IntKind, ObjectKind, PointerKind
from fprobe_gdb.expr.parser import parse
from fprobe_gdb.expr.syntax import Node
from fprobe_gdb.kernel.btf import Btf, Kind, VoidType
from fprobe_gdb.kernel.image import KernelImage
from fprobe_gdb.kernel.values import GuestMemory, Value, arguments, return_value
from tests.unit.kernel.btf.made_up_btf import MadeUpBtf

KERNELS = ("6.1", "6.12")
MASK64 = (1 << 64) - 1
LIMIT_SEC = 120

# Section: the C compiler

EXPRESSIONS = 1500
STACK = 0x1000
# Name: (C type, size in bytes, signed, value).
VARIABLES = {
    "sc": ("signed char", 1, True, -100),
    "uc": ("unsigned char", 1, False, 250),
    "ss": ("short int", 2, True, -31000),
    "us": ("short unsigned int", 2, False, 65000),
    "si": ("int", 4, True, -2147483648),
    "ui": ("unsigned int", 4, False, 4000000000),
    "sl": ("long int", 8, True, -(1 << 63) + 5),
    "ul": ("long unsigned int", 8, False, MASK64 - 7),
}
LITERALS = ("0", "1", "7", "-1", "2147483647", "2147483648", "0xffffffff", "0x80000000", "5u", "3L", "9ul", "017",
            "'a'", "'\\377'", "0x7fffffffffffffff", "0xffffffffffffffff", "12345678901")  # fmt: skip
BINARY = ("+", "-", "*", "&", "|", "^", "==", "!=", "<", "<=", ">", ">=", "&&", "||")
KINDS = {(32, True): 1, (32, False): 2, (64, True): 3, (64, False): 4}


def random_operand(rng: random.Random, depth: int) -> str:
    choice = rng.random()
    if depth and choice < 0.25:
        return f"({random_expression(rng, depth - 1)})"
    if choice < 0.35:
        return rng.choice("-~!+") + " " + random_operand(rng, depth)
    return rng.choice(tuple(VARIABLES)) if choice < 0.8 else rng.choice(LITERALS)


# Nothing that C leaves undefined: shifts within the width, divisors above 1 (gcc makes x + y / -1 of x - y / 1).
def random_expression(rng: random.Random, depth: int = 2) -> str:
    text = random_operand(rng, depth)
    for _ in range(rng.randrange(4)):
        choice = rng.random()
        operand = random_operand(rng, depth)
        if choice < 0.12:
            # Closed, lest a tighter operator that follows takes the count away.
            text = f"({text} {rng.choice(('<<', '>>'))} ({operand} & 31))"
        elif choice < 0.24:
            text += f" {rng.choice('/%')} (({operand} & 63) + 2)"
        else:
            text += f" {rng.choice(BINARY)} {operand}"
    if rng.random() < 0.1:
        text += f" ? {random_operand(rng, depth)} : {random_operand(rng, depth)}"
    return text


def understood(text: str) -> Node | None:
    """The expression; None for the two things that C accepts and we refuse on purpose."""
    try:
        return parse(text)
    except ExprError as error:
        if "do not chain" in error.message or "binds tighter" in error.message:
            return None
        raise


def by_gcc(expressions: list[str], folder: Path) -> list[tuple[int, int]]:
    """Value (as 64 bits) and type of each expression, as gcc sees them."""
    declared = "\n".join(f"volatile {c_type} {name} = {value}ull;" for name, (c_type, _, _, value) in VARIABLES.items())
    kinds = "int: 1, unsigned: 2, long: 3, unsigned long: 4, default: 0"
    lines = "\n".join(
        f'printf("%llu %d\\n", (unsigned long long)({text}), _Generic(({text}), {kinds}));' for text in expressions
    )
    source = folder / "expressions.c"
    source.write_text(f"#include <stdio.h>\n{declared}\nint main(void)\n{{\n{lines}\nreturn 0;\n}}\n")
    program = folder / "expressions"
    command = ["gcc", "-w", "-fwrapv", "-std=gnu11", "-o", str(program), str(source)]
    subprocess.run(command, check=True, timeout=LIMIT_SEC)
    found = subprocess.run([program], check=True, capture_output=True, text=True, timeout=LIMIT_SEC).stdout
    return [(int(value), int(kind)) for value, kind in map(str.split, found.splitlines())]


def c_like_hit() -> tuple[Scope, Any]:
    """A function whose arguments are :data:`VARIABLES`, and a call of it."""
    made = MadeUpBtf()
    params = [(name, made.int(c_type, size, signed)) for name, (c_type, size, signed, _) in VARIABLES.items()]
    made.func("f", made.proto(0, *params))
    btf = Btf.from_bytes(made.bytes())
    values = [value & MASK64 for _, _, _, value in VARIABLES.values()]
    stack = struct.pack("<3Q", 0, *values[6:])
    memory = GuestMemory(lambda addr, size: stack[addr - STACK : addr - STACK + size])
    regs = {**dict(zip(("di", "si", "dx", "cx", "r8", "r9"), values, strict=False)), "sp": STACK}
    proto = btf.function("f")
    return Scope("f", btf, proto), SimpleNamespace(args=arguments(btf, proto, regs, memory))


def test_integers_are_those_of_the_c_compiler(tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        why = "gcc is not installed"
        if "gcc" in os.environ.get("FPROBE_REQUIRE", "").split(","):
            pytest.fail(why)
        pytest.skip(why)
    rng = random.Random(6)
    scope, hit = c_like_hit()
    ours: dict[str, tuple[int, int]] = {}
    refused = 0
    while len(ours) < EXPRESSIONS:
        text = random_expression(rng)
        if (node := understood(text)) is None:
            refused += 1
            continue
        typed = check(node, scope, text)
        assert isinstance(typed.kind, IntKind)
        # A variable alone is not promoted, and none of the four types here; nor is it in gcc.
        ours[text] = (int(number(typed)(hit)) & MASK64, KINDS.get((typed.kind.bits, typed.kind.signed), 0))
    assert refused < EXPRESSIONS
    theirs = by_gcc(list(ours), tmp_path)
    assert [(text, mine, its) for (text, mine), its in zip(ours.items(), theirs, strict=True) if mine != its] == []


# Section: both kernels' types


@cache
def kernel_btf(version: str) -> Btf:
    return Btf.of_image(KernelImage.open(Path(images.kernel(version).vmlinuz)))


@pytest.fixture(params=KERNELS)
def btf(request: pytest.FixtureRequest) -> Btf:
    return kernel_btf(request.param)


def scope_of(btf: Btf, *names: str, is_exit: bool = True) -> Scope:
    """The first of some names that the kernel has: functions get new names."""
    for name in names:
        if name in btf.names(Kind.FUNC):
            return Scope(name, btf, btf.function(name), is_exit)
    raise AssertionError(f"the kernel has none of {names}")


class PlacedMemory:
    """Pieces of memory at addresses; everything else is not mapped."""

    def __init__(self) -> None:
        self.pieces: dict[int, bytearray] = {}
        self.reads = 0

    def place(self, addr: int, size_bytes: int) -> None:
        self.pieces[addr] = bytearray(size_bytes)

    def put(self, addr: int, data: bytes) -> None:
        start = max(known for known in self.pieces if known <= addr)
        self.pieces[start][addr - start : addr - start + len(data)] = data

    def read(self, addr: int, size_bytes: int) -> bytes:
        self.reads += 1
        for start, piece in self.pieces.items():
            if start <= addr and addr + size_bytes <= start + len(piece):
                return bytes(piece[addr - start : addr - start + size_bytes])
        raise MemoryFault(addr, size_bytes)


FILE, DENTRY, NAME, TASK = 0xFFFF888001000000, 0xFFFF888002000000, 0xFFFF888003000000, 0xFFFF888004000000


def vfs_read_hit(btf: Btf) -> tuple[Any, PlacedMemory]:
    """``vfs_read()`` of /etc/motd by cat, in the kernel's own layout."""
    memory = PlacedMemory()
    file, dentry, task = btf.struct("file"), btf.struct("dentry"), btf.struct("task_struct")
    for addr, size_bytes in (
        (FILE, file.size_bytes),
        (DENTRY, dentry.size_bytes),
        (NAME, 4096),
        (TASK, task.size_bytes),
    ):
        memory.place(addr, size_bytes)
    memory.put(FILE + file.find_member("f_path.dentry").byte_offset, struct.pack("<Q", DENTRY))
    memory.put(FILE + file.find_member("f_flags").byte_offset, struct.pack("<I", 0o100000))
    memory.put(DENTRY + dentry.find_member("d_name.name").byte_offset, struct.pack("<Q", NAME))
    memory.put(NAME, b"motd\0")
    memory.put(TASK + task.find_member("comm").byte_offset, b"cat\0")
    memory.put(TASK + task.find_member("pid").byte_offset, struct.pack("<i", 71))
    guest = GuestMemory(memory.read)
    regs = {"di": FILE, "si": 0x1000, "dx": 4096, "cx": 0, "r8": 0, "r9": 0, "sp": 0, "ax": -2 & MASK64}
    proto = btf.function("vfs_read")
    return SimpleNamespace(
        args=arguments(btf, proto, regs, guest),
        retval=return_value(btf, proto, regs, guest),
        task=Value.of_int(btf, guest, btf.type("struct task_struct *"), TASK),
        regs=regs,
        memory=guest,
        epoch=guest.epoch,
        comm="cat",
        pid=71,
        duration_ns=7000,
    ), memory


@pytest.mark.parametrize(
    "text",
    [
        'count > 512 and comm == "cat"',
        'file->f_path.dentry->d_name.name == "motd"',
        "file->f_flags & 0100000 && !(file->f_flags & 1)",
        'task->comm == "cat" && task->pid == pid && task->mm == NULL',
        "retval == -ENOENT && is_err(retval) && duration >= 5us",
        "pos == NULL && buf != NULL",
        'cast(reg.di, "struct file *")->f_path.dentry == file->f_path.dentry',
        'file.f_path->dentry.d_name.name ~ "mot?" and $arg3 == 4096',
        "PIDTYPE_PID == 0 && TCP_ESTABLISHED == 1 && HRTIMER_RESTART == 1",
    ],
)
def test_vfs_read(btf: Btf, text: str) -> None:
    hit, _ = vfs_read_hit(btf)
    found = compile_filter(text, {1: scope_of(btf, "vfs_read")}).predicates[1]
    assert found(hit)
    assert not found.faults


def test_what_a_filter_reads_is_what_it_needs(btf: Btf) -> None:
    hit, memory = vfs_read_hit(btf)
    scopes = {1: scope_of(btf, "vfs_read")}
    compile_filter("count > 512 && retval < 0", scopes).predicates[1](hit)
    assert memory.reads == 0
    compile_filter('file->f_path.dentry->d_name.name == "motd"', scopes).predicates[1](hit)
    assert memory.reads == 3


def test_a_bad_pointer_is_counted(btf: Btf) -> None:
    hit, memory = vfs_read_hit(btf)
    memory.put(FILE + btf.struct("file").find_member("f_path.dentry").byte_offset, struct.pack("<Q", 0xDEAD))
    found = compile_filter('file->f_path.dentry->d_name.name == "motd"', {1: scope_of(btf, "vfs_read")})
    assert not found.predicates[1](hit)
    assert found.faults == 1


def test_keys(btf: Btf) -> None:
    hit, _ = vfs_read_hit(btf)
    found = compile_keys("comm, retval, file->f_path.dentry->d_name.name, task->comm", {1: scope_of(btf, "vfs_read")})
    assert found.extractors[1](hit) == ("cat", "-ENOENT", "motd", "cat")


@pytest.mark.parametrize(
    ("functions", "text", "bits", "signed"),
    [
        (("vfs_read",), "count", 64, False),
        (("vfs_read",), "retval", 64, True),
        (("vfs_read",), "*pos", 64, True),
        (("vfs_read",), "file->f_mode", 32, False),
        (("vfs_read",), "file->f_path.dentry->d_name.len", 32, False),
        (("tcp_sendmsg",), "size", 64, False),
        (("tcp_sendmsg",), "retval", 32, True),
        (("tcp_sendmsg",), "sk->__sk_common.skc_dport", 16, False),
        (("tcp_sendmsg",), "sk->__sk_common.skc_state", 8, False),
        (("tcp_sendmsg",), "sk->__sk_common.skc_reuse", 4, False),
        (("tcp_sendmsg",), "msg->msg_iter.count", 64, False),
        (("kmem_cache_alloc_noprof", "kmem_cache_alloc"), "s->object_size", 32, False),
        (("wake_up_new_task",), "p->prio", 32, True),
        (("wake_up_new_task",), "p->sched_reset_on_fork", 1, False),
        (("wake_up_new_task",), "p->rcu_users.refs.counter", 32, True),
    ],
)
def test_real_members_have_their_types(
    btf: Btf, functions: tuple[str, ...], text: str, bits: int, signed: bool
) -> None:
    kind = check(parse(text), scope_of(btf, *functions), text).kind
    assert isinstance(kind, IntKind)
    assert (kind.bits, kind.signed) == (bits, signed)


@pytest.mark.parametrize(
    ("functions", "text"),
    [
        (("vfs_read",), "file->f_path.dentry"),
        (("tcp_sendmsg",), "sk->sk_socket->ops"),
        (("kmem_cache_alloc_noprof", "kmem_cache_alloc"), "retval"),
        (("kmem_cache_alloc_noprof", "kmem_cache_alloc"), "s->name"),
        (("wake_up_new_task",), "task->real_parent"),
    ],
)
def test_real_pointers(btf: Btf, functions: tuple[str, ...], text: str) -> None:
    assert isinstance(check(parse(text), scope_of(btf, *functions), text).kind, PointerKind)


@pytest.mark.parametrize(
    ("functions", "text", "message"),
    [
        (("vfs_read",), "cuont > 1", "did you mean count"),
        (("vfs_read",), "file->f_pth", "did you mean f_path"),
        (("vfs_read",), "buf->x", "has no members"),
        (("tcp_sendmsg",), "sk->sk_sokcet", "did you mean sk_socket"),
        (("tcp_sendmsg",), "size == TCP_ESTABLISHD", "no argument or other name"),
        (("wake_up_new_task",), "retval == 0", "returns void"),
        (("kmem_cache_alloc_noprof", "kmem_cache_alloc"), "retval->x", "has no members"),
    ],
)
def test_real_mistakes(btf: Btf, functions: tuple[str, ...], text: str, message: str) -> None:
    with pytest.raises(ExprError, match=message):
        compile_filter(text, {1: scope_of(btf, *functions)})


def test_every_functions_return_type_can_be_judged(btf: Btf) -> None:
    names = sorted(btf.names(Kind.FUNC))[::40]
    judged = 0
    for name in names:
        try:
            scope = Scope(name, btf, btf.function(name), is_exit=True)
        except (TypeAmbiguous, TypeNotFound):
            continue
        errors = errors_filter(["ENOENT"], {1: scope})
        regs = {"ax": -2 & MASK64, "dx": 0}
        assert scope.proto is not None
        hit: Any = SimpleNamespace(retval=return_value(btf, scope.proto, regs, GuestMemory(PlacedMemory().read)))
        is_void = isinstance(scope.proto.return_type.resolve(), VoidType)
        kind = None if is_void else check(parse("$retval"), scope, "$retval").kind
        can_fail = isinstance(kind, PointerKind) or (
            isinstance(kind, IntKind) and not kind.is_bool and (kind.signed or kind.bits == 64)
        )
        assert errors.predicates[1](hit) is can_fail, (name, kind)
        assert kind is None or isinstance(kind, (IntKind, PointerKind, ObjectKind))
        judged += 1
    assert judged > len(names) // 2


def test_a_filter_of_many_functions_is_checked_soon(btf: Btf) -> None:
    names = [name for name in sorted(btf.names(Kind.FUNC)) if name.startswith(("vfs_", "tcp_", "ext4_", "sched"))][:500]
    scopes = {}
    for name in names:
        try:
            scopes[name] = Scope(name, btf, btf.function(name))
        except (TypeAmbiguous, TypeNotFound):
            continue
    start = time.process_time()
    found = compile_filter('comm == "cat" && pid > 1', scopes, skip_unfit=True)
    assert time.process_time() - start < 2
    assert len(found.predicates) + len(found.unfit) == len(scopes) > 100
