"""The modules of one guest, as they are at this stop: what was read is kept as long as it is still there."""

from __future__ import annotations

from collections.abc import Callable

from fprobe_gdb.errors import BtfError, ImageError, MemoryFault, ModuleError
from fprobe_gdb.kernel.btf import Btf
from fprobe_gdb.kernel.modules import GuestModule, ModuleHead, ModuleReader, in_module_area
from fprobe_gdb.kernel.orc import OrcTable

__all__ = ["GuestModules"]


class GuestModules:
    """Reads modules when they are asked for, and again when they have changed.

    :param reader: None where this guest's modules cannot be read; it has none then, as far as we know.
    :param base: the kernel's types.
    :param epoch: a number that changes when the guest runs on.
    """

    def __init__(self, reader: ModuleReader | None, base: Callable[[], Btf], epoch: Callable[[], int]) -> None:
        self._reader = reader
        self._base = base
        self._epoch = epoch
        self._modules: tuple[GuestModule, ...] = ()
        self._btfs: dict[ModuleHead, Btf] = {}
        self._orcs: dict[ModuleHead, OrcTable | None] = {}
        # When all modules, and when each of them, was last looked at.
        self._seen_epoch: int | None = None
        self._head_epochs: dict[int, int] = {}
        self._watched = False
        # Modules whose init function has been entered, seen by ourselves, by address of struct module.
        self._initialising: set[int] = set()

    @property
    def readable(self) -> bool:
        """Whether this kernel tells of its modules."""
        return self._reader is not None

    @property
    def watched(self) -> bool:
        """Whether somebody tells of loads and unloads; then what is known need not be looked at again."""
        return self._watched

    @watched.setter
    def watched(self, watched: bool) -> None:
        if watched and not self._watched:
            self.known()
        self._watched = watched

    def all(self) -> tuple[GuestModule, ...]:
        """In the order in which they were loaded. Looked at once a stop: one exchange, and one for each module.

        A module counts from the entry of its init function on where its load is watched, else from its end on.

        :raise ModuleError: the guest's memory is damaged, or the kernel is not mapped on any CPU.
        """
        is_known = self._seen_epoch is not None and (self._watched or self._seen_epoch == self._epoch())
        if self._reader is not None and not is_known:
            self._seen_epoch = None
            try:
                heads = self._reader.heads()
            except MemoryFault as fault:
                raise ModuleError(fault.addr, f"the guest's modules cannot be read now ({fault})") from fault
            known = {module.head: module for module in self._modules}
            wanted = [head for head in reversed(heads) if self._counts(head)]
            self._modules = tuple(known.get(head) or self._reader.read(head.addr) for head in wanted)
            self._btfs = {head: btf for head, btf in self._btfs.items() if head in wanted}
            self._orcs = {head: orc for head, orc in self._orcs.items() if head in wanted}
            self._seen_epoch = self._epoch()
            self._head_epochs = dict.fromkeys((head.addr for head in wanted), self._seen_epoch)
        return self._modules

    def known(self) -> tuple[GuestModule, ...]:
        """As :meth:`all`; where they cannot be read just now, those that were there last."""
        try:
            return self.all()
        except ModuleError:
            return self._modules

    def at(self, addr: int) -> GuestModule | None:
        """The module whose code holds an address. At most one exchange where it is one that was there before."""
        if self._reader is None or not in_module_area(addr):
            return None
        found = self._find(addr)
        if found is not None and self._is_trusted(found, addr):
            return found
        if self._seen_epoch != self._epoch():
            self._seen_epoch = None
            self.known()
        return self._find(addr)

    def btf(self, module: GuestModule) -> Btf:
        """A module's types, with those of the kernel below them.

        :raise BtfError: it has none, or they are damaged.
        """
        found = self._btfs.get(module.head)
        if found is None:
            data = self._reader.btf_bytes(module.head) if self._reader else None
            if data is None:
                raise BtfError(module.name, "the module has no type information")
            found = self._btfs[module.head] = Btf.from_bytes(data, f"module {module.name}", self._base())
        return found

    def orc(self, addr: int, like: OrcTable) -> OrcTable | None:
        """The stack unwinding table for an address in a module.

        :param like: the kernel's own.
        """
        module = self.at(addr)
        if module is None or self._reader is None:
            return None
        if module.head not in self._orcs:
            try:
                self._orcs[module.head] = self._reader.orc(module.head, like)
            except (ModuleError, ImageError):
                # Frame pointers are guessed there, and the trace says so.
                self._orcs[module.head] = None
        return self._orcs[module.head]

    def init_entered(self, addr: int) -> GuestModule | None:
        """A module's init function is about to be called: it counts from now on.

        :param addr: of its ``struct module``.
        """
        self._initialising.add(addr)
        self._seen_epoch = None
        return next((module for module in self.all() if module.head.addr == addr), None)

    def init_returned(self, addr: int) -> GuestModule | None:
        """A module's ``.init.text`` is about to be freed. Returns what it was.

        :param addr: of its ``struct module``.
        """
        found = next((module for module in self._modules if module.head.addr == addr), None)
        if found is not None:
            left = found.initialised()
            self._modules = tuple(left if module is found else module for module in self._modules)
            for known in (self._btfs, self._orcs):
                if found.head in known:
                    known[left.head] = known.pop(found.head)  # type: ignore[assignment]
        return found

    def gone(self, addr: int) -> GuestModule | None:
        """A module's memory is about to be freed. Returns what it was.

        :param addr: of its ``struct module``.
        """
        self._initialising.discard(addr)
        found = next((module for module in self._modules if module.head.addr == addr), None)
        self._modules = tuple(module for module in self._modules if module is not found)
        if found is not None:
            # Another build of it may be loaded to the same place.
            self._btfs.pop(found.head, None)
            self._orcs.pop(found.head, None)
        return found

    def _counts(self, head: ModuleHead) -> bool:
        match head.state:
            case "MODULE_STATE_LIVE":
                self._initialising.discard(head.addr)
                return True
            case "MODULE_STATE_COMING":
                return head.addr in self._initialising
            case "MODULE_STATE_GOING":
                # Its exit function may still run; one that was never seen alive is of no interest.
                return any(module.head.addr == head.addr for module in self._modules)
        return False

    def _find(self, addr: int) -> GuestModule | None:
        # What was a module's .init.text may be another one's code by now.
        found = next((module for module in self._modules if addr in module.text), None)
        return found or next((module for module in self._modules if addr in module.head.init_text), None)

    def _is_trusted(self, module: GuestModule, addr: int) -> bool:
        return (self._watched and addr in module.text) or self._is_still_there(module)

    def _is_still_there(self, module: GuestModule) -> bool:
        assert self._reader is not None
        epoch = self._epoch()
        if self._head_epochs.get(module.head.addr) != epoch:
            try:
                if self._reader.head(module.head.addr) != module.head:
                    return False
            except (ModuleError, MemoryFault):
                return False
            self._head_epochs[module.head.addr] = epoch
        return True
