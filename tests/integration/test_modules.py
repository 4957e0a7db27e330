"""Modules of real kernels: read from memory, probed, waited for, and unloaded under the probes; the guest judges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

import images
from fprobe_gdb import Fprobe, Kernel
from fprobe_gdb.errors import InvalidProbe
from fprobe_gdb.kernel.module_file import INIT_TEXT, ModuleFile
from fprobe_gdb.probe.regs import PtRegs
from fprobe_gdb.session.module_watch import ModuleChange, ModuleStep
from images.modules import module_bytes, module_paths
from tests.integration.conftest import CATALOG
from tests.integration.guest_tracer import TRACING
from tests.integration.tool import run_tool

# A network device without hardware, a block device, and a module whose init function fails on our CPU (no PCLMULQDQ).
MODULES = ("dummy", "loop", "crc32_pclmul")
Guest = Callable[..., Kernel]


@pytest.fixture(params=CATALOG)
def k(request: pytest.FixtureRequest, guest: Guest) -> Iterator[Kernel]:
    found = guest(kernel=request.param, modules=MODULES)
    yield found
    found.unregister_all()
    found.on_module = None
    found.shell("rmmod dummy; rmmod loop; true")


def table(k: Kernel, path: str) -> list[list[str]]:
    return [line.split() for line in k.shell(f"grep '\\[' {path}").text.splitlines()]


def test_symbols_and_locations_are_those_of_the_guest(k: Kernel) -> None:
    assert k.modules == ()
    k.shell("modprobe dummy; modprobe loop")
    assert [module.name for module in k.modules] == ["dummy", "loop"]
    # Marks of the assembler are in kallsyms, but no look-up gives them.
    theirs = {
        (int(addr, 16), kind.lower(), name, module)
        for addr, kind, name, module in table(k, "/proc/kallsyms")
        if not name.startswith(".L")
    }
    ours = {(s.addr, s.type.lower(), s.name, f"[{s.module}]") for module in k.modules for s in module.symbols}
    assert ours == theirs
    # What the files say before anything is booted.
    there = module_paths(images.kernel(str(k.options.kernel)))
    for module in k.modules:
        functions = ModuleFile.read(module.name, module_bytes(there[module.name])).functions
        in_file = [(one.name, module.text.start + one.offset) for one in functions if one.section == ".text"]
        assert in_file == [(one.name, one.ip) for one in module.locations if (one.name, one.ip) in set(in_file)]
        stays = sorted(one.name for one in functions if one.section != INIT_TEXT)
        assert stays == sorted(one.name for one in module.locations)
    # Reading it takes the kernel longer than all the rest.
    lines = k.shell(
        f"cat {TRACING}/available_filter_functions > /tmp/f; grep -v __ftrace_invalid /tmp/f | grep -n '\\['"
    )
    first, *names = (line.split(":")[i] for line in lines.text.splitlines()[:1] for i in (0, 1))
    names += [line.partition(":")[2] for line in lines.text.splitlines()[1:]]
    assert names == [k.records.name_at(r.ip) for r in k.records.records if r.module]
    assert len([r for r in k.records.records if not r.module]) == int(first) - 1
    if k.shell(f"test -e {TRACING}/available_filter_functions_addrs").status == 0:
        addrs = {int(addr, 16) for addr, *_ in table(k, f"{TRACING}/available_filter_functions_addrs")}
        assert addrs == {location.ip for module in k.modules for location in module.locations}
    last = int(k.shell("wc -l < /tmp/f").text)
    found = k.records.by_index(last)
    assert found
    assert k.records.name_at(found.ip) == names[-1]
    assert k.records.by_index(last + 1) is None


def test_loads_and_unloads_while_probes_wait(k: Kernel) -> None:
    changes: list[tuple[str, bool, int]] = []
    k.on_module = lambda change: changes.append((change.module.name, change.loaded, len(change.sites)))
    seen: Counter[str] = Counter()

    def on_entry(fp: Fprobe, ip: int, ret_ip: int, regs: PtRegs, data: object) -> None:
        # Types are the module's own, and so are symbols.
        assert k.prototype_at(ip) is not None
        name = k.records.name_at(ip)
        assert k.symbolize(ip).replace("+0x0", "").replace("+0x4", "") == name
        # By the module's own unwinding tables; without them the trace ends or makes things up.
        stack = k.stack()
        assert stack.complete
        assert all(frame.reliable for frame in stack)
        seen[name] += 1

    fp = Fprobe(on_entry, lambda *_: None)
    k.register_fprobe_mod(fp, "dummy_setup [dummy]", "dummy_dev_*:mod:dummy")
    assert k.locations(fp) == []
    for _ in range(2):
        k.shell("modprobe dummy; ip link add d1 type dummy; ip link add d2 type dummy; rmmod dummy")
    sites = changes[0][2]
    assert changes == [("dummy", True, sites), ("dummy", False, sites)] * 2
    # modprobe makes one device (numdummies), which 6.12 does as 6.1 does.
    assert seen["dummy_setup [dummy]"] == seen["dummy_dev_init [dummy]"] == 2 * 3
    assert fp.hits == fp.exits == seen.total()
    assert not fp.nmissed
    assert not fp.lost
    assert k.locations(fp) == []
    assert not k.calls_in_flight
    assert k.modules == ()
    k.unregister_fprobe(fp)
    k.shell("modprobe dummy")
    assert len(changes) == 4


@pytest.mark.parametrize(("kernel", "way"), [("6.1", {"dispatch": "trampoline"}), ("6.12", {})])
def test_init_functions_are_probed_until_they_are_freed(guest: Guest, kernel: str, way: dict[str, str]) -> None:
    k = guest(kernel=kernel, modules=MODULES, **way)
    changes: list[ModuleChange] = []
    k.on_module = changes.append
    calls: list[str] = []
    fp = Fprobe(
        lambda fp, ip, *_: calls.append(k.records.name_at(ip)),
        lambda fp, ip, ret_ip, regs, data: calls.append(f"/{k.records.name_at(ip)} {k.retval(regs, ip)}"),
    )
    k.register_fprobe_mod(fp, "dummy_init_module [dummy]", "dummy_setup [dummy]")
    inside = ["dummy_init_module [dummy]", "dummy_setup [dummy]", "/dummy_setup [dummy] None"]
    for _ in range(2):
        assert k.shell("modprobe dummy").status == 0
        assert calls == [*inside, "/dummy_init_module [dummy] 0"]
        calls.clear()
        assert [(one.step, len(one.sites)) for one in changes] == [
            (ModuleStep.LOADED, 2),
            (ModuleStep.INITIALISED, 1),
        ]
        # What was its code is not the module's any more, for us as for the guest.
        assert [k.records.name_at(ip) for ip in k.locations(fp)] == ["dummy_setup [dummy]"]
        assert k.shell("grep -c 'dummy_init_module' /proc/kallsyms; true").text == "0\n"
        assert not k.records.addresses("dummy_init_module")
        k.shell("rmmod dummy")
        changes.clear()
    assert (fp.hits, fp.exits, fp.nmissed, fp.lost) == (4, 4, 0, 0)
    assert not k.calls_in_flight
    k.unregister_fprobe(fp)
    k.on_module = None


def test_an_init_function_that_fails_leaves_no_probe_behind(k: Kernel) -> None:
    changes: list[ModuleChange] = []
    k.on_module = changes.append
    fp = Fprobe(lambda *_: None)
    k.register_fprobe_mod(fp, "[crc32_pclmul]", "[dummy]")
    assert "No such device" in k.shell("modprobe crc32_pclmul").text
    # busybox tries with finit_module() and then with init_module().
    told = [("crc32_pclmul", True), ("crc32_pclmul", False)] * 2
    assert [(one.module.name, one.loaded) for one in changes] == told
    assert all(one.sites for one in changes)
    assert k.locations(fp) == []
    assert k.modules == ()


def test_an_ordinary_filter_takes_modules_that_are_there_and_keeps_to_them(k: Kernel) -> None:
    k.shell("modprobe dummy")
    fp = Fprobe(lambda *_: None)
    k.register_fprobe(fp, "dummy_dev_i*")
    with pytest.raises(InvalidProbe, match=r"no_such \[dummy\].*no traceable function of dummy"):
        k.register_fprobe_mod(Fprobe(lambda *_: None), "no_such [dummy]")
    assert [k.records.name_at(ip) for ip in k.locations(fp)] == ["dummy_dev_init [dummy]"]
    k.shell("ip link add d3 type dummy; rmmod dummy")
    assert (fp.hits, k.locations(fp)) == (1, [])
    k.shell("modprobe dummy; ip link add d3 type dummy")
    assert (fp.hits, k.locations(fp)) == (1, [])


def test_the_tool_waits_for_a_module() -> None:
    run = run_tool(
        "trace", "--backend", "rsp", "--module", "dummy", "-i", "dummy_setup [dummy]",
        "--count-by", "dev->name", "--", "modprobe dummy && ip link add d4 type dummy && rmmod dummy",
    )  # fmt: skip
    assert run.status == 0, run.err
    assert "module | dummy loaded, 1 functions probed" in run.out
    assert "→ dummy_setup [dummy](dev=0x" in run.out
    assert "module | dummy unloaded, 1 functions no longer probed" in run.out
    assert "calls: 2 = 2 hits + 0 missed + 0 lost" in run.out
