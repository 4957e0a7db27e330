"""Patterns for functions of modules, which may be loaded later: ``FUNC [MODULE]`` and ``FUNC:mod:MODULE``.

The first form is how kallsyms, stack traces and ``available_filter_functions`` print such a function, the second is
that of ``set_ftrace_filter`` (Documentation/trace/ftrace.rst), which keeps it for a module that is not there yet. FUNC
may be left out. ``register_fprobe()`` takes neither, nor do the kernel's probe events.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from fprobe_gdb.errors import InvalidProbe
from fprobe_gdb.probe.glob import glob_match, has_meta
from fprobe_gdb.probe.records import FtraceRecord

__all__ = ["ModulePattern", "parse_module_pattern"]

_PRINTED = re.compile(r"(?P<func>\S*)\s*(?<!\S)\[(?P<module>[^\]\s]+)\]|(?P<func2>\S*):mod:(?P<module2>\S+)")


@dataclass(frozen=True, slots=True)
class ModulePattern:
    """Two globs, as of lib/glob.c: of a function's name, and of its module's."""

    text: str
    func: str
    module: str

    def matches_module(self, name: str) -> bool:
        """Whether a module is meant."""
        return glob_match(self.module, name)

    def match(self, records: Iterable[FtraceRecord]) -> set[int]:
        """The locations that it selects now; none where no such module is loaded.

        :raise InvalidProbe: such a module is loaded, and has no such function.
        """
        there = [record for record in records if record.module and self.matches_module(record.module)]
        ips = {record.ip for record in there if glob_match(self.func, record.name)}
        if there and not ips:
            names = sorted({record.module for record in there})
            error = InvalidProbe(f"pattern {self.text!r} matches no traceable function of {', '.join(names)}")
            error.no_match = True
            raise error
        return ips


def parse_module_pattern(text: str) -> ModulePattern | None:
    """A pattern for functions of modules; None where the text is an ordinary one.

    Dashes in the name of a module are the underscores that the kernel makes of them.

    >>> parse_module_pattern("dummy_x* [dummy]")
    ModulePattern(text='dummy_x* [dummy]', func='dummy_x*', module='dummy')
    >>> parse_module_pattern(":mod:nls_iso8859-1")
    ModulePattern(text=':mod:nls_iso8859-1', func='*', module='nls_iso8859_1')
    >>> parse_module_pattern("tcp_v[46]_rcv") is None
    True
    """
    found = _PRINTED.fullmatch(text.strip())
    if found is None:
        return None
    module = found["module"] or found["module2"]
    if not has_meta(module):
        module = module.replace("-", "_")
    return ModulePattern(text, found["func"] or found["func2"] or "*", module)
