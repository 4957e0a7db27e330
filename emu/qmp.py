"""QMP on demand, through ``qemu.qmp``, from code that is not asynchronous.

QEMU sends events only to a client that has negotiated (QEMU 7.2, monitor/monitor.c,
``monitor_qapi_event_emit``), so the socket may lie unused for as long as one likes. After the first command it must be
drained: a debugger that stops and resumes the guest causes two events each time.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
from collections.abc import Mapping
from typing import Any

from qemu.qmp import QMPClient
from qemu.qmp.error import QMPError as ClientError
from qemu.qmp.qmp_client import ExecuteError

from emu.deadline import Deadline
from emu.errors import QMPError

__all__ = ["QMP"]


class QMP:
    """One QMP connection.

    :param sock: the connected socket; owned from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: QMPClient | None = None

    def filenos(self) -> list[int]:
        """For ``select``: what makes :meth:`drain` worth calling. Empty until the first command."""
        return [] if self._client is None else [self._sock.fileno()]

    def execute(self, command: str, arguments: Mapping[str, object], deadline: Deadline) -> Any:
        """Execute a command and return what QEMU returns.

        :raise QMPError: when QEMU refuses it, does not answer in time, or is gone.
        """
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        try:
            return self._loop.run_until_complete(
                asyncio.wait_for(self._execute(command, arguments), deadline.timeout_sec())
            )
        except TimeoutError:
            raise QMPError(command, f"no answer after {deadline.seconds:g} s") from None
        except ExecuteError as error:
            raise QMPError(command, f"QEMU refuses: {error}") from error
        except (ClientError, OSError, EOFError) as error:
            raise QMPError(command, f"the connection failed: {error or type(error).__name__}") from error

    def drain(self) -> None:
        """Read and drop the events that have come, without waiting."""
        if self._client is None or self._loop is None:
            return
        if select.select([self._sock], [], [], 0)[0]:
            # A few turns of the loop: one reads the socket, the next ones take the messages apart.
            self._loop.run_until_complete(_turns(4))
        self._client.events.clear()

    def close(self) -> None:
        """Close the connection. May be called twice."""
        if self._loop is not None:
            if self._client is not None:
                try:
                    self._loop.run_until_complete(self._client.disconnect())
                except (ClientError, OSError, EOFError) as error:
                    logging.getLogger(__name__).debug("QMP connection ended with %r", error)
            self._loop.close()
            self._loop = self._client = None
        self._sock.close()

    async def _execute(self, command: str, arguments: Mapping[str, object]) -> Any:
        if self._client is None:
            client = QMPClient("emu")
            await client.connect(self._sock)
            self._client = client
        return await self._client.execute(command, dict(arguments) or None)


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
