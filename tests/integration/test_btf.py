"""BTF of both catalog kernels, type by type, against bpftool's reading of the same bytes and against the C compiler.

Three judges: ``bpftool btf dump`` as JSON (every record), as C (the text of every definition), and gcc, which must lay
our text of the structures out as the kernel has them.
"""

from __future__ import annotations

import contextlib
import io
import json
import lzma
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import images
from fprobe_gdb.errors import BtfError, FprobeGdbError, ImageError, MemoryFault, TypeAmbiguous
from fprobe_gdb.kernel.btf import (
    ArrayType,
    Btf,
    CompoundType,
    EnumType,
    ForwardType,
    FuncProto,
    IntType,
    PointerType,
    Type,
    TypedefType,
)
from fprobe_gdb.kernel.image import KernelImage
from fprobe_gdb.kernel.symbol_sources import from_kallsyms_tables
from fprobe_gdb.kernel.values import FAULT, GuestMemory, Value

KERNELS = ("6.1", "6.12")
LIMIT_SEC = 120
# Of processor time, so that other programs do not count.
OPEN_SEC = 0.3
LOOK_UP_SEC = 0.005
NAMELESS = "(anon)"
KERNEL_START = 0xFFFF_FFFF_8000_0000


@dataclass
class Case:
    """A kernel's types as we read them, and the file from which bpftool reads them."""

    btf: Btf
    image: KernelImage
    raw: Path
    #: What the kernel's package has beside it.
    modules: Path
    base: Path | None = None

    def bpftool(self, *format_words: str) -> str:
        options = [] if format_words else ["--json"]
        options += ["--base-btf", str(self.base)] if self.base else []
        command = ["bpftool", *options, "btf", "dump", "file", str(self.raw), *format_words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=LIMIT_SEC).stdout

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        return list(json.loads(self.bpftool())["types"])


