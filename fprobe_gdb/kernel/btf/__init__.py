"""The kernel's own type information (BTF, Documentation/bpf/btf.rst): C types without any debug package.

``section`` checks bytes, ``decode`` makes types of records, ``types`` and ``members`` are those types, ``declare`` and
``define`` write them as C, ``btf`` finds them by name. Nothing here reads guest memory.
"""

from fprobe_gdb.kernel.btf.btf import Btf, Variable
from fprobe_gdb.kernel.btf.members import Member
from fprobe_gdb.kernel.btf.section import Kind
from fprobe_gdb.kernel.btf.types import (
    ArrayType,
    CompoundType,
    EnumType,
    FloatType,
    ForwardType,
    FuncProto,
    FuncType,
    IntType,
    Param,
    PointerType,
    QualifiedType,
    Type,
    TypedefType,
    VoidType,
)

__all__ = [
    "ArrayType",
    "Btf",
    "CompoundType",
    "EnumType",
    "FloatType",
    "ForwardType",
    "FuncProto",
    "FuncType",
    "IntType",
    "Kind",
    "Member",
    "Param",
    "PointerType",
    "QualifiedType",
    "Type",
    "TypedefType",
    "Variable",
    "VoidType",
]
