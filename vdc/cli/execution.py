"""`vdc exec`: this terminal, or these pipes, joined to a command in a container's guest.

Standard output and standard error stay apart. Whoever reads them may take his time: what is printed is printed in a
thread, and the guest is given credit for it afterwards.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from aiohttp import ClientWebSocketResponse, WSMsgType

from vdc.api.client import ApiClient
from vdc.api.execution import ERRORS, INPUT, MOST_BYTES, OUTPUT, ExecMessage, ExecOptions, ExecResult, Window
from vdc.cli.errors import print_problem
from vdc.cli.terminal import ESCAPE, Input, raw_terminal
from vdc.model.errors import Problem

EXIT_LOST: Final = 255  # as ssh has it: the command may have gone on, or not
EXIT_REFUSED: Final = 126  # as shells have it: it could not be run
ESCAPES: Final = 3  # Ctrl-] so often in a row leaves a command that has the terminal
_NOTHING: Final = "/dev/null"


async def run_command(
    api: ApiClient, name: str, command: Sequence[str], options: ExecOptions, *, user: str, has_input: bool
) -> int:
    """The command's exit code; EXIT_LOST or EXIT_REFUSED, with one line that says why, where there is none."""
    descriptor = sys.stdin.fileno() if has_input else os.open(_NOTHING, os.O_RDONLY)
    async with api.endophyte_exec(name, command, user) as socket:
        await socket.send_str(options.to_json())
        is_raw = options.tty and has_input
        session = _Session(socket, is_raw=is_raw)
        with _raw(descriptor, wanted=is_raw), _signals(session, options.tty):
            result = await session.run(descriptor)
    if result is not None and result.exit_code is not None:
        return result.exit_code
    problem = result.problem if result is not None else None
    print_problem(problem or _lost(name))
    return EXIT_REFUSED if problem is not None and problem.code == "guest-refused" else EXIT_LOST


def terminal_size() -> tuple[int, int]:
    """Rows and columns."""
    size = shutil.get_terminal_size()
    return max(1, size.lines), max(1, size.columns)


def _lost(name: str) -> Problem:
    return Problem(
        code="exec-lost",
        message=f"the connection to {name} was lost: whether the command has ended is not known",
        hint=f"did it move to another host? vdc get endophyte {name}",
    )


@contextmanager
def _raw(descriptor: int, *, wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    with raw_terminal(descriptor):
        yield


@contextmanager
def _signals(session: _Session, is_tty: bool) -> Iterator[None]:
    """Ctrl-C is the command's; a second one ends this program, and the command with it. A terminal's size as well."""
    loop = asyncio.get_running_loop()
    handled = [signal.SIGWINCH] if is_tty else [signal.SIGINT, signal.SIGTERM]
    task = asyncio.current_task()
    assert task is not None
    signalled: set[int] = set()

    def on_signal(number: signal.Signals) -> None:
        if number is signal.SIGWINCH:
            session.say(ExecMessage(resize=terminal_size()))
        elif number in signalled:
            task.cancel()
        else:
            signalled.add(number)
            session.say(ExecMessage(signal=number.name.removeprefix("SIG")))

    for number in handled:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


class _Session:
    """One command, from the options to its result."""

    def __init__(self, socket: ClientWebSocketResponse, *, is_raw: bool) -> None:
        self._socket = socket
        self._is_raw = is_raw
        self._escapes = 0
        self._window = Window()  # what the agent may be sent
        self._printing: asyncio.Queue[tuple[Any, bytes] | None] = (
            asyncio.Queue()
        )  # bounded by the credit given
        self._saying: set[asyncio.Task[None]] = set()

    async def run(self, descriptor: int) -> ExecResult | None:
        """How it ended; None where nobody says."""
        with _input(descriptor) as chunks:
            sending = asyncio.create_task(self._send(chunks), name="exec input")
            printing = asyncio.create_task(self._print(), name="exec output")
            receiving = asyncio.create_task(self._receive(), name="exec messages")
            try:
                await asyncio.wait({receiving, printing}, return_when=asyncio.FIRST_COMPLETED)
                if not printing.done():  # else whoever read the output is gone
                    self._printing.put_nowait(None)
                await printing
                return await receiving
            finally:
                tasks = (sending, printing, receiving, *self._saying)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def say(self, message: ExecMessage) -> None:
        """Send it as soon as that is possible."""
        task = asyncio.create_task(self._say(message))
        self._saying.add(task)
        task.add_done_callback(self._saying.discard)

    async def _say(self, message: ExecMessage) -> None:
        with suppress(ConnectionError):
            await self._socket.send_str(message.to_json())

    async def _receive(self) -> ExecResult | None:
        async for message in self._socket:
            if message.type is WSMsgType.BINARY:
                stream = {OUTPUT: sys.stdout.buffer, ERRORS: sys.stderr.buffer}.get(message.data[:1])
                if stream is not None:
                    self._printing.put_nowait((stream, message.data[1:]))
            elif message.type is WSMsgType.TEXT:
                said = ExecMessage.from_json(message.data)
                self._window.grant(said.credit)
                if said.result is not None:
                    return said.result
        return None

    async def _print(self) -> None:
        while (piece := await self._printing.get()) is not None:
            stream, data = piece
            await asyncio.to_thread(_put, stream, data)
            await self._say(ExecMessage(credit=len(data)))

    async def _send(self, chunks: AsyncIterator[bytes]) -> None:
        with suppress(ConnectionError):
            async for chunk in chunks:
                if self._leaves(chunk):
                    await self._socket.close()
                rest = chunk
                while rest:
                    count = await self._window.take(len(rest))
                    await self._socket.send_bytes(INPUT + rest[:count])
                    rest = rest[count:]
            await self._socket.send_str(ExecMessage(is_end=True).to_json())

    def _leaves(self, typed: bytes) -> bool:
        """Whether somebody at a terminal whose keys are all the command's wants no more of it."""
        self._escapes = self._escapes + 1 if self._is_raw and typed == ESCAPE else 0
        return self._escapes >= ESCAPES


@contextmanager
def _input(descriptor: int) -> Iterator[AsyncIterator[bytes]]:
    """What comes from it. A file is read piece by piece, in a thread: it has no end that has to be waited for."""
    kind = os.fstat(descriptor).st_mode
    if not (os.isatty(descriptor) or stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)):
        yield _of_file(descriptor)
        return
    with Input(descriptor).reading() as keys:
        yield _of_queue(keys)


async def _of_file(descriptor: int) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(os.read, descriptor, MOST_BYTES):
        yield chunk


async def _of_queue(keys: asyncio.Queue[bytes | None]) -> AsyncIterator[bytes]:
    while (chunk := await keys.get()) is not None:
        yield chunk


def _put(stream: Any, data: bytes) -> None:
    stream.write(data)
    stream.flush()
