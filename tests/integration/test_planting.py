"""Kernel text with trampolines in it: shared with the guest's own tracers, and its own to the byte when we are gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest

from emu.machine import Machine
from fprobe_gdb import FPROBE_FL_ANY_FUNCTION, Fprobe, Kernel
from fprobe_gdb.dispatch.base import RunEnd
from fprobe_gdb.dispatch.trampoline.dispatch import TrampolineDispatch
from fprobe_gdb.dispatch.trampoline.mapping import IMAGE_BASE, place_zone
from fprobe_gdb.dispatch.trampoline.slots import SlotWords
from fprobe_gdb.dispatch.trampoline.zone import Zone
from fprobe_gdb.errors import SiteEntryCode, ZoneError
from fprobe_gdb.registers import Registers
from fprobe_gdb.session import trampolines
from fprobe_gdb.target.guest_ram import GuestRam
from tests.integration.guest_calls import in_handler, settle
from tests.integration.guest_tracer import TRACING, run, tracing

pytestmark = pytest.mark.qemu

KERNELS = pytest.mark.parametrize("kernel", ["6.1", "6.12"])
FUNCTION = "__x64_sys_personality"
NOP = bytes.fromhex("0f1f440000")
FENTRY_CALL = 0xE8
#: What an oops, a WARN or ftrace's giving up says.
TROUBLE = "dmesg | grep -c -e WARNING: -e 'cut here' -e BUG: -e ftrace_bug -e 'Bad page' || true"


@pytest.fixture
def untouched(guest: Callable[..., Kernel]) -> Iterator[Callable[..., Kernel]]:
    """A guest with trampolines, whose text has to be what it was in the end, and its log without a complaint."""
    checks: list[tuple[Kernel, bytes]] = []

    def get(kernel: str, **options: object) -> Kernel:
        # One kernel is where it was linked.
        k = guest(kernel=kernel, dispatch="trampoline", kaslr=kernel != "6.1", **options)
        settle(k)
        checks.append((k, text_of(k)))
        return k

    yield get
    for k, before in checks:
        k.unregister_all()
        assert run(k, TROUBLE) == "0\n"
        settle(k)
        assert text_of(k) == before


def text_of(k: Kernel) -> bytes:
    """All of the kernel's text, as it is in the guest's memory: nothing of ours is hidden there."""
    assert isinstance(k.machine, Machine)
    assert k.machine.ram is not None
    # The image is in one piece, too.
    start = GuestRam(k.machine.ram).translate(k.target.registers(0)["cr3"], k.address("_text"))
    return k.machine.ram[start : start + k.address("_etext") - k.address("_text")]


@KERNELS
def test_all_text_is_the_guests_again(untouched: Callable[..., Kernel], kernel: str) -> None:
    """Thousands of functions, one without fentry, one with a call in flight."""
    k = untouched(kernel)
    # Without those that a timer tick calls by the dozen.
    many, cold = Fprobe(lambda *_: None), Fprobe(lambda *_: None)
    k.register_fprobe(many, "__x64_sys_*")
    k.register_fprobe(cold, "*acpi*")
    assert len(k.locations(many)) + len(k.locations(cold)) > 1_500
    plain = Fprobe(lambda *_: None, lambda *_: None, flags=FPROBE_FL_ANY_FUNCTION, nr_maxactive=64)
    k.register_fprobe(plain, "do_syscall_64")
    sleeping = Fprobe(lambda *_: k.stop(), lambda *_: None)
    k.register_fprobe(sleeping, "vfs_readv")
    running = k.start("workload pipe 1")
    assert k.run(timeout_sec=60, until=lambda: running.poll() is not None) is RunEnd.DONE
    assert (sleeping.hits, sleeping.exits) == (1, 0)
    assert many.hits > 10
    assert plain.hits >= many.hits
    assert (many.nmissed, many.lost, plain.nmissed, plain.lost) == (0, 0, 0, 0)
    k.unregister_all()
    assert k.run(timeout_sec=60, until=lambda: running.poll() is not None) is RunEnd.DONE


@KERNELS
def test_the_guest_traces_what_we_have_planted(untouched: Callable[..., Kernel], kernel: str) -> None:
    """Its function tracer rewrites many locations at once, ours among them, and those of the functions that rewrite."""
    k = untouched(kernel)
    probes = {name: Fprobe(None, lambda *_: None, nr_maxactive=64) for name in (FUNCTION, "text_poke_finish")}
    for name, fp in probes.items():
        k.register_fprobe(fp, name)
    fp = probes[FUNCTION]
    (ip,) = k.locations(fp)
    with tracing(k):
        run(k, f"cd {TRACING}; echo '__x64_sys_* *text_poke* *nofault*' >set_ftrace_filter")
        run(k, f"echo function >{TRACING}/current_tracer; workload calls 3")
        assert k.read_memory(ip, 5)[:1] == b"\xe8"
        run(k, f"echo nop >{TRACING}/current_tracer; workload calls 2")
        assert k.read_memory(ip, 5) == NOP
    assert (fp.hits, fp.exits, fp.nmissed, fp.lost) == (5, 5, 0, 0)
    finish = probes["text_poke_finish"]
    assert finish.hits == finish.exits >= 2
    assert (finish.nmissed, finish.lost) == (0, 0)


def test_what_cannot_be_moved_has_a_breakpoint(untouched: Callable[..., Kernel]) -> None:
    """A function that loops back to its second instruction, and one that may fault: handlers notice no difference."""
    k = untouched("6.1")
    banner = k.address("linux_banner")
    values: list[int] = []
    looping = Fprobe(None, lambda fp, ip, ret_ip, regs, data: values.append(regs.ax), flags=FPROBE_FL_ANY_FUNCTION)
    faulting = Fprobe(lambda *_: None, lambda *_: None, flags=FPROBE_FL_ANY_FUNCTION, nr_maxactive=16)
    k.register_fprobe(looping, "strcmp")
    k.register_fprobe(faulting, "__put_user_nocheck_4")
    calls = [(banner, banner), (banner, banner + 1), (banner + 1, banner)]
    results = in_handler(k, lambda: [k.call("strcmp", *args) for args in calls])
    assert [result & 0xFFFFFFFF for result in results] == [0, (1 << 32) - 1, 1]
    own = [value for value in values if value in results]
    assert looping.hits == looping.exits == len(values) >= len(own) >= 3
    assert faulting.hits == faulting.exits > 0
    assert (looping.nmissed, looping.lost, faulting.nmissed, faulting.lost) == (0, 0, 0, 0)
    assert k.dispatch_name == "trampoline (rsp), 2 functions by breakpoint"
    for fp in (looping, faulting):
        (ip,) = k.locations(fp)
        # What is planted, and what the guest would read.
        assert k.target.read_memory(ip, 5) == k.read_memory(ip, 5)


@pytest.mark.parametrize(("kernel", "room"), [("6.1", "behind"), ("6.12", "before")])
def test_a_boot_from_its_first_function_on(kernel: str, room: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is missed: not the first function, no initcall of those that the kernel itself lists, and the kernel's
    own checks at the end find no mapping that they do not like. All locations are the guest's own afterwards.

    :param room: where the zone is to go, of the image that KASLR has put somewhere.
    """
    if room == "before":
        monkeypatch.setattr(trampolines, "place_zone", placed_before)
    options = {"kernel": kernel, "backend": "rsp", "smp": 2, "cmdline": ("initcall_debug", "log_buf_len=4M")}
    with Kernel.boot(dispatch="trampoline", wait=False, **options) as k:  # type: ignore[arg-type]
        order: list[str] = []

        def note(fp: Fprobe, ip: int, *_: object) -> None:
            order.append(k.records.name_at(ip))

        names = ["x86_64_start_kernel", "ftrace_init", "cleanup_highmap", "free_initmem"]
        for name in names:
            k.register_fprobe(Fprobe(note, flags=FPROBE_FL_ANY_FUNCTION), name)
        initcalls = Fprobe(None, lambda *_: None, nr_maxactive=8)
        k.register_fprobe(initcalls, "do_one_initcall")
        k.wait_boot()
        assert order == ["x86_64_start_kernel", "cleanup_highmap", "ftrace_init", "free_initmem"]
        # Those of consoles are called by console_init() itself, in the boot task.
        told = [int(run(k, f"dmesg | grep -c '{text}'")) for text in ("initcall .* returned", "calling .* @ 0$")]
        assert initcalls.hits == initcalls.exits == told[0] - told[1] > 400
        assert (initcalls.nmissed, initcalls.lost) == (0, 0)
        assert run(k, "dmesg | grep -c 'no W+X pages found'") == "1\n"
        assert run(k, TROUBLE) == "0\n"
        k.unregister_all()
        settle(k)
        text, start = text_of(k), k.address("_text")
        ips = [location.ip for location in k.records.records if not location.name.startswith("__ftrace_invalid")]
        assert {text[ip - start : ip - start + 5] for ip in ips} == {NOP}


