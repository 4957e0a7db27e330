"""The guest seen through GDB, driven over GDB/MI with pygdbmi's parser.

Fast because nothing waits for silence: commands carry tokens, leave together in one write, and gdb's caches and
embellishments are off. Facts that shape it (gdb 13.1):

* gdb steps over a breakpoint at the ``ip`` it resumes from: a second stop. Nobody resumes there (rule 3 of
  :mod:`~fprobe_gdb.target.base`), so a hit is one stop.
* A breakpoint is planted at once (``breakpoint always-inserted``), not anew at each resume.
* All-stop, asynchronous: gdb reads commands (``-exec-interrupt``) while the guest runs.
* gdb can let one thread run alone (``scheduler-locking``), not a chosen set.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from emu.deadline import Deadline
from fprobe_gdb.errors import (
    BreakpointRefused,
    ConnectionClosed,
    MemoryFault,
    ProtocolError,
    TargetLost,
    UsageError,
    WaitTimeout,
)
from fprobe_gdb.registers import REGISTERS
from fprobe_gdb.target.base import BreakpointKind, Stop, TargetState
from fprobe_gdb.target.connected import ConnectedTarget, check_range
from fprobe_gdb.target.gdb_replies import check_done, check_packet_ok, check_there, joined, read_stop, threads_by_vcpu
from fprobe_gdb.target.rsp_layout import GDB_NAMES
from fprobe_gdb.transport.mi import MiEvent, MiResult, c_string
from fprobe_gdb.transport.mi_session import MiSession
from fprobe_gdb.transport.process import ProcessLink
from fprobe_gdb.transport.relay import GdbRelay

__all__ = ["GdbTarget"]

# Commands in flight at once: their results have to fit into the pipe while we still send.
_WRITE_BATCH = 128
#: Bytes that one read command asks for.
_READ_BYTES = 1 << 16

_ARGV = ("--nx", "--nh", "--quiet", "--interpreter=mi3")
_SETTINGS = (
    "confirm off",
    "pagination off",
    "width 0",
    "auto-load off",
    "history save off",
    "debuginfod enabled off",
    "print thread-events off",
    "print frame-arguments none",
    "disassemble-next-line off",
    "osabi none",
    "architecture i386:x86-64",
    "non-stop off",
    "mi-async on",
    "breakpoint always-inserted on",
    "breakpoint auto-hw off",
    # Only gdb's own look at a stopped guest's code is cached (until the next resume); -data-read-memory-bytes never is.
    "code-cache on",
    "stack-cache on",
    "backtrace limit 1",
)
# A bit of cr3 that changes nothing under an emulator.
_CR3_PWT = 8


class GdbTarget(ConnectedTarget):
    """A guest behind a gdb of our own, connected to QEMU's gdbstub at a unix socket. Connecting stops it.

    Remove the socket's name once this is done; the connection stays.

    :param socket_path: where QEMU listens (``-gdb unix:PATH,server=on,wait=off``).
    :param relay: what listens at that socket instead of QEMU, where a hit shall not cost a new translation of the
        guest's code (:mod:`~fprobe_gdb.transport.relay`); owned from now on.
    :param gdb: the gdb program.
    :param answer_sec: seconds within which gdb must answer, the guest being stopped.
    :raise TransportError: when gdb cannot be started; names the Debian package.
    :raise TargetLost: when nobody is at the other end.
    """

    name = "gdb"

    def __init__(
        self, socket_path: Path | str, *, relay: GdbRelay | None = None, gdb: str = "gdb", answer_sec: float = 30.0
    ) -> None:
        super().__init__("its gdb")
        self._relay = relay
        try:
            self._session = MiSession(ProcessLink((gdb, *_ARGV), "gdb"), answer_sec)
        except BaseException:
            if relay is not None:
                relay.close()
            raise
        self._unchecked: list[tuple[MiResult, Callable[[MiResult], None]]] = []
        self._breakpoints: dict[tuple[int, BreakpointKind], str] = {}
        # ip of vCPUs, not yet written: one of them can go with the resume.
        self._ips_to_write: dict[int, int] = {}
        self._locked = False
        self._interrupted = False
        try:
            with self._lost_on_close():
                self._connect(str(socket_path), answer_sec)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """gdb's process id."""
        return self._session.link.pid

    def write_registers(self, vcpu: int, values: Mapping[str, int]) -> None:
        """Set registers. Sent with the next exchange."""
        self._need_writable(vcpu, values)
        for name, value in values.items():
            if name == "ip":
                self._ips_to_write[vcpu] = value
            else:
                self._assign(vcpu, name, value & 0xFFFFFFFF if name == "flags" else value)
        if "flags" in values:
            # Not all of its bits can be set: ask the stub what became of it.
            self._registers.pop(vcpu, None)
        elif vcpu in self._registers:
            self._registers[vcpu].update(values)

    def read_many(self, requests: Sequence[tuple[int, int]], *, vcpu: int = 0) -> list[bytes | MemoryFault]:
        """Read several pieces in one pipelined exchange."""
        self._need_stopped("reading memory")
        thread = self._threads[self._known(vcpu)]
        roots = self._lend_root(vcpu)
        reads: list[list[MiResult]] = []
        for addr, size_bytes in requests:
            check_range(addr, size_bytes)
            reads.append(
                [
                    self._session.queue(
                        f"-data-read-memory-bytes --thread {thread} {addr + at:#x} {min(_READ_BYTES, size_bytes - at)}"
                    )
                    for at in range(0, size_bytes, _READ_BYTES)
                ]
            )
        self._give_root_back(vcpu, roots)
        self._exchange()
        return [joined(*request, piece) for request, piece in zip(requests, reads, strict=True)]

    def write_memory(self, addr: int, data: bytes, *, vcpu: int = 0) -> None:
        """Write guest virtual memory."""
        self._need_stopped("writing memory")
        check_range(addr, len(data))
        thread = self._threads[self._known(vcpu)]
        roots = self._lend_root(vcpu)
        results = [
            self._session.queue(
                f"-data-write-memory-bytes --thread {thread} {addr + at:#x} {data[at : at + 2048].hex()}"
            )
            for at in range(0, len(data), 2048)
        ]
        self._give_root_back(vcpu, roots)
        self._exchange()
        if any(result.error is not None for result in results):
            raise MemoryFault(addr, len(data), "write")

    def write_many(self, requests: Sequence[tuple[int, bytes]], *, vcpu: int = 0) -> None:
        """Write several pieces, of at most 2048 bytes each, in pipelined exchanges."""
        self._need_stopped("writing memory")
        thread = self._threads[self._known(vcpu)]
        for begin in range(0, len(requests), _WRITE_BATCH):
            batch = requests[begin : begin + _WRITE_BATCH]
            roots = self._lend_root(vcpu)
            results = []
            for addr, data in batch:
                check_range(addr, len(data))
                results.append(
                    self._session.queue(f"-data-write-memory-bytes --thread {thread} {addr:#x} {data.hex()}")
                )
            self._give_root_back(vcpu, roots)
            self._exchange()
            for (addr, data), result in zip(batch, results, strict=True):
                if result.error is not None:
                    raise MemoryFault(addr, len(data), "write")

    def read_physical(self, addr: int, size_bytes: int) -> bytes:
        """Read guest physical memory, device registers included. QEMU reads zeros where nothing answers."""
        self._need_stopped("reading physical memory")
        self._queue('-interpreter-exec console "maintenance packet Qqemu.PhyMemMode:1"', check_packet_ok)
        try:
            requests = [self._read_command(addr, size_bytes)]
        finally:
            self._queue('-interpreter-exec console "maintenance packet Qqemu.PhyMemMode:0"', check_packet_ok)
        self._exchange()
        data = joined(addr, size_bytes, requests)
        if isinstance(data, MemoryFault):
            raise data
        return data

    def flush_tlb(self, vcpu: int) -> None:
        """Let a vCPU forget what it knows of its page tables: QEMU's TCG does at each write of cr3. One exchange."""
        root = self.registers(vcpu)["cr3"]
        # gdb writes no register that has the value already (its regcache.c, regcache::raw_write()).
        for value in (root ^ _CR3_PWT, root):
            self._write_root(vcpu, value)

    def _write_root(self, vcpu: int, root: int) -> None:
        number, thread = self._numbers["cr3"], self._threads[vcpu]
        self._queue(f"-data-write-register-values --thread {thread} x {number} {root:#x}", check_done)

    # Page tables that a vCPU is lent are its own again behind what is queued next.
    def _lend_root(self, vcpu: int) -> tuple[int, int] | None:
        roots = self._lent_root(vcpu)
        if roots is not None:
            self._write_root(vcpu, roots[1])
        return roots

    def _give_root_back(self, vcpu: int, roots: tuple[int, int] | None) -> None:
        if roots is not None:
            self._write_root(vcpu, roots[0])

    def insert_breakpoint(self, addr: int, kind: BreakpointKind) -> None:
        """Plant a breakpoint. Sent with the next exchange; a refusal comes there."""
        self._need_stopped("planting a breakpoint")
        check_range(addr, 1)

        def planted(result: MiResult) -> None:
            if result.error is not None or "Cannot insert" in result.log:
                raise BreakpointRefused(addr, result.error or " ".join(result.log.split()))
            self._breakpoints[addr, kind] = str(result.payload["bkpt"]["number"])

        option = "-h " if kind is BreakpointKind.HARDWARE else ""
        self._queue(f"-break-insert {option}*{addr:#x}", planted)

    def remove_breakpoint(self, addr: int, kind: BreakpointKind) -> None:
        """Remove a breakpoint. Sent with the next exchange."""
        self._need_stopped("removing a breakpoint")
        if (addr, kind) not in self._breakpoints:
            self._exchange()  # its number comes with the answer to a -break-insert that may still be queued
        number = self._breakpoints.pop((addr, kind), None)
        if number is None:
            raise UsageError(f"there is no {kind.value} breakpoint at {addr:#x}")
        self._queue(f"-break-delete {number}", check_done)

    def resume(self, *, hold: Collection[int] = ()) -> None:
        """Let the guest run. gdb can hold all vCPUs but one: with ``hold``, only the lowest that is not in it runs."""
        self._need_stopped("resuming")
        running = [vcpu for vcpu in self._vcpus if vcpu not in hold] or [self._vcpus[0]]
        self._lock(len(running) < len(self._vcpus))
        first = next((vcpu for vcpu in running if vcpu in self._ips_to_write), running[0])
        thread = self._threads[running[0] if self._locked else first]
        if (self._locked and first != running[0]) or first not in self._ips_to_write:
            self._go(f"-exec-continue --thread {thread}")
        else:
            # Assigning $rip costs gdb another look at registers and code; a jump is the write and the resume alone.
            self._go(f"-exec-jump --thread {thread} *{self._ips_to_write.pop(first):#x}")

    def step(self, vcpu: int, deadline: Deadline) -> None:
        """Run one instruction of one vCPU. QEMU masks interrupts and timers meanwhile.

        :raise WaitTimeout: when it did not finish (a halted vCPU); the guest is stopped.
        """
        self._need_stopped("stepping")
        # gdb takes a SIGTRAP one byte behind a software breakpoint for an int3 that was hit, and sets the pc back (gdb
        # 13.1 infrun.c, adjust_pc_after_break(); QEMU 7.2 does not tell it better by "swbreak"). It knows that a thread
        # stepped there only if that thread reported the last stop. So none may be in its way.
        ip = self.registers(vcpu)["ip"]
        self._exchange()  # a breakpoint may be queued, and have no number yet
        number = self._breakpoints.get((ip, BreakpointKind.SOFTWARE))
        if number is not None:
            self._queue(f"-break-disable {number}", check_done)
        self._lock(len(self._vcpus) > 1)
        self._go(f"-exec-step-instruction --thread {self._threads[vcpu]}")
        try:
            self.wait(deadline)
        except WaitTimeout:
            self._stop_now()
            raise WaitTimeout(deadline.seconds, f"vCPU {vcpu} to finish one instruction; is it halted?") from None
        finally:
            if number is not None and self._state is TargetState.STOPPED:
                self._queue(f"-break-enable {number}", check_done)

    def wait(self, deadline: Deadline, wake: Sequence[int] = ()) -> Stop | None:
        """Wait until the guest stops."""
        self._need(TargetState.RUNNING, "waiting for a stop")
        with self._lost_on_close():
            event = self._session.next_event(deadline, wake)
            if event is None:
                return None
            if not isinstance(event, MiEvent):
                self._check_resumed()
                raise WaitTimeout(deadline.seconds)
            self._state = TargetState.STOPPED
            self._interrupted = False
            stop = read_stop(event, self._threads)
        self._exchange()
        return stop

    def interrupt(self) -> None:
        """Ask the running guest to stop. Asking again before it stopped does nothing."""
        self._need(TargetState.RUNNING, "interrupting")
        if not self._interrupted:
            self._interrupted = True
            # When the stop came first, gdb has nobody to interrupt and may say so.
            self._queue("-exec-interrupt --all", lambda _result: None)
            with self._lost_on_close():
                self._session.flush()

    def monitor(self, command: str) -> str:
        """Run a command of QEMU's human monitor. One exchange. Must not resume the guest."""
        self._need_stopped("a monitor command")
        result = self._session.queue(f"-interpreter-exec console {c_string('monitor ' + command)}")
        self._exchange()
        self._registers.clear()
        check_done(result)
        return result.output

    def detach(self) -> None:
        """Remove all breakpoints, let the guest run on, end gdb. A running guest is stopped for it."""
        if self._state is TargetState.RUNNING:
            self._stop_now()
        self._need_stopped("detaching")
        self._write_ips()
        self._exchange()
        result = self._session.queue("-target-detach")
        with self._lost_on_close():
            self._session.collect()
            # That the threads are gone is no news here.
            self._session.take_events()
            check_there(result.error or "")
            check_done(result)
        self._state = TargetState.DETACHED
        self.close()

    def close(self) -> None:
        """Kill gdb, without a word to the guest. May be called twice."""
        self._session.close()
        if self._relay is not None:
            self._relay.close()
        if self._state is not TargetState.DETACHED:
            self._lose("the connection was closed")

    # Connecting.

    def _connect(self, socket_path: str, answer_sec: float) -> None:
        for setting in _SETTINGS:
            # A gdb without debuginfod does not know its setting, and need not.
            self._queue(f"-gdb-set {setting}", lambda _result: None)
        self._queue(f"-gdb-set remotetimeout {max(1, int(answer_sec / 2))}", check_done)
        c_string(socket_path)  # refuses control characters; gdb takes the rest of the line literally
        connected = self._session.queue(f"-target-select remote {socket_path}")
        names = self._session.queue("-data-list-register-names")
        threads = self._session.queue("-thread-info")
        self._session.collect()
        if connected.error is not None:
            raise TargetLost(f"gdb cannot connect to {socket_path}: {connected.error}")
        self._session.take_events()
        listed = [str(name) for name in names.payload.get("register-names", ())]
        try:
            self._numbers = {name: listed.index(GDB_NAMES.get(name, name)) for name in REGISTERS}
        except ValueError as error:
            raise ProtocolError(f"the gdbstub does not describe all registers ({error})") from None
        self._number_list = " ".join(str(self._numbers[name]) for name in REGISTERS)
        self._threads = threads_by_vcpu(threads)
        self._vcpus = tuple(sorted(self._threads))
        self._check_replies()

    # Exchanges.

    def _assign(self, vcpu: int, name: str, value: int) -> None:
        assignment = f"${GDB_NAMES.get(name, name)}={value:#x}"
        self._queue(f'-data-evaluate-expression --thread {self._threads[vcpu]} "{assignment}"', check_done)

    def _write_ips(self) -> None:
        ips, self._ips_to_write = self._ips_to_write, {}
        for vcpu, value in ips.items():
            self._assign(vcpu, "ip", value)

    def _last_words(self, error: ConnectionClosed) -> str:
        return self._session.link.receive_error(error)

    def _queue(self, command: str, check: Callable[[MiResult], None]) -> None:
        self._unchecked.append((self._session.queue(command), check))

    def _exchange(self) -> None:
        with self._lost_on_close():
            for result in self._session.collect():
                check_there(result.error or "")
            for event in self._session.take_events():
                read_stop(event, self._threads)
                raise ProtocolError("gdb reports a stop of a stopped guest", event.line)
        self._check_replies()

    def _check_replies(self) -> None:
        unchecked, self._unchecked = self._unchecked, []
        for result, check in unchecked:
            check(result)

    # A resume that gdb refused left the guest stopped, and nobody would ever report a stop.
    def _check_resumed(self) -> None:
        if any(result.error is not None for result, _check in self._unchecked):
            self._state = TargetState.STOPPED
            self._check_replies()

    def _lock(self, locked: bool) -> None:
        if locked != self._locked:
            self._locked = locked
            self._queue(f"-gdb-set scheduler-locking {'on' if locked else 'off'}", check_done)

    def _go(self, command: str) -> None:
        self._registers.clear()
        self._write_ips()
        self._queue(command, check_done)
        self._state = TargetState.RUNNING
        with self._lost_on_close():
            self._session.flush()

    def _read_command(self, addr: int, size_bytes: int) -> MiResult:
        return self._session.queue(f"-data-read-memory-bytes {addr:#x} {size_bytes}")

    # What is known since the stop needs no exchange; so an ip that was written meanwhile can wait for the resume.
    def _fetch_registers(self, vcpus: Sequence[int]) -> None:
        if all(vcpu in self._registers for vcpu in vcpus):
            return
        self._write_ips()
        reads = {
            vcpu: self._session.queue(
                f"-data-list-register-values --thread {self._threads[vcpu]} x {self._number_list}"
            )
            for vcpu in vcpus
            if vcpu not in self._registers
        }
        self._exchange()
        for vcpu, result in reads.items():
            check_done(result)
            values = result.register_values
            try:
                self._registers[vcpu] = {name: values[number] for name, number in self._numbers.items()}
            except KeyError:
                raise ProtocolError("gdb gave strange register values", result.line) from None
