"""Values as text: one line for a log, or indented C for a whole structure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fprobe_gdb.errors import MemoryFault
from fprobe_gdb.kernel.btf import ArrayType, CompoundType, EnumType, IntType, PointerType, Type
from fprobe_gdb.kernel.values.value import FAULT

if TYPE_CHECKING:
    from fprobe_gdb.kernel.values.value import Value

__all__ = ["indented", "one_line"]

_LINE_MEMBERS = 8
_LINE_ELEMENTS = 8
_LINE_STRING_BYTES = 64
_DUMP_ELEMENTS = 64
_DUMP_STRING_BYTES = 256
# Structures within structures; deeper ones are "{...}". Damaged types have no end.
_LINE_DEPTH = 2
_DUMP_DEPTH = 16
_DUMP_LINES = 20_000


def one_line(value: Value) -> str:
    """What ``str(value)`` gives. A structure is cut after a few members."""
    return _Writer(_LINE_DEPTH, _LINE_MEMBERS, _LINE_ELEMENTS, _LINE_STRING_BYTES, is_line=True).text(value, 0)


def indented(value: Value) -> str:
    """What ``value.dump()`` gives."""
    writer = _Writer(_DUMP_DEPTH, _DUMP_LINES, _DUMP_ELEMENTS, _DUMP_STRING_BYTES, is_line=False)
    # Read at once what can be read at once.
    copy = value.copy()
    return f"({value.type_}){writer.text(value if copy.fault_ else copy, 0)}"


class _Writer:
    def __init__(self, depth: int, members: int, elements: int, string_bytes: int, is_line: bool) -> None:
        self._depth = depth
        self._members = members
        self._elements = elements
        self._string_bytes = string_bytes
        self._is_line = is_line
        self._lines = _DUMP_LINES

    def text(self, value: Value, depth: int) -> str:
        kind = value.type_.resolve()
        try:
            if isinstance(kind, CompoundType):
                return self._compound(value, kind, depth)
            if isinstance(kind, ArrayType):
                return self._array(value, kind, depth)
            return self._scalar(value, kind)
        except MemoryFault:
            return FAULT

    def _scalar(self, value: Value, kind: Type) -> str:
        if isinstance(kind, PointerType):
            return self._pointer(value, kind)
        if isinstance(kind, EnumType):
            return value.enum_name() or str(int(value))
        if isinstance(kind, IntType):
            return ("true" if int(value) else "false") if kind.is_bool else str(int(value))
        return f"<{kind}>" if kind.c_text() == "void" else f"<{kind}: not supported>"

    def _pointer(self, value: Value, kind: PointerType) -> str:
        number = int(value)
        if (error := value.error_name()) is not None:
            return f"ERR_PTR({error})"
        if number and _is_char(kind.target):
            text = value.string(self._string_bytes + 1)
            return f"{number:#x} {text if text == FAULT else self._quoted(text)}"
        return f"{number:#x}"

    def _array(self, value: Value, kind: ArrayType, depth: int) -> str:
        if value.fault_ is not None:
            return FAULT
        if kind.count and _is_char(kind.target):
            text = value.string()
            return text if text == FAULT else self._quoted(text)
        if depth >= self._depth or not kind.count:
            return "{...}" if kind.count else "{}"
        parts = [self.text(element, depth + 1) for element in value[: self._elements]]
        return self._braced(parts + ["..."] * (kind.count > self._elements), depth)

    def _compound(self, value: Value, kind: CompoundType, depth: int) -> str:
        if value.fault_ is not None:
            return FAULT
        if depth >= self._depth:
            return "{...}"
        parts: list[str] = []
        for member in kind.members:
            if len(parts) >= self._members or self._lines <= 0:
                parts.append("...")
                break
            self._lines -= 1
            text = self.text(value._part(member), depth + 1)
            parts.append(f".{member.name} = {text}" if member.name else text)
        if parts and all(part.endswith(f"= {FAULT}") or part in (FAULT, "...") for part in parts):
            return FAULT
        return self._braced(parts, depth)

    def _braced(self, parts: list[str], depth: int) -> str:
        if self._is_line or not parts:
            return f"{{{', '.join(parts)}}}"
        inside, outside = "\t" * (depth + 1), "\t" * depth
        return "{\n" + "".join(f"{inside}{part},\n" for part in parts) + outside + "}"

    def _quoted(self, text: str) -> str:
        shown = text[: self._string_bytes]
        escaped = shown.replace("\\", "\\\\").replace('"', '\\"')
        escaped = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in escaped)
        return f'"{escaped}"' + ("..." if len(text) > self._string_bytes else "")


# Text is char; signed and unsigned char are small numbers (u8, buffers).
def _is_char(of: Type) -> bool:
    kind = of.resolve()
    return isinstance(kind, IntType) and kind.name == "char"
