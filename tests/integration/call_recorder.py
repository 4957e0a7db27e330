"""Our side of a comparison with the guest's tracers: what our probes see, in the terms of a trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from fprobe_gdb import Fprobe, Kernel, PtRegs
from fprobe_gdb.kernel.btf import Btf
from fprobe_gdb.kernel.image import KernelImage


@dataclass(frozen=True)
class Seen:
    """A call of a handler."""

    function: str
    is_exit: bool
    pid: int
    cpu: int
    time_ns: int
    #: The six register arguments at entry, (ax,) at exit; unsigned.
    values: tuple[int, ...]


class CallRecorder:
    """One fprobe for each function, entries and exits or entries alone, in one list in the order in which they came.

    :param exits: whether to watch returns as well.
    :param pause: called in each entry handler; for tests of what handlers cost.
    """

    def __init__(
        self,
        k: Kernel,
        functions: Sequence[str],
        *,
        exits: bool = True,
        nr_maxactive: int = 64,
        pause: Callable[[], None] | None = None,
    ) -> None:
        self._k = k
        self._pause = pause
        self._pid_offset = btf(k).struct("task_struct").find_member("pid").byte_offset
        self.seen: list[Seen] = []
        self.fprobes: dict[str, Fprobe] = {}
        for function in functions:
            fp = Fprobe(
                self._on_entry,
                self._on_exit if exits else None,
                nr_maxactive=nr_maxactive if exits else 0,
                name=function,
            )
            k.register_fprobe_syms(fp, [function])
            self.fprobes[function] = fp

    def stop(self) -> list[Seen]:
        """Unregister; nothing must have been missed unless a test looks at that itself."""
        for fp in self.fprobes.values():
            self._k.unregister_fprobe(fp)
        return self.seen

    @property
    def missed(self) -> int:
        """Hits, of all functions, that a handler did not see."""
        return sum(fp.nmissed + fp.lost for fp in self.fprobes.values())

    def _on_entry(self, fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: bytearray | None) -> None:
        self._add(fp, False, regs.arguments)
        if self._pause:
            self._pause()

    def _on_exit(self, fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: bytearray | None) -> None:
        self._add(fp, True, (regs.ax,))

    def _add(self, fp: Fprobe, is_exit: bool, values: tuple[int, ...]) -> None:
        k = self._k
        pid = k.read_u32(k.task + self._pid_offset)
        self.seen.append(Seen(fp.name, is_exit, pid, k.cpu, k.time_ns, values))


def btf(k: Kernel) -> Btf:
    """The type information of a guest's kernel."""
    return _btf(k.knowledge.image.path)


@cache
def _btf(path: str) -> Btf:
    return Btf.of_image(KernelImage.open(path))
