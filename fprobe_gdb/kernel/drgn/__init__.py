"""A ``drgn.Program`` that sees the guest as we do: our memory, our symbols, and the kernel's own types.

Needs drgn 0.3 or later (the extra ``drgn``); only what is here imports it. ``types`` makes drgn's types out of BTF,
``objects`` finds variables, functions and constants, ``variables`` knows the types of those that BTF leaves out,
``symbols`` finds symbols, ``vmcoreinfo`` has what drgn asks first, ``program`` puts all together.
"""

from fprobe_gdb.kernel.drgn.program import DrgnPrograms, Guest, Program

__all__ = ["DrgnPrograms", "Guest", "Program"]
