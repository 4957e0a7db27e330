"""Expressions over hits: filters (``--filter``, ``--errors``, ``--min-duration``) and what summaries count.

A small C-like language, typed against the kernel's own types before anything is planted. No part of it ever becomes
Python code, and its time and depth are bounded for any text.

``lexer``, ``parser`` and ``syntax`` read text; ``check*`` gives types and ``names`` meaning to it (``typed``,
``kinds``); ``compile*`` makes closures; ``filter`` and ``keys`` are what others use. It knows types and typed values
(:mod:`fprobe_gdb.kernel`), and of a hit only :class:`HitScope`.

The language:

* **Names**: the function's arguments (``count``), ``retval`` and ``duration`` (at exits), ``comm``, ``pid``, ``tgid``,
  ``cpu``, ``task``, ``caller``, ``caller_ip``, ``func``, ``ip``; ``reg.di``; ``args.count`` and ``$pid`` where a name
  could be both; ``$arg1``, ``$arg2``, ...
* **Places**: ``file->f_path.dentry``, where ``.`` and ``->`` mean the same; ``a[2]``, ``*pos``; bit-fields.
* **Constants**: C's integers and characters, ``5us`` ``1.5ms`` ``2s`` (nanoseconds), ``"text"``, enumerators, errors'
  names (``-ENOENT``), ``true``, ``false``, ``NULL``.
* **Operators**: C's, with C's precedence and conversions; ``and``, ``or``, ``not``; ``x in (a, b)``,
  ``x not in (a, b)``. Pointers compare as unsigned numbers.
* **Text**: ``==``, ``!=``, and ``~`` (or ``=~``), which matches a pattern as ftrace's event filters do: ``*``, ``?``,
  ``[a-z]``, with ``!`` in front for *not*. Pointers to characters and character arrays are read as text wherever text
  is needed.
* **Functions**: ``str(p)``, ``str(p, max_bytes)``, ``strlen(s)``, ``startswith(s, "...")``, ``is_err(x)``,
  ``cast(x, "struct sock *")``.
"""

from fprobe_gdb.expr.filter import (
    Filter,
    Predicate,
    compile_filter,
    errors_filter,
    min_duration_filter,
    needs_exit,
    parse_duration,
)
from fprobe_gdb.expr.hit import HitScope
from fprobe_gdb.expr.keys import Extraction, Extractor, KeyPart, compile_keys, compile_quantity
from fprobe_gdb.expr.names import Scope

__all__ = [
    "Extraction",
    "Extractor",
    "Filter",
    "HitScope",
    "KeyPart",
    "Predicate",
    "Scope",
    "compile_filter",
    "compile_keys",
    "compile_quantity",
    "errors_filter",
    "min_duration_filter",
    "needs_exit",
    "parse_duration",
]
