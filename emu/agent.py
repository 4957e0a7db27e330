"""Commands in the guest, exactly: their status and every byte of their output.

The other end is ``images/init``, a shell script on the guest's second serial port (ttyS1). The kernel's messages go to
the first, so they cannot get in between. Both ports pass bytes unchanged and in order.

Host to guest, lines::

    RUN <token> <size>      then <size> bytes: a shell script to run
    PUT <token> <size>      then <size> bytes: stored as /run/agent/put.<token>
    SIGNAL <token> <name>   while it runs: kill -s <name> its process group

The bytes go in chunks of at most :data:`CHUNK_BYTES`, each but the first after a GO, because a UART cannot say "wait".

Guest to host, messages that begin with :data:`PREFIX` and end with a newline::

    READY <version> <uname -r>     the agent has started
    GO <token>                     the next chunk, please
    BEGIN <token>                  the output of the command follows, raw
    END <token> <status>           the output is complete

The token is random and never given to the command, so no output can be mistaken for the END of its own command. Bytes
outside BEGIN and END come from background processes of the last command and are dropped. They may live on, but lose
their standard output when the next command begins (SIGPIPE), unless they have redirected it.

Rules: nothing here waits but :meth:`RunningCommand.wait` and what is built upon it; one command at a time; the
command's text is data, it meets no shell but the guest's.
"""

from __future__ import annotations

import contextlib
import secrets
import select
import shlex
import socket
from collections.abc import Callable
from dataclasses import dataclass

from emu.deadline import Deadline
from emu.errors import AgentBusy, AgentError, AgentLost, AgentNotReady, CommandTimeout, TransferError

__all__ = ["CHUNK_BYTES", "PREFIX", "PROTOCOL_VERSION", "Agent", "CommandResult", "RunningCommand"]

#: What ``images/init`` has to announce.
PROTOCOL_VERSION = 1
#: How every message of the guest begins.
PREFIX = b"\x00\x01emu "
#: Much less than what the kernel's tty layer holds (64 KiB, Linux drivers/tty/tty_buffer.c, TTYB_DEFAULT_MEM_LIMIT).
CHUNK_BYTES = 8192

_READ_BYTES = 1 << 16
_PUMP_BYTES = 1 << 20
# The longest message: READY with a uname of at most 64 bytes.
_MESSAGE_BYTES = 256
_SIGNALS = ("HUP", "INT", "QUIT", "TERM", "KILL")


@dataclass(frozen=True, slots=True)
class CommandResult:
    """A command that has ended."""

    #: Its exit status as a shell sees it: 0 to 255, 128 + n when signal n ended it.
    status: int
    #: Standard output and standard error together, in the order of their writes.
    output: bytes

    @property
    def text(self) -> str:
        """The output as text; bytes that are not UTF-8 become U+FFFD."""
        return self.output.decode(errors="replace")


class RunningCommand:
    """A command that the guest runs. Valid until it has ended; its result stays."""

    def __init__(self, agent: Agent, command: str, token: str, keep_output: bool) -> None:
        self._agent = agent
        self._keep = keep_output
        self._output = bytearray()
        self._fresh = bytearray()
        self._status: int | None = None
        self._lost: str | None = None
        #: What was asked for.
        self.command = command
        #: Names it on the wire.
        self.token = token

    def poll(self) -> CommandResult | None:
        """Take in what has come, without waiting; the result once the command has ended.

        :raise AgentLost: when the result will never come.
        :raise GuestLostError: when QEMU has ended (for the agent of a machine).
        """
        if self._status is None and self._lost is None:
            self._agent.pump()
        if self._status is not None:
            return CommandResult(self._status, bytes(self._output))
        if self._lost is not None:
            if self._agent.eof:
                self._agent.explain_eof()
            raise AgentLost(f"{self._lost}; the fate of {self.command!r} is unknown")
        return None

    def take_output(self) -> bytes:
        """The output that has come since the last call (out of what :meth:`poll` has taken in)."""
        fresh = bytes(self._fresh)
        self._fresh.clear()
        return fresh

    def wait(self, deadline: Deadline) -> CommandResult:
        """Wait until the command has ended.

        The guest has to be running: under a debugger, multiplex with :meth:`poll` instead.

        :raise CommandTimeout: at the deadline; the command is still running and can be waited for again.
        :raise AgentLost: when the result will never come.
        :raise GuestLostError: when QEMU has ended (for the agent of a machine).
        """
        while (result := self.poll()) is None:
            if deadline.expired:
                raise CommandTimeout(self.command, deadline.seconds, bytes(self._output))
            self._agent.wait_for_bytes(deadline)
        return result

    # For the agent alone.

    def _feed(self, data: bytes) -> None:
        self._fresh += data
        if self._keep:
            self._output += data

    def _end(self, status: int) -> None:
        self._status = status

    def _lose(self, why: str) -> None:
        if self._status is None:
            self._lost = why


