"""A running QEMU: launch it, talk to it, and be sure that it ends.

::

    with Machine(MachineSpec(kernel=..., initramfs=...)) as machine:
        machine.wait_boot(Deadline(60))
        print(machine.agent.run("uname -a", Deadline(10)).text)

Rules:

1. QEMU never outlives the process that launched it: the kernel kills it when the launching thread ends, however that
   ends (``PR_SET_PDEATHSIG``). So launch from a thread that lasts, best the only one.
2. Nothing here blocks but methods that take a :class:`~emu.deadline.Deadline`. A loop of one's own selects on
   :meth:`Machine.filenos` and calls :meth:`Machine.pump`.
3. Nothing is left behind: no file is made (QEMU itself makes ``gdb_socket`` where one is asked for).
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import subprocess
from types import TracebackType
from typing import Any, Self

from emu.agent import Agent
from emu.argv import QEMUFds, qemu_argv
from emu.console import Console
from emu.deadline import Deadline
from emu.errors import BootTimeout, GuestLostError, GuestPanicError, LaunchError, MachineStateError
from emu.pdeathsig import die_with_parent
from emu.qmp import QMP
from emu.spec import MachineSpec

__all__ = ["Machine"]

# QEMU has no state worth a farewell, so it is killed; that is over in milliseconds, except under heavy load.
_KILL_SEC = 30.0
# Between the end of file on QEMU's sockets and its end as a process.
_EXIT_SEC = 10.0
_STDERR_LINES = 20


class Machine:
    """A machine, as a context manager: launched inside, gone outside.

    :param spec: what to boot.
    """

    def __init__(self, spec: MachineSpec) -> None:
        self.spec = spec
        #: QEMU's arguments, once launched.
        self.argv: tuple[str, ...] = ()
        #: The connected socket to QEMU's gdbstub, for a client of the remote protocol. None without a gdbstub, and
        #: with one at :attr:`MachineSpec.gdb_socket`. Closed by :meth:`shutdown`.
        self.gdb_socket: socket.socket | None = None
        #: A QMP monitor for the client of the gdbstub alone, as yet silent. None without a gdbstub.
        self.gdb_qmp_socket: socket.socket | None = None
        #: The guest's RAM, where it is shared: a physical address below 3 GiB is the offset. Writes to code that the
        #: guest has executed are not seen by TCG's translations. Valid until :meth:`shutdown`.
        self.ram: mmap.mmap | None = None
        #: The file behind it, -1 for none: which pages the guest has ever touched is its data, the rest are holes.
        self.ram_fd = -1
        #: Readable when the guest has written to port 0xe9, where there is a doorbell. Closed by :meth:`shutdown`.
        self.doorbell: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._console: Console | None = None
        self._agent: Agent | None = None
        self._qmp: QMP | None = None
        self._stderr_fd = -1

    def __enter__(self) -> Self:
        self.launch()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    # Section: life

    def launch(self) -> None:
        """Start QEMU. Returns before the guest is up; what QEMU dislikes shows in :meth:`wait_boot`.

        :raise SpecError: when the host lacks something.
        :raise LaunchError: when the program cannot be started at all.
        """
        if self._process is not None:
            raise MachineStateError("this machine was launched before; make a new one")
        self.spec.check_host()
        theirs: list[int] = []
        try:
            self._start(theirs)
        except BaseException:
            self.shutdown()
            raise
        finally:
            for fd in theirs:
                os.close(fd)

    def shutdown(self) -> None:
        """End QEMU at once, without a word to the guest, and free everything. May be called twice."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(_KILL_SEC)
        if self._console is not None:
            self._console.receive()
            self._console.close()
        for end in (self._agent, self._qmp, self.gdb_socket, self.gdb_qmp_socket, self.doorbell, self.ram):
            if end is not None:
                end.close()
        for fd in (self._stderr_fd, self.ram_fd):
            if fd >= 0:
                os.close(fd)
        self._stderr_fd = self.ram_fd = -1
        self.unlink_gdb_socket()

    def poll(self) -> int | None:
        """QEMU's exit code, -n for signal n, None while it runs."""
        return self._launched().poll()

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._launched().pid

    # Section: the guest

    @property
    def console(self) -> Console:
        """The guest's console."""
        self._launched()
        assert self._console is not None
        return self._console

    @property
    def agent(self) -> Agent:
        """Runs commands in the guest, once it is up."""
        self._launched()
        assert self._agent is not None
        return self._agent

    def filenos(self) -> list[int]:
        """What to ``select`` on for reading; call :meth:`pump` when one is ready."""
        assert self._qmp is not None
        return [self.console.fileno(), self.agent.fileno(), *self._qmp.filenos()]

    def pump(self) -> list[str]:
        """Take in what has come from the guest, without waiting, and return the new lines of the console.

        :raise GuestPanicError: when the guest's kernel has panicked.
        :raise GuestLostError: when QEMU has ended otherwise.
        """
        self._serve()
        return self.console.pump()

    def wait(self, deadline: Deadline) -> None:
        """Wait until there is something from the guest (or the deadline expires), and take it in.

        New lines of the console stay for the next :meth:`pump`.

        :raise GuestPanicError, GuestLostError: as :meth:`pump`.
        """
        select.select(self.filenos(), [], [], deadline.timeout_sec())
        self._serve()

    def wait_boot(self, deadline: Deadline) -> None:
        """Wait until the guest takes commands. It has to be running.

        :raise BootTimeout: at the deadline; the guest is left as it is.
        :raise GuestPanicError: when its kernel panics.
        :raise LaunchError: when QEMU ends.
        """
        while not self.agent.ready:
            if deadline.expired:
                raise BootTimeout(deadline.seconds, self.console.tail())
            try:
                self.wait(deadline)
            except GuestPanicError:
                raise
            except GuestLostError as error:
                raise LaunchError(self.argv, error.exit_code, error.stderr_tail, error.console_tail) from None

    def qmp(self, command: str, deadline: Deadline, **arguments: object) -> Any:
        """Execute a QMP command and return what QEMU returns. Works with the guest running or stopped.

        :raise QMPError: when QEMU refuses it or does not answer.
        """
        self._launched()
        assert self._qmp is not None
        return self._qmp.execute(command, arguments, deadline)

    def stderr_tail(self) -> list[str]:
        """The last lines that QEMU itself has written."""
        if self._stderr_fd < 0:
            return []
        size = os.fstat(self._stderr_fd).st_size
        data = os.pread(self._stderr_fd, 1 << 14, max(0, size - (1 << 14)))
        return data.decode(errors="replace").splitlines()[-_STDERR_LINES:]

    def unlink_gdb_socket(self) -> None:
        """Remove the socket file of the gdbstub. Do so once gdb is connected, and nothing can be left behind."""
        if self.spec.gdb_socket is not None:
            self.spec.gdb_socket.unlink(missing_ok=True)

    # Private parts

    def _launched(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise MachineStateError("the machine is not launched; use it as a context manager")
        return self._process

    # theirs: collects the descriptors that are QEMU's, to be closed here in any case.
    def _start(self, theirs: list[int]) -> None:
        def pair() -> tuple[socket.socket, int]:
            ours, other = socket.socketpair()
            theirs.append(other.detach())
            return ours, theirs[-1]

        console, console_fd = pair()
        self._console = Console(console)
        agent, agent_fd = pair()
        self._agent = Agent(agent)
        self._agent.wait_for_bytes = self.wait
        self._agent.explain_eof = self._raise_lost
        qmp, qmp_fd = pair()
        self._qmp = QMP(qmp)
        gdb_fd = gdb_qmp_fd = None
        if self.spec.gdbstub:
            self.gdb_qmp_socket, gdb_qmp_fd = pair()
        if self.spec.gdbstub and self.spec.gdb_socket is None:
            self.gdb_socket, gdb_fd = pair()
        initramfs_fd = None
        if isinstance(self.spec.initramfs, bytes):
            initramfs_fd = _memory_file("initramfs", self.spec.initramfs)
            theirs.append(initramfs_fd)
        ram_fd = None
        if self.spec.shared_ram:
            ram_fd = _memory_file("guest-ram", b"")
            theirs.append(ram_fd)
            os.ftruncate(ram_fd, self.spec.memory_mib << 20)
            self.ram = mmap.mmap(ram_fd, self.spec.memory_mib << 20)
            self.ram_fd = os.dup(ram_fd)
        doorbell_fd = None
        if self.spec.doorbell:
            self.doorbell, doorbell_fd = pair()
        self._stderr_fd = _memory_file("qemu-stderr", b"")
        fds = QEMUFds(
            console=console_fd,
            agent=agent_fd,
            qmp=qmp_fd,
            gdb=gdb_fd,
            gdb_qmp=gdb_qmp_fd,
            initramfs=initramfs_fd,
            ram=ram_fd,
            doorbell=doorbell_fd,
        )
        self.argv = tuple(qemu_argv(self.spec, fds))
        try:
            self._process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=self._stderr_fd,
                stderr=self._stderr_fd,
                pass_fds=theirs,
                preexec_fn=die_with_parent(),
                # Ctrl-C on our terminal is for us to handle, not for QEMU to die from.
                process_group=0,
            )
        except OSError as error:
            raise LaunchError(self.argv, None, [str(error)]) from error

    def _serve(self) -> None:
        self.console.receive()
        self.agent.pump()
        assert self._qmp is not None
        self._qmp.drain()
        if self.console.eof or self.agent.eof:
            self._raise_lost()

    def _raise_lost(self) -> None:
        try:
            exit_code: int | None = self._launched().wait(_EXIT_SEC)
        except subprocess.TimeoutExpired:
            exit_code = None
        self.console.receive()
        if self.console.panicked:
            raise GuestPanicError(self.console.tail(40), exit_code)
        raise GuestLostError("the guest has ended", exit_code, self.console.tail(), self.stderr_tail())


def _memory_file(name: str, data: bytes) -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return fd
