"""The kernel's language for probe events (Documentation/trace/fprobetrace.rst): parsed, fetched and printed.

::

    events = ProbeEvents(KernelCatalog(symbols, records, btf))
    definition = events.add("f:myread vfs_read file->f_path.dentry->d_name.name:string count")
    values = fetch(definition, FetchContext(regs, read, comm), symbol_name)
    print(event_text(definition, entry_ip, ret_ip, values, symbols))

Errors are the kernel's own, with the caret where the kernel puts it. Nothing here knows of a target or does I/O.
"""

from fprobe_gdb.probe_events.argument import FetchArgument
from fprobe_gdb.probe_events.catalog import KernelCatalog, ProbeCatalog
from fprobe_gdb.probe_events.definition import EventDefinition, parse_definition
from fprobe_gdb.probe_events.errors import MESSAGES, ProbeEventError, TracepointRefused
from fprobe_gdb.probe_events.fetch import CutText, FetchContext, Fetched, entry_words, fetch, fetched
from fprobe_gdb.probe_events.names import auto_name
from fprobe_gdb.probe_events.registry import ProbeEvents
from fprobe_gdb.probe_events.text import argument_text, arguments_text, event_text, slot_texts, symbol_text

__all__ = [
    "MESSAGES",
    "CutText",
    "EventDefinition",
    "FetchArgument",
    "FetchContext",
    "Fetched",
    "KernelCatalog",
    "ProbeCatalog",
    "ProbeEventError",
    "ProbeEvents",
    "TracepointRefused",
    "argument_text",
    "arguments_text",
    "auto_name",
    "entry_words",
    "event_text",
    "fetch",
    "fetched",
    "parse_definition",
    "slot_texts",
    "symbol_text",
]
