"""Typed values over any reader of guest memory: members, pointers, strings, arguments and return values.

They know types (:mod:`fprobe_gdb.kernel.btf`) and a function that reads bytes; no target, no session.
"""

from fprobe_gdb.kernel.values.arguments import ArgumentPlace, Arguments, argument_places, arguments, return_value
from fprobe_gdb.kernel.values.error_codes import error_code, error_name
from fprobe_gdb.kernel.values.memory import GuestMemory
from fprobe_gdb.kernel.values.value import FAULT, Value

__all__ = [
    "FAULT",
    "ArgumentPlace",
    "Arguments",
    "GuestMemory",
    "Value",
    "argument_places",
    "arguments",
    "error_code",
    "error_name",
    "return_value",
]
