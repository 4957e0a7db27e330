"""The guest's own stack traces see through the stubs that stand for return addresses in its stacks."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from fprobe_gdb import FPROBE_FL_ANY_FUNCTION, Fprobe, Kernel
from tests.integration.guest_calls import settle

pytestmark = pytest.mark.qemu

READERS = ["ksys_read", "vfs_read", "pipe_read"]
WRITERS = ["ksys_write", "vfs_write", "proc_reg_write", "write_sysrq_trigger"]

# Until he waits for somebody to write; the trace is of no interest before.
BLOCKED = """
mkfifo /tmp/fifo; sleep 1000 >/tmp/fifo & sleeper=$!
cat /tmp/fifo & reader=$!
for i in $(seq 500); do grep -q pipe /proc/$reader/wchan && break; usleep 10000; done
cat /proc/$reader/stack
kill $sleeper $reader; rm /tmp/fifo
"""

_FRAME = re.compile(r"^(?:\[.*?\])?\s+(?:\[<0>\] )?([a-z_][\w.]*)\+0x[0-9a-f]+/", re.MULTILINE)


def ignored(*_args: object) -> None:
    """A handler."""


@pytest.fixture(params=["6.1", "6.12"])
def k(guest: Callable[..., Kernel], request: pytest.FixtureRequest) -> Kernel:
    return guest(kernel=request.param, dispatch="trampoline", smp=1)


def hook_returns(k: Kernel, functions: list[str], how: str) -> Callable[[], object]:
    """Replace the return addresses of these functions from now on. Returns what removes that."""
    if how == "call":
        fp = Fprobe(exit_handler=ignored)
        k.register_fprobe_syms(fp, list(functions))
        return lambda: k.unregister_fprobe(fp)
    ips = {k.records.ftrace_location(k.symbols.one(name)) for name in functions}
    probe = k.record(ips, ignored)
    return lambda: k.stop_recording(probe)


def frames(text: str) -> list[str]:
    """The functions of a stack trace, without those that the guest is not sure of."""
    return _FRAME.findall(text)


@pytest.mark.parametrize("how", ["call", "record"])
def test_stack_of_a_task_that_waits(k: Kernel, how: str) -> None:
    plain = k.shell(BLOCKED).text
    end = hook_returns(k, READERS, how)
    hooked = k.shell(BLOCKED).text
    end()
    assert frames(hooked) == frames(plain)
    assert set(READERS) <= set(frames(hooked)), hooked


@pytest.mark.parametrize("how", ["call", "record"])
def test_stack_that_the_kernel_prints(k: Kernel, how: str) -> None:
    """What it says when it warns or dies is made by the same function (dump_stack)."""
    command = "dmesg -c >/dev/null; echo l >/proc/sysrq-trigger; dmesg -c"
    plain = k.shell(command).text
    end = hook_returns(k, WRITERS, how)
    hooked = k.shell(command).text
    end()
    assert frames(hooked) == frames(plain)
    assert set(WRITERS) <= set(frames(hooked)), hooked


def test_text_is_the_guest_s_own_again(k: Kernel) -> None:
    functions = ["ftrace_graph_ret_addr", "__kernel_text_address"]

    def text() -> list[bytes]:
        return [k.target.read_memory(k.symbols.one(name), 32) for name in functions]

    settle(k)
    before = text()
    end = hook_returns(k, WRITERS, "call")
    k.shell("true")
    assert all(was != now for was, now in zip(before, text(), strict=True))
    end()
    settle(k)
    assert text() == before


def test_who_probes_the_unwinder_is_served(k: Kernel) -> None:
    """The guest's unwinder does without us then, and has us back afterwards."""
    end = hook_returns(k, READERS, "call")
    k.shell(BLOCKED)
    fp = Fprobe(ignored, flags=FPROBE_FL_ANY_FUNCTION)
    k.register_fprobe(fp, "ftrace_graph_ret_addr")
    k.shell(BLOCKED)
    assert fp.hits > 0
    k.unregister_fprobe(fp)
    hits = fp.hits
    assert set(READERS) <= set(frames(k.shell(BLOCKED).text))
    assert fp.hits == hits
    end()