@pytest.fixture(scope="module", params=KERNELS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    need("bpftool", package="bpftool")
    vmlinuz = Path(images.kernel(request.param).vmlinuz)
    image = KernelImage.open(vmlinuz)
    section = image.section(".BTF")
    assert section is not None
    raw = tmp_path_factory.mktemp("btf") / "kernel.btf"
    raw.write_bytes(image.section_bytes(section))
    return Case(Btf.of_image(image), image, raw, vmlinuz.parent.parent / "lib" / "modules")


def need(program: str, package: str) -> None:
    if shutil.which(program) is None:
        why = f"{program} is not installed (Debian package {package})"
        if program in os.environ.get("FPROBE_REQUIRE", "").split(","):
            pytest.fail(why)
        pytest.skip(why)


# What bpftool says of a type, said of ours.
def as_bpftool(of: Type) -> dict[str, Any]:
    match of:
        case IntType():
            sign = "SIGNED" if of.is_signed else "BOOL" if of.is_bool else "(none)"
            return {"size": of.size_bytes, "nr_bits": of.bit_size, "bits_offset": of.bit_offset, "encoding": sign}
        case ArrayType():
            return {"type_id": of.target.id, "nr_elems": of.count}
        case CompoundType():
            return {"size": of.size_bytes, "members": [as_member(member) for member in of.members]}
        case EnumType():
            values = [{"name": name, "val": value} for name, value in of.enumerators]
            return {"size": of.size_bytes, "values": values, "encoding": "SIGNED" if of.is_signed else "UNSIGNED"}
        case FuncProto():
            params = [{"name": param.name or NAMELESS, "type_id": param.type.id} for param in of.params]
            if of.is_variadic:
                params.append({"name": NAMELESS, "type_id": 0})
            return {"ret_type_id": of.return_type.id, "params": params}
    if hasattr(of, "places"):
        keys = ("type_id", "offset", "size")
        return {"size": of.size_bytes, "vars": [dict(zip(keys, place, strict=True)) for place in of.places]}
    if hasattr(of, "keyword"):
        return {"fwd_kind": of.keyword}
    if hasattr(of, "target"):
        return {"type_id": of.target.id}
    return {"size": of.size_bytes}


def as_member(member: Any) -> dict[str, Any]:
    found = {"name": member.name or NAMELESS, "type_id": member.type.id, "bits_offset": member.bit_offset}
    return found | ({"bitfield_size": member.bit_size} if member.is_bitfield else {})


def assert_same(ours: Type, record: dict[str, Any]) -> None:
    for value in record.get("values", ()) if record.get("encoding") == "UNSIGNED" else ():
        # bpftool 7.1 has the sign wrong in JSON: 0xefffffff of enum e820_type comes as a negative number.
        value["val"] %= 1 << 8 * record["size"]
    told = as_bpftool(ours)
    assert {key: record[key] for key in told} == told, record
    assert (ours.name or NAMELESS) == record["name"]


def test_every_type_is_read_as_bpftool_reads_it(case: Case) -> None:
    assert len(case.records) == len(case.btf) - 1 > 50_000
    for record in case.records:
        assert_same(case.btf.by_id(record["id"]), record)


@pytest.mark.parametrize("name", ["xfs", "vsock", "virtio_net"])
def test_a_modules_types_are_read_as_bpftool_reads_them(case: Case, name: str, tmp_path: Path) -> None:
    found = [*case.modules.rglob(f"{name}.ko"), *case.modules.rglob(f"{name}.ko.xz")]
    if not found:
        pytest.skip(f"this kernel's package has no module {name}")
    data = found[0].read_bytes()
    elf = ELFFile(io.BytesIO(lzma.decompress(data) if found[0].suffix == ".xz" else data))
    raw = tmp_path / "module.btf"
    raw.write_bytes(elf.get_section_by_name(".BTF").data())
    module = Case(Btf.from_bytes(raw.read_bytes(), name, case.btf), case.image, raw, case.modules, case.raw)
    assert len(module.records) == len(module.btf) - len(case.btf) > 100
    for record in module.records:
        assert_same(module.btf.by_id(record["id"]), record)
        if record["kind"] == "FUNC":
            assert module.btf.functions(record["name"])


def test_every_structure_and_union_has_the_size_that_pahole_gives(case: Case) -> None:
    need("pahole", package="dwarves")
    command = ["pahole", "-F", "btf", "--sizes", str(case.raw)]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=LIMIT_SEC).stdout
    sizes = [line.split("\t") for line in told.splitlines()]
    assert len(sizes) > 5_000
    by_tag: dict[str, set[int]] = {}
    for of in case.btf:
        if isinstance(of, CompoundType):
            by_tag.setdefault(of.name, set()).add(of.size_bytes)
    for name, size, _holes in sizes:
        assert int(size) in by_tag[name]


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=30))
def test_damaged_bytes_of_a_real_kernel_are_typed_errors(case: Case, damage: list[tuple[float, int]]) -> None:
    damaged = bytearray(case.raw.read_bytes())
    for where, byte in damage:
        damaged[int(where * len(damaged))] = byte
    try:
        btf = Btf.from_bytes(bytes(damaged))
    except BtfError:
        return
    for type_id in range(1, len(btf), 37):
        with contextlib.suppress(FprobeGdbError):
            found = btf.by_id(type_id)
            assert found.c_definition()
            assert found.size_bytes >= 0


def test_every_function_is_found_by_name_or_is_ambiguous(case: Case) -> None:
    named: dict[str, list[int]] = {}
    for record in case.records:
        if record["kind"] == "FUNC":
            named.setdefault(record["name"], []).append(record["type_id"])
    assert len(named) > 20_000
    # Each look-up searches the names anew: a part of them, spread over all, keeps this within seconds.
    some = [*list(named)[::40], *(name for name, protos in named.items() if len(protos) > 1)]
    for name in some:
        protos = case.btf.functions(name)
        assert [proto.id for proto in protos] == named[name]
        texts = {str(proto) for proto in protos}
        if len(texts) == 1:
            assert case.btf.function(name).id == named[name][0]
        else:
            with pytest.raises(TypeAmbiguous) as caught:
                case.btf.function(name)
            assert len(caught.value.choices) == len(texts)