class Agent:
    """The host's end of the guest's command server.

    :param sock: the connected socket to ttyS1; the agent owns it from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._received = bytearray()
        self._to_send = memoryview(b"")
        self._current: RunningCommand | None = None
        self._in_output = False
        # Asked for before the command had begun.
        self._signal_at_begin: str | None = None
        #: The guest's ``uname -r`` once it is ready.
        self.release: str | None = None
        #: Whether the other end of the port is closed (QEMU has ended).
        self.eof = False
        #: How to wait until there may be something to pump. A machine puts its own here, which serves the console too.
        self.wait_for_bytes: Callable[[Deadline], object] = self._wait_alone
        #: Asked when something is wanted of a guest that has closed the port: it may raise what it knows. A machine
        #: puts its own here, so that one error tells of QEMU's end, whoever was the first to see it.
        self.explain_eof: Callable[[], object] = _nothing_known

    @property
    def ready(self) -> bool:
        """Whether the guest has reported that it takes commands."""
        return self.release is not None

    def fileno(self) -> int:
        """For ``select``: readable when :meth:`pump` has something to do. At the end of file it stays readable."""
        return self._sock.fileno()

    def pump(self) -> None:
        """Take in what the guest has sent, without waiting."""
        left = _PUMP_BYTES
        while left > 0 and not self.eof:
            try:
                data = self._sock.recv(_READ_BYTES)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data = b""
            if not data:
                self.eof = True
                self._lose("the agent's port was closed (has QEMU ended?)")
            left -= len(data)
            self._received += data
            self._parse()

    def start(self, command: str, *, keep_output: bool = True) -> RunningCommand:
        """Have the guest run a shell command. Returns at once.

        It runs in ``/`` as root, in a session of its own, standard input from /dev/null, standard output and error
        in one pipe.

        :param command: text for the guest's ``sh``, any length, several lines if you like.
        :param keep_output: False for a command with endless output, which is then only in ``take_output()``.
        :raise AgentNotReady, AgentBusy, AgentLost: when it cannot be started now.
        :raise GuestLostError: when QEMU has ended (for the agent of a machine).
        """
        if "\0" in command:
            raise AgentError(f"a command cannot have a NUL in it: {command!r}")
        return self._request("RUN", command, command.encode(errors="surrogateescape"), keep_output)

    def run(self, command: str, deadline: Deadline) -> CommandResult:
        """Run a shell command and wait for its end: :meth:`start`, then :meth:`RunningCommand.wait`."""
        return self.start(command).wait(deadline)

    def interrupt(self, signal_name: str = "INT") -> None:
        """Send a signal to all processes of the running command. No command, no effect.

        :param signal_name: HUP, INT, QUIT, TERM or KILL.
        """
        if signal_name not in _SIGNALS:
            raise AgentError(f"{signal_name!r} is none of {', '.join(_SIGNALS)}")
        self.pump()
        if self._current is None:
            return
        if self._in_output:
            self._send(f"SIGNAL {self._current.token} {signal_name}\n".encode())
        else:
            self._signal_at_begin = signal_name

    def put(self, path: str, data: bytes, deadline: Deadline, *, mode: int = 0o644) -> None:
        """Write a file in the guest. Some 100 kB/s under TCG; what is known before the boot belongs into the initramfs.

        :raise TransferError: when the guest could not.
        """
        stored = self._request("PUT", f"put {path}", data, True)
        stored.wait(deadline)
        source, target = f"/run/agent/put.{stored.token}", shlex.quote(path)
        done = self.run(f"cat {source} >{target} && chmod {mode:o} {target}; s=$?; rm {source}; exit $s", deadline)
        if done.status != 0:
            raise TransferError(path, done.status, done.output)

    def get(self, path: str, deadline: Deadline) -> bytes:
        """Read a file of the guest.

        :raise TransferError: when the guest could not.
        """
        done = self.run(f"cat -- {shlex.quote(path)}", deadline)
        if done.status != 0:
            raise TransferError(path, done.status, done.output)
        return done.output

    def close(self) -> None:
        """Close our end. May be called twice."""
        self.eof = True
        # What ends from now on ends by us, which explains nothing.
        self.explain_eof = _nothing_known
        self._lose("the agent's port was closed")
        self._sock.close()

    # Section: sending

    def _request(self, verb: str, command: str, payload: bytes, keep_output: bool) -> RunningCommand:
        self.pump()
        if self.eof:
            self.explain_eof()
            raise AgentLost("the agent's port is closed (has QEMU ended?)")
        if not self.ready:
            raise AgentNotReady(f"the guest is not up yet, cannot run {command!r}; wait for the boot first")
        if self._current is not None:
            raise AgentBusy(self._current.command)
        self._signal_at_begin = None
        running = RunningCommand(self, command, secrets.token_hex(8), keep_output)
        self._current = running
        self._to_send = memoryview(payload)
        self._send(f"{verb} {running.token} {len(payload)}\n".encode() + self._next_chunk())
        return running

    def _next_chunk(self) -> bytes:
        chunk, self._to_send = self._to_send[:CHUNK_BYTES], self._to_send[CHUNK_BYTES:]
        return bytes(chunk)

    def _send(self, data: bytes) -> None:
        # Never more than a chunk is on its way, which the socket's buffer always takes (208 KiB by default).
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the end of file will tell
            sent = self._sock.send(data)
            if sent != len(data):
                raise AgentLost(f"the agent's port took {sent} of {len(data)} bytes: the guest has stopped reading it")

    def _wait_alone(self, deadline: Deadline) -> None:
        select.select([self._sock], [], [], deadline.timeout_sec())

    # Section: receiving

    def _parse(self) -> None:
        while (message := self._next_message()) is not None:
            word, _, rest = message.partition(" ")
            if word == "READY":
                self._on_ready(rest)
            elif self._current is not None and rest.split(" ")[0] == self._current.token:
                self._on_answer(word, rest, self._current)

    # The next whole message. What stands before it is output, or nobody's.
    def _next_message(self) -> str | None:
        data = self._received
        start = 0
        while True:
            at = data.find(PREFIX, start)
            if at < 0:
                self._take_output(len(data) - _overlap(data, PREFIX))
                return None
            end = data.find(b"\n", at, at + _MESSAGE_BYTES)
            if end < 0 and len(data) - at < _MESSAGE_BYTES:
                self._take_output(at)
                return None
            if end >= 0 and self._is_message(bytes(data[at + len(PREFIX) : end])):
                self._take_output(at)
                message = bytes(data[len(PREFIX) : end - at])
                del data[: end - at + 1]
                return message.decode(errors="replace")
            start = at + 1

    # Output may happen to look like a message, but not like one with the token of its own command. A READY is only
    # believed outside of output, where nothing but the agent should speak.
    def _is_message(self, message: bytes) -> bool:
        word, _, rest = message.partition(b" ")
        if not self._in_output:
            return True
        assert self._current is not None
        return (word == b"END" and rest.startswith(self._current.token.encode() + b" ")) or word == b"READY"

    def _take_output(self, size: int) -> None:
        if self._in_output and self._current is not None:
            self._current._feed(bytes(self._received[:size]))
        del self._received[:size]

    def _on_ready(self, rest: str) -> None:
        version, _, release = rest.partition(" ")
        self._lose("the agent died in the guest and was started again")
        if version != str(PROTOCOL_VERSION):
            raise AgentError(
                f"the guest's init speaks version {version}, not {PROTOCOL_VERSION}; rebuild the initramfs"
            )
        self.release = release

    def _on_answer(self, word: str, rest: str, current: RunningCommand) -> None:
        if word == "GO":
            self._send(self._next_chunk())
        elif word == "BEGIN":
            self._in_output = True
            if self._signal_at_begin is not None:
                self._send(f"SIGNAL {current.token} {self._signal_at_begin}\n".encode())
                self._signal_at_begin = None
        elif word == "END":
            self._in_output = False
            self._current = None
            current._end(int(rest.split(" ")[1]))

    def _lose(self, why: str) -> None:
        self._in_output = False
        current, self._current = self._current, None
        if current is not None:
            current._lose(why)


def _nothing_known() -> None:
    """Leave it at the agent's own error."""


def _overlap(data: bytearray, prefix: bytes) -> int:
    # How many of the last bytes may be the beginning of the prefix.
    return next((size for size in range(len(prefix) - 1, 0, -1) if data.endswith(prefix[:size])), 0)
