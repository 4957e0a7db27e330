"""Typed values in few words, for a line of a trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, reduce

from fprobe_gdb.errors import MemoryFault, TypeLookupError
from fprobe_gdb.kernel.btf import CompoundType, PointerType, QualifiedType, Type
from fprobe_gdb.kernel.values import Arguments, Value

__all__ = ["NAME_BYTES", "describe_arguments", "describe_result", "describe_value", "name_path"]

# Structures that have a name which says more than their address: the member path of a ``char *`` or ``char[]``.
_NAME_PATHS = {
    "file": "f_path.dentry.d_name.name",
    "dentry": "d_name.name",
    "path": "dentry.d_name.name",
    "qstr": "name",
    "filename": "name",
    "task_struct": "comm",
    "net_device": "name",
    "module": "name",
    "super_block": "s_id",
    "linux_binprm": "filename",
}
#: As much of a name as is shown.
NAME_BYTES = 64


def describe_arguments(args: Arguments, names: Mapping[str, str | None] | None = None) -> tuple[tuple[str, str], ...]:
    """Names and texts of the arguments, e.g. ``(("file", '0xffff888005cf9a80 "motd"'), ("count", "4096"))``.

    :param names: what is known of names behind arguments, where memory cannot be read any more.
    """
    if names is None:
        return tuple((name, describe_value(args[name])) for name in args)
    return tuple((name, _described(args[name], partial(_known, names.get(name)))) for name in args)


def describe_result(value: Value | None) -> str:
    """A return value; empty for ``void``."""
    if value is None:
        return ""
    text = describe_value(value)
    # Of arguments only pointers are looked at for errors: a descriptor of -100 is AT_FDCWD, not -ENETDOWN.
    name = value.error_name() if text.startswith("-") and text[1:].isdigit() else None
    return f"{text} ({name})" if name else text


def describe_value(value: Value) -> str:
    """One value. A pointer to something that has a name shows the name too; other pointers are just numbers, since
    what lies behind a buffer has no meaning before it is filled."""
    return _described(value, _name)


def name_path(of: Type) -> str | None:
    """Where the name is of what a pointer leads to, as an expression goes on behind it; None where there is none."""
    kind = of.resolve()
    if not isinstance(kind, PointerType):
        return None
    target = kind.target.resolve()
    if isinstance(target, CompoundType):
        path = _NAME_PATHS.get(target.name)
        return f"->{path}" if path else None
    return "" if _is_const_char(kind.target) else None


def _described(value: Value, name_of: Callable[[Value], str | None]) -> str:
    kind = value.type_.resolve()
    try:
        if not isinstance(kind, PointerType):
            return str(value)
        addr = int(value)
        if (error := value.error_name()) is not None:
            return f"{error} (pointer)"
        name = name_of(value) if addr else None
        return f"{addr:#x}" if name is None else f'{addr:#x} "{name}"'
    except MemoryFault:
        return "(fault)"


def _known(name: str | None, value: Value) -> str | None:
    return name


# The name behind a pointer: of a structure known to have one, or a constant string.
def _name(value: Value) -> str | None:
    path = name_path(value.type_)
    if path is None:
        return None
    try:
        named = reduce(lambda whole, part: whole[part], path[2:].split("."), value) if path else value
        text = named.string(NAME_BYTES)
        return text if named.fault_ is None and text != "(fault)" else None
    except (MemoryFault, TypeLookupError):
        return None


def _is_const_char(target: Type) -> bool:
    return isinstance(target, QualifiedType) and target.qualifier == "const" and target.resolve().name == "char"
