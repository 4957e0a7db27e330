"""Loads and unloads of modules, while something is probed in one or waits for one.

Three functions of the guest are listened to: ``do_init_module``, which calls a module's init function when all else of
it is in place; ``trim_init_extable``, which it calls when that has returned, before the ``__init`` functions are freed;
and ``free_module``, which every module passes whose ``do_init_module`` was entered, be it unloaded or did its init
function fail (kernel/module/main.c of 6.1 and 6.12; kernel/module.c before). All take the ``struct module``, and all
have a location of their own, since none is inlined. Code that is being freed does not run any more, so its sites can
go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from fprobe_gdb.dispatch.cpu_state import CpuState
from fprobe_gdb.errors import ModuleError
from fprobe_gdb.kernel.modules import GuestModule, in_module_area
from fprobe_gdb.probe.core import ProbeCore
from fprobe_gdb.probe.fprobe import Fprobe
from fprobe_gdb.session.modules import GuestModules
from fprobe_gdb.session.records import ImageRecords
from fprobe_gdb.session.selection import Selection

__all__ = ["ModuleChange", "ModuleStep", "ModuleWatch"]

LOAD, TRIM, FREE = "do_init_module", "trim_init_extable", "free_module"


class ModuleStep(Enum):
    """What happens to a module."""

    #: It is about to be initialised.
    LOADED = "loaded"
    #: Its init function has returned, and its ``__init`` functions, some of which were probed, are about to be freed.
    INITIALISED = "initialised"
    #: It is about to be freed.
    UNLOADED = "unloaded"


@dataclass(frozen=True, slots=True)
class ModuleChange:
    """A step in the life of a module."""

    module: GuestModule
    step: ModuleStep
    #: Functions of it that are probed from now on, or have been until now.
    sites: tuple[int, ...]

    @property
    def loaded(self) -> bool:
        """Whether probes were added, not removed."""
        return self.step is ModuleStep.LOADED


class ModuleWatch:
    """Keeps fprobes and modules together for one guest.

    :param covers: whether an address is in the kernel proper.
    """

    def __init__(
        self, core: ProbeCore, modules: GuestModules, records: ImageRecords, covers: Callable[[int], bool]
    ) -> None:
        self._core = core
        self._modules = modules
        self._covers = covers
        #: Called behind each change, with the guest stopped at it.
        self.on_change: Callable[[ModuleChange], None] | None = None
        self._waiting: list[tuple[Fprobe, Selection]] = []
        self._load_ip, self._free_ip = _location(records, LOAD), _location(records, FREE)
        self._trim_ip = _location(records, TRIM)
        # Whether something is probed in a module, as of this count of changes.
        self._in_modules = (-1, False)

    def register(self, fprobe: Fprobe, selection: Selection, ips: Sequence[int]) -> None:
        """Register an fprobe that also waits for modules.

        :raise ModuleError: this guest does not tell of loads.
        """
        if self._load_ip is None or self._free_ip is None or not self._modules.readable:
            raise ModuleError(
                0,
                f"this kernel does not tell when modules are loaded: it lacks BTF or the functions {LOAD} and {FREE}",
            )
        self._core.register_growing(fprobe, ips)
        others = [(one, wanted) for one, wanted in self._waiting if one is not fprobe and self._core.is_growing(one)]
        self._waiting = [*others, (fprobe, selection)]

    def listeners(self) -> Mapping[int, Callable[[CpuState], None]]:
        """See :attr:`.dispatch.base.Dispatch.watches`: nothing where no fprobe has to do with modules."""
        self._modules.watched = wanted = self._waits or self._probes_modules
        if self._load_ip is None or self._free_ip is None or not wanted:
            self._modules.watched = False
            return {}
        listeners = {self._load_ip: self._loaded, self._free_ip: self._freed}
        return listeners if self._trim_ip is None else {**listeners, self._trim_ip: self._initialised}

    @property
    def _waits(self) -> bool:
        return any(self._core.is_growing(fprobe) for fprobe, _ in self._waiting)

    @property
    def _probes_modules(self) -> bool:
        changes = self._core.site_changes
        if self._in_modules[0] != changes:
            self._in_modules = changes, self._core.probes_any(lambda ip: in_module_area(ip) and not self._covers(ip))
        return self._in_modules[1]

    def _loaded(self, state: CpuState) -> None:
        module = self._modules.init_entered(state.registers["di"])
        if module is None:
            raise ModuleError(state.registers["di"], f"{LOAD} was called for a module that is not in the kernel's list")
        sites: set[int] = set()
        for fprobe, selection in self._waiting:
            if self._core.is_growing(fprobe):
                ips = selection.of(module)
                if self._trim_ip is None:
                    # Nobody would tell when they go.
                    ips -= {ip for ip in ips if ip in module.head.init_text}
                self._core.grow(fprobe, ips)
                sites |= ips
        self._tell(ModuleChange(module, ModuleStep.LOADED, tuple(sorted(sites))))

    def _initialised(self, state: CpuState) -> None:
        module = self._modules.init_returned(state.registers["di"])
        if module is not None and (gone := self._core.module_gone(module.head.init_text)):
            self._tell(ModuleChange(module, ModuleStep.INITIALISED, tuple(sorted(gone))))

    def _freed(self, state: CpuState) -> None:
        module = self._modules.gone(state.registers["di"])
        if module is not None:
            gone = [*self._core.module_gone(module.text), *self._core.module_gone(module.head.init_text)]
            self._tell(ModuleChange(module, ModuleStep.UNLOADED, tuple(sorted(gone))))

    def _tell(self, change: ModuleChange) -> None:
        if self.on_change:
            self.on_change(change)


def _location(records: ImageRecords, name: str) -> int | None:
    addrs = records.addresses(name)
    return (records.ftrace_location(addrs[0]) or addrs[0]) if addrs else None