def test_values_of_the_kernels_own_static_data(case: Case) -> None:
    symbols = from_kallsyms_tables(case.image)
    memory = GuestMemory(image_reader(case.image))

    def variable(name: str, text: str) -> Value:
        return Value(case.btf, memory, case.btf.type(text), addr=symbols.one(name))

    init_task = variable("init_task", "struct task_struct")
    assert init_task.comm.string() == "swapper"
    assert init_task.real_parent == init_task.parent == init_task.address_of()
    assert init_task.cred.uid.val == 0
    assert init_task.cred.user_ns.address_of() != init_task.cred.user_ns
    assert init_task.tasks.next.container_of("struct task_struct", "tasks").comm.string() == "swapper"
    assert init_task.nsproxy.uts_ns.name.release.string() in case.image.banner
    assert init_task.files.fdt.deref().max_fds == init_task.files.fdtab.max_fds > 0
    assert "swapper" in init_task.dump()
    assert str(init_task.stack_vm_area.deref()) == FAULT


def image_reader(image: KernelImage) -> Callable[[int, int], bytes]:
    def read(addr: int, size_bytes: int) -> bytes:
        # Before 6.15 images have per-CPU data linked at 0; no running kernel has anything there.
        if addr < KERNEL_START:
            raise MemoryFault(addr, size_bytes)
        try:
            return image.read(addr, size_bytes)
        except ImageError as error:
            raise MemoryFault(addr, size_bytes) from error

    return read


def test_functions_and_structures_are_quick_to_look_up(case: Case) -> None:
    started = time.process_time()
    fresh = Btf.from_bytes(case.raw.read_bytes())
    opened = time.process_time()
    for name in ("vfs_read", "vfs_write", "do_sys_openat2", "tcp_sendmsg", "schedule"):
        fresh.function(name)
    for name in ("file", "task_struct", "inode", "sk_buff", "super_block"):
        assert fresh.struct(name).flat_members
    done = time.process_time()
    assert opened - started < OPEN_SEC
    assert done - opened < 10 * LOOK_UP_SEC


# One definition's text with what differs by taste taken out: blanks, padding, the order of words in integer types, and
# the numbers that bpftool gives to names that occur twice.
def normal(text: str) -> str:
    text = re.sub(r"\b(?:(?:long|short|unsigned|signed|int|char|__int128)\b\s*)+", _int_words, text)
    text = re.sub(r"\n\s*(?:long|int|short|char) ?: \d+;", "", text)
    text = re.sub(r"___\d+\b", "", text)
    # bpftool before 7.2 has no word for the size of a small enumeration.
    text = re.sub(r" __attribute__\(\(mode\(\w+\)\)\)", "", text)
    return re.sub(r"\s*([*(){};,])\s*", r"\1", re.sub(r"\s+", " ", text)).strip()


def _int_words(found: re.Match[str]) -> str:
    words = sorted(found[0].split())
    if len(words) > 1 and "int" in words:
        words.remove("int")
    return " ".join(words) + " "


def bpftool_definitions(text: str) -> Iterator[str]:
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("#") or (not lines and not line):
            continue
        lines.append(line)
        if not line.startswith(("\t", "struct {", "union {", "enum {")) and line.endswith(";"):
            yield "\n".join(lines)
            lines = []


