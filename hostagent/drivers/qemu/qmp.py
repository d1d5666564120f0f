"""One QMP session: commands with deadlines, events with arrival times, and a clear end.

    QmpError
    ├── QmpUnreachableError  nobody answers at the socket, or not as QEMU does       (unavailable)
    ├── QmpTimeoutError      the deadline passed; whether the command ran is unknown  (unavailable)
    ├── QmpClosedError       the session ended; whether the command ran is unknown    (unavailable)
    ├── QmpGarbledError      the command ran, and its answer is none                  (unavailable)
    └── QmpCommandError      QEMU understood and refused; it did not run              (refused)

A lost session says nothing about the guest: only the process's end does. QEMU takes one client per socket; a
second one waits unanswered until the first has gone. Commands are answered in their order, so one that hangs
QEMU's main loop delays all later ones; only out-of-band commands overtake it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from qemu.qmp import ConnectError, ExecuteError, QMPClient, QMPError, Runstate

from hostagent.drivers.process.foreign import connect_foreign
from hostagent.drivers.qemu.replies import event, line, misfit
from vdc.model.errors import RefusedError, UnavailableError, VdcError

_log = logging.getLogger(__name__)

_RETRY_S = 0.01

EventListener = Callable[[str, dict[str, Any], float], None]


class QmpError(VdcError):
    """Base of what can go wrong with a session."""

    default_code = "qmp"


class QmpUnreachableError(QmpError, UnavailableError):
    """Nobody answers at the socket, or what answers does not speak QMP."""

    default_code = "qmp-unreachable"


class QmpTimeoutError(QmpError, UnavailableError):
    """The deadline passed without a reply; QEMU may still execute the command later."""

    default_code = "qmp-timeout"


class QmpClosedError(QmpError, UnavailableError):
    """The session ended before the reply came."""

    default_code = "qmp-closed"


class QmpGarbledError(QmpError, UnavailableError):
    """What came back is not what QEMU answers to this command."""

    default_code = "qmp-garbled"


class QmpCommandError(QmpError, RefusedError):
    """QEMU refused the command. `error_class` is nearly always GenericError; `description` is for people."""

    default_code = "qmp-refused"

    def __init__(self, command: str, error_class: str, description: str) -> None:
        super().__init__(f"QEMU refused {command}: {description}")
        self.command = command
        self.error_class = error_class
        self.description = description


class QmpSession:
    """A connected session, made by `connect`. It ends by `close`, with QEMU, or by what is not QMP."""

    def __init__(self, client: Any, sock: socket.socket, name: str) -> None:
        self.name = name
        self.closed = asyncio.Event()
        self.on_closed: Callable[[], None] | None = None
        self._client = client
        self._socket = sock
        self._listeners: list[EventListener] = []
        self._giving = asyncio.Lock()
        self._tasks = [
            asyncio.create_task(self._pump_events(), name=f"qmp-events-{name}"),
            asyncio.create_task(self._watch(), name=f"qmp-watch-{name}"),
        ]

    @classmethod
    async def connect(
        cls, path: Path, *, name: str, deadline_s: float = 5.0, is_starting: bool = False
    ) -> Self:
        """Connect and negotiate; raises QmpUnreachableError. The path may be longer than a socket address.

        While QEMU `is_starting` its socket may not be there yet, or not be listened to; that is waited for.
        """
        client = QMPClient(name)
        sock: socket.socket | None = None
        try:
            async with asyncio.timeout(deadline_s):
                sock = await _open(path, is_starting=is_starting)
                await client.connect(sock)
        except (TimeoutError, OSError, ConnectError) as error:
            if sock is not None:
                sock.close()
            reason = str(error) or f"no greeting within {deadline_s:g} s"
            raise QmpUnreachableError(f"QMP of {name} does not answer: {reason}") from error
        except BaseException:
            if sock is not None:
                sock.close()
            raise
        return cls(client, sock, name)

    async def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, deadline_s: float = 2.0
    ) -> Any:
        """Run one command and return its value; raises a QmpError."""
        return await self._run(command, arguments, deadline_s, oob=False)

    async def execute_oob(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, deadline_s: float = 2.0
    ) -> Any:
        """As `execute`, out of band: answered even while QEMU's main loop hangs. Few commands can do that."""
        return await self._run(command, arguments, deadline_s, oob=True)

    async def give(self, name: str, sock: socket.socket, *, deadline_s: float = 2.0) -> None:
        """Let QEMU have a duplicate of a socket under `name`, until a command takes it. Raises a QmpError.

        A duplicate of that name that was not taken is closed. One at a time: QEMU gives what came last the name.
        """
        async with self._giving:
            if self.closed.is_set():
                raise QmpClosedError(f"the QMP session of {self.name} has ended (getfd)")
            try:
                # Commands are small and QEMU reads them at once: none of them waits half sent in this stream.
                socket.send_fds(self._socket, [b" "], [sock.fileno()])
            except OSError as error:
                raise QmpClosedError(f"the QMP session of {self.name} ended during getfd") from error
            await self.execute("getfd", {"fdname": name}, deadline_s=deadline_s)

    def add_listener(self, listener: EventListener) -> Callable[[], None]:
        """Call `listener(event, data, monotonic_s)` for every event; returns what takes it away again."""
        self._listeners.append(listener)

        def remove() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return remove

    async def close(self, *, deadline_s: float = 2.0) -> None:
        """End the session; idempotent. QEMU itself is not affected."""
        with contextlib.suppress(OSError):
            # The reader sees the end of the stream; nothing waits for a QEMU that does not read.
            self._socket.shutdown(socket.SHUT_RDWR)
        try:
            async with asyncio.timeout(deadline_s):
                await self.closed.wait()
        except TimeoutError:
            _log.warning("the QMP session of %s did not end in time", self.name)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(
        self, command: str, arguments: Mapping[str, Any] | None, deadline_s: float, *, oob: bool
    ) -> Any:
        if self.closed.is_set():
            raise QmpClosedError(f"the QMP session of {self.name} has ended ({command})")
        try:
            async with asyncio.timeout(deadline_s):
                reply = await self._client.execute(str(command), arguments, oob=oob)
        except TimeoutError as error:
            raise QmpTimeoutError(
                f"QEMU {self.name} did not answer {command} within {deadline_s:g} s"
            ) from error
        except ExecuteError as error:
            raise QmpCommandError(command, line(error.error_class), line(error)) from error
        except QMPError as error:
            raise QmpClosedError(f"the QMP session of {self.name} ended during {command}") from error
        if found := misfit(command, reply):
            raise QmpGarbledError(f"QEMU {self.name} answered {command} with something else: {found}")
        return reply

    async def _pump_events(self) -> None:
        async for message in self._client.events:
            arrived = time.monotonic()
            found = event(message)
            for listener in tuple(self._listeners) if found else ():
                assert found is not None
                try:
                    listener(*found, arrived)
                except Exception:
                    _log.exception("a listener of %s failed on %s", self.name, found[0])

    async def _watch(self) -> None:
        """Reap the client's tasks as soon as the connection ends, for whatever reason."""
        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()
        try:
            await self._client.disconnect()
        except Exception as error:  # the cause of the end: EOF, a reset, garbage
            _log.info("the QMP session of %s ended: %s", self.name, error or type(error).__name__)
        self.closed.set()
        if self.on_closed is not None:
            self.on_closed()


async def _open(path: Path, *, is_starting: bool) -> socket.socket:
    while True:
        try:
            return await connect_foreign(path)
        except (FileNotFoundError, ConnectionRefusedError):
            if not is_starting:
                raise
            await asyncio.sleep(_RETRY_S)
