"""A guest that might as well have been built without ftrace: nothing is known of its fentry instructions.

They are hidden from us, and functions begin behind them, so that what is planted takes the place of instructions that
do something. Slow, as it is another run of the whole workload.
``pytest -m slow tests/integration/test_without_ftrace.py``
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fprobe_gdb import FPROBE_FL_ANY_FUNCTION, Fprobe, Kernel
from fprobe_gdb.errors import InvalidProbe
from fprobe_gdb.kernel.knowledge import KernelKnowledge
from fprobe_gdb.kernel.locations import Location, LocationTable
from fprobe_gdb.kernel.sites import MCOUNT_INSN_SIZE
from fprobe_gdb.session.options import BootOptions
from images.workload_counts import EXAMPLES, counts
from tests.integration.guest_tracer import run
from tests.integration.test_dispatch_counts import Recorder
from tests.integration.test_planting import NOP, TROUBLE, text_of

JUMP = b"\xe9"

pytestmark = [pytest.mark.qemu, pytest.mark.slow]


class WithoutFentry(LocationTable):
    """No ftrace records; functions begin behind what would be one."""

    def __init__(self, whole: LocationTable) -> None:
        vars(self).update(vars(whole))
        self._all_ips, self._ips, self.records, self._by_symbol = [], [], (), {}
        self.has_ftrace = False
        self._fentry = {location.sym_addr: location.ip for location in whole.records}

    def first_insn(self, name: str) -> Location:
        location = super().first_insn(name)
        ip = self._fentry.get(location.sym_addr)
        return location if ip is None else location._replace(ip=ip + MCOUNT_INSN_SIZE)


@pytest.fixture(scope="module", params=["breakpoint", "trampoline"])
def k(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    options = BootOptions(kernel="6.1", backend="rsp", smp=2, dispatch=request.param)
    knowledge = KernelKnowledge.load(options.kernel_path())
    for name in ("locations", "boot_locations"):
        vars(knowledge)[name] = WithoutFentry(getattr(knowledge, name))
    with Kernel.boot(options=options, knowledge=knowledge) as booted:
        yield booted


@pytest.mark.parametrize("command", EXAMPLES, ids=" ".join)
def test_workload_is_counted_exactly(k: Kernel, command: tuple[str, ...]) -> None:
    by_pads = k.options.dispatch == "trampoline"
    # Breakpoints leave the text alone.
    before = text_of(k) if by_pads else b""
    recorders = [(Recorder(k, count.function, flags=FPROBE_FL_ANY_FUNCTION), count) for count in counts(command)]
    for recorder, _ in recorders:
        (ip,) = k.locations(recorder.fprobe)
        assert k.target.read_memory(ip - MCOUNT_INSN_SIZE, MCOUNT_INSN_SIZE) == NOP
    run(k, "workload " + " ".join(command))
    if by_pads:
        planted = {k.target.read_memory(ip, 1) for recorder, _ in recorders for ip in k.locations(recorder.fprobe)}
        assert planted == {JUMP}
    for recorder, count in recorders:
        recorder.check(count)
    k.unregister_all()
    assert run(k, TROUBLE) == "0\n"
    assert not by_pads or text_of(k) == before


def test_patterns_match_nothing(k: Kernel) -> None:
    """Which functions there are to match is known of ftrace's locations only."""
    with pytest.raises(InvalidProbe, match="matches no"):
        k.register_fprobe(Fprobe(), "vfs_*")