def test_the_text_of_every_definition_is_bpftools(case: Case) -> None:
    theirs = Counter(map(normal, bpftool_definitions(case.bpftool("format", "c"))))
    ours: Counter[str] = Counter()
    for of in case.btf:
        nameless_enum = isinstance(of, EnumType) and not of.name
        if (isinstance(of, (CompoundType, EnumType, TypedefType)) and of.name) or nameless_enum:
            ours[normal(of.c_definition())] += 1
    assert sum(ours.values()) > 10_000
    # Forward declarations are added by bpftool as it needs them; and it leaves out what compilers have built in.
    forward = re.compile(r"(struct|union|enum) \w+;|typedef .* __builtin_va_list\[1\];")
    missing, extra = (
        Counter({text: count for text, count in some.items() if not forward.fullmatch(text)})
        for some in (theirs - ours, ours - theirs)
    )
    # Nameless enumerations are printed in place where a typedef or member has them, and by themselves otherwise.
    extra = Counter({text: count for text, count in extra.items() if not text.startswith("enum{")})
    assert not list(missing)[:3]
    assert not list(extra)[:3]


# What a definition needs defined before it: types whose size it uses, and names that C cannot declare ahead.
def needs(of: Type) -> Iterator[Type]:
    waiting: list[tuple[Type, bool]] = [(of, False)]
    for found, is_behind_pointer in waiting:
        if found is of and is_behind_pointer:
            continue
        if found is not of and found.name and isinstance(found, (CompoundType, EnumType, TypedefType)):
            if not (is_behind_pointer and isinstance(found, CompoundType)):
                yield found
        elif isinstance(found, CompoundType):
            waiting += [(member.type, False) for member in found.members]
        elif isinstance(found, FuncProto):
            waiting += [(param.type, True) for param in found.params] + [(found.return_type, True)]
        elif hasattr(found, "target"):
            waiting.append((found.target, is_behind_pointer or isinstance(found, PointerType)))


def in_order(wanted: list[Type], usable: set[Type]) -> Iterator[Type]:
    done: set[Type] = set()
    failed: set[Type] = set()

    def visit(of: Type) -> Iterator[Type]:
        if of in done or of in failed:
            return
        failed.add(of)
        for needed in needs(of):
            yield from visit(needed)
            if needed not in done:
                return
        if of in usable:
            failed.discard(of)
            done.add(of)
            yield of

    for of in wanted:
        yield from visit(of)


def assertions(of: CompoundType) -> Iterator[str]:
    yield f'_Static_assert(sizeof({of}) == {of.size_bytes}, "size of {of}");'
    for name, member in of.flat_members.items():
        if not member.is_bitfield:
            place = member.byte_offset
            yield f'_Static_assert(__builtin_offsetof({of}, {name}) == {place}, "{of}.{name}");'


def test_the_compiler_lays_our_definitions_out_as_the_kernels(case: Case, tmp_path: Path) -> None:
    need("gcc", package="gcc")
    named = [of for of in case.btf if of.name and isinstance(of, (CompoundType, EnumType, TypedefType, ForwardType))]
    tags = Counter(of.name for of in named if not isinstance(of, TypedefType))
    typedefs = Counter(of.name for of in named if isinstance(of, TypedefType))
    # Names that stand for several types cannot be in one C file, nor enumerators that do.
    enumerators = Counter(name for of in case.btf if isinstance(of, EnumType) for name in of.values)
    usable = {
        of
        for of in named
        if (typedefs if isinstance(of, TypedefType) else tags)[of.name] == 1
        and not (isinstance(of, EnumType) and any(enumerators[name] > 1 for name in of.values))
        and not of.name.startswith("__builtin")
    }
    lines = [f"{of.keyword} {of.name};" for of in usable if isinstance(of, CompoundType)]
    checked = 0
    for of in in_order(named, usable):
        lines.append(of.c_definition())
        if isinstance(of, CompoundType):
            lines += assertions(of)
            checked += 1
    assert checked > 5_000
    source = tmp_path / "types.c"
    source.write_text("\n".join(lines) + "\n")
    command = ["gcc", "-std=gnu11", "-fsyntax-only", "-fmax-errors=20", "-w", str(source)]
    compiled = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SEC, check=False)
    assert not compiled.stderr
    assert compiled.returncode == 0
