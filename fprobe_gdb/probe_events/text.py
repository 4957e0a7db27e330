"""Events as the kernel prints them, behind the task, CPU and time of the line (kernel/trace/trace_fprobe.c, 6.12)."""

from __future__ import annotations

from collections.abc import Sequence

from fprobe_gdb.kernel.symbols import SymbolTable
from fprobe_gdb.probe_events.definition import EventDefinition
from fprobe_gdb.probe_events.fetch import CutText, Fetched, text_of

__all__ = ["argument_text", "arguments_text", "event_text", "slot_texts", "symbol_text"]

_UNREADABLE = "(fault)"


def symbol_text(symbols: SymbolTable, addr: int, *, offset: bool = True) -> str:
    """``vfs_read+0x4/0x370``, ``name+0x0/0x10 [module]``, or ``0xffff...``.

    :param offset: printk's ``%pS``; without, its ``%ps``.
    """
    found = symbols.lookup(addr)
    if found is None:
        return f"{addr:#x}"
    symbol, distance = found
    where = f"+{distance:#x}/{symbols.size(addr):#x}" if offset else ""
    return f"{symbol.name}{where}" + (f" [{symbol.module}]" if symbol.module else "")


def event_text(
    definition: EventDefinition, entry_ip: int, ret_ip: int, values: Sequence[Fetched], symbols: SymbolTable
) -> str:
    """``NAME: (FUNCTION+0x4/0x370) a=v``, or of a return ``NAME: (CALLER+0x6f/0xf0 <- FUNCTION) a=v``.

    :param entry_ip: ftrace location of the function.
    :param ret_ip: where it returns to.
    """
    if definition.is_return:
        where = f"{symbol_text(symbols, ret_ip)} <- {symbol_text(symbols, entry_ip, offset=False)}"
    else:
        where = symbol_text(symbols, entry_ip)
    return f"{definition.event}: ({where}){arguments_text(values, symbols)}"


def arguments_text(values: Sequence[Fetched], symbols: SymbolTable) -> str:
    """`` a=1 b="x"``, with a space before each."""
    return "".join(f" {value.argument.name}={argument_text(value, symbols)}" for value in values)


def argument_text(fetched: Fetched, symbols: SymbolTable) -> str:
    """The value alone; those of an array in braces."""
    texts = [_slot_text(fetched, slot, symbols) for slot in fetched.slots]
    return "{" + ",".join(texts) + "}" if fetched.argument.count else texts[0]


def slot_texts(fetched: Fetched, symbols: SymbolTable) -> tuple[str | None, ...]:
    """The same for programs: one text for each value, strings without quotes, None for one that cannot be read."""
    return tuple(
        text_of(slot) if isinstance(slot, bytes)
        else None if slot is None else _slot_text(fetched, slot, symbols)
        for slot in fetched.slots
    )  # fmt: skip


def _slot_text(fetched: Fetched, slot: int | bytes | None, symbols: SymbolTable) -> str:
    if slot is None:
        return _UNREADABLE
    if isinstance(slot, bytes):
        return '"' + slot.decode(errors="backslashreplace") + '"' + ("..." if isinstance(slot, CutText) else "")
    of = fetched.argument.type
    if of.name == "symbol":
        return symbol_text(symbols, slot)
    if of.name == "char":
        return f"'{chr(slot)}'"
    if of.is_signed and slot >> (of.size_bytes * 8 - 1):
        slot -= 1 << of.size_bytes * 8
    return f"{slot:#x}" if of.name.startswith("x") else str(slot)
