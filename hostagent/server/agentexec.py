"""One `endophyte_exec` of a disk image: QEMU's guest agent takes all the input first and gives the output last.

It knows no terminal, no user and no folder; what it is asked for and cannot give is refused and not left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from aiohttp import web
from pydantic import ValidationError

from hostagent.drivers.guest.agent import CommandResult, GuestAgent, GuestCommand
from hostagent.drivers.guest.errors import GuestError
from hostagent.server.execution import BAD, obey, read_options
from hostagent.server.relay import first_of
from vdc.api.execution import ERRORS, INPUT, OUTPUT, ExecMessage, ExecOptions, ExecResult, Window
from vdc.model.errors import Problem

PATIENCE_S: Final = 24 * 3600.0  # whoever waits ends it by going away
MOST_INPUT: Final = 1 << 20
_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CUT: Final = b"vdc: the guest agent has kept only the beginning of the output\n"
_FAILED: Final = 255  # for an exit code that is none of a process here


async def serve(socket: web.WebSocketResponse, agent: GuestAgent, command: Sequence[str], user: str) -> None:
    """Run the command and tell how it ended. One whose client has gone goes on in the guest."""
    options = await read_options(socket)
    if options is None:
        await socket.close(code=BAD, message=b"the first message has to be the options")
        return
    if (problem := _unsupported(options, user)) is not None:
        result: ExecResult | None = ExecResult(problem=problem)
    else:
        result = await _Execution(socket, agent, options, command).run()
    if result is not None and not socket.closed:
        await socket.send_str(ExecMessage(result=result).to_json())
    await socket.close()


def _unsupported(options: ExecOptions, user: str) -> Problem | None:
    wanted = {"a terminal (-t)": options.tty, "another user (-u)": user, "a folder (-w)": options.working_dir}
    for what, is_wanted in wanted.items():
        if is_wanted:
            return Problem(
                code="guest-agent-limited",
                message=f"QEMU's guest agent runs commands without {what}",
                hint="use ssh or vdc console, or leave it to the command: sh -c '...'",
            )
    return None


class _Execution:
    """The work of one."""

    def __init__(
        self, socket: web.WebSocketResponse, agent: GuestAgent, options: ExecOptions, command: Sequence[str]
    ) -> None:
        self._socket = socket
        self._agent = agent
        self._options = options
        self._command = tuple(command)
        self._window = Window()  # what the client may be sent
        self._input = bytearray()
        self._input_ended = asyncio.Event()
        self._result: ExecResult | None = None

    async def run(self) -> ExecResult | None:
        """How it ended; None where the client is gone."""
        await first_of(self._work(), obey(self._socket, self._take, self._obey))
        return self._result

    async def _work(self) -> None:
        await self._input_ended.wait()
        env = (_PATH, *self._options.env) if self._options.env else ()
        command = GuestCommand(argv=self._command, env=env, stdin=bytes(self._input))
        try:
            done = await self._agent.execute(command, deadline_s=PATIENCE_S)
        except GuestError as error:
            self._result = ExecResult(problem=error.problem)
            return
        await self._show(done)
        self._result = ExecResult(exit_code=done.exit_code if 0 <= done.exit_code <= _FAILED else _FAILED)

    async def _show(self, done: CommandResult) -> None:
        for kind, data in ((OUTPUT, done.stdout), (ERRORS, done.stderr + (_CUT if done.is_cut else b""))):
            rest = memoryview(data)
            while rest:
                count = await self._window.take(len(rest))
                await self._socket.send_bytes(kind + bytes(rest[:count]))
                rest = rest[count:]

    async def _take(self, data: bytes) -> bool:
        if data[:1] != INPUT or self._input_ended.is_set():
            return False
        self._input += data[1:]
        if len(self._input) > MOST_INPUT:
            problem = Problem(
                code="input-too-large",
                message=f"QEMU's guest agent takes at most {MOST_INPUT >> 20} MiB of input",
            )
            await self._socket.send_str(ExecMessage(result=ExecResult(problem=problem)).to_json())
            return False
        await self._socket.send_str(ExecMessage(credit=len(data) - 1).to_json())
        return True

    async def _obey(self, text: str) -> bool:
        """Signals and sizes are for nobody: the agent passes none on."""
        try:
            message = ExecMessage.from_json(text)
        except ValidationError:
            return False
        if message.credit:
            self._window.grant(message.credit)
        if message.is_end:
            self._input_ended.set()
        return True