# As if the image were at the end of its gigabyte; behind it after all when it is at the beginning.
def placed_before(entries: Sequence[int], image: tuple[int, int], *rest: int) -> Zone:
    try:
        return place_zone(entries, (image[0], IMAGE_BASE + (1 << 30)), *rest)
    except ZoneError:
        return place_zone(entries, image, *rest)


def test_entry_code_is_refused(untouched: Callable[..., Kernel]) -> None:
    """There is neither a kernel stack nor per-CPU data; nothing is planted, and other probes go on."""
    k = untouched("6.1")
    fp = Fprobe(lambda *_: None)
    k.register_fprobe(fp, FUNCTION)
    with pytest.raises(SiteEntryCode, match="--dispatch breakpoint"):
        k.register_fprobe(Fprobe(lambda *_: None, flags=FPROBE_FL_ANY_FUNCTION), "entry_SYSCALL_64")
    run(k, "workload calls 2")
    assert fp.hits == 2


@KERNELS
def test_ftrace_comes_up_around_what_is_planted(kernel: str) -> None:
    """Before the kernel makes NOPs of its calls of ``__fentry__``: hardly any of them is a question for the host, and
    what the kernel's ftrace has found and made is as if nobody had been there."""
    with Kernel.boot(kernel=kernel, backend="rsp", dispatch="trampoline", wait=False) as k:
        dispatch = k._dispatch
        assert isinstance(dispatch, TrampolineDispatch)
        planter, guard = dispatch.planter, dispatch._sites._guard
        entered, asked = guard.entered, Counter[int]()

        def count(ip: int, posted: SlotWords, registers: Registers) -> int | None:
            asked[ip] += 1
            return entered(ip, posted, registers)

        guard.entered = count  # type: ignore[method-assign]
        ips = [location.ip for location in k.records.records][::8]
        probe = k.record(ips, lambda batch: None, ordered=False)
        assert {planter.own(ip)[0] for ip in ips} == {FENTRY_CALL}
        assert k.wait_boot()
        # Its __init functions are gone.
        kept = [ip for ip in ips if ip in planter]
        assert len(ips) > len(kept) > 4000
        assert {planter.own(ip) for ip in kept} == {NOP}
        assert asked.total() < len(kept) // 2
        k.stop_recording(probe)
        assert {k.target.read_memory(ip, 5) for ip in kept} == {NOP}
        assert probe.hits + probe.lost > 100_000
        # ftrace gives up for good where it finds something else than it expects.
        run(k, f"cd {TRACING}; echo function >current_tracer; echo nop >current_tracer")
        assert run(k, TROUBLE) == "0\n"
