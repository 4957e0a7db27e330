"""What tracefs has behind the time of a line about a function, for whoever traces it."""

from __future__ import annotations

from fprobe_gdb.output.ftrace import without_offset
from fprobe_gdb.probe_events import auto_name, symbol_text
from fprobe_gdb.session.view import GuestView

__all__ = ["entry_text", "return_text"]


def entry_text(name: str, caller: str) -> str:
    """As of the function tracer.

    :param caller: as symbol+offset.
    """
    return f"{name} <-{without_offset(caller)}"


def return_text(k: GuestView, name: str, ret_ip: int) -> str:
    """As of a probe event ``f FUNC%return retval=$retval:x64``, up to the value."""
    event = auto_name(name, is_return=True, is_tracepoint=False)
    return f"{event}: ({symbol_text(k.symbols_at(ret_ip), ret_ip)} <- {name}) retval="
