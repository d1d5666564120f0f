"""Run a sandboxed program that ends by itself (qemu-img), and leave nothing of it where it must be ended early.

Danger: a `bwrap` that is killed between making its child and releasing it leaves that child behind, asleep
for ever: it waits on a pipe of which it holds the other end itself, and `--die-with-parent` is not in force
yet. So whatever was started carries a token in its environment, and is looked for by that after a kill.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import Mapping, Sequence

from hostagent.drivers.process.pidfile import OWNER_VARIABLE, TOKEN_VARIABLE, kill_carriers, owner
from hostagent.drivers.process.spawn import SANDBOX_UMASK, finished
from vdc.confinement.limits import ToolLimits
from vdc.confinement.sandbox import ENVIRONMENT
from vdc.confinement.seccomp import filter_descriptor

MOST_BYTES = 16 << 20  # of what a program says; some thirty times what QEMU says about itself
_GONE_DEADLINE_S = 5.0
_CHUNK_BYTES = 64 << 10


async def run_in_sandbox(
    command: Sequence[str], *, deadline_s: float, stdin: bytes | None = None, limits: ToolLimits | None = None
) -> tuple[int, bytes, bytes]:
    """As `run_tool`, of `bwrap ...`: with the system call filter, and for files that its own user alone may open."""
    with filter_descriptor() as filter_fd:
        full = [command[0], "--seccomp", str(filter_fd), *command[1:]]
        return await run_tool(
            full,
            deadline_s=deadline_s,
            stdin=stdin,
            limits=limits,
            env=ENVIRONMENT,
            pass_fds=(filter_fd,),
            umask=SANDBOX_UMASK,
        )


async def run_tool(
    command: Sequence[str],
    *,
    deadline_s: float,
    stdin: bytes | None = None,
    limits: ToolLimits | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    umask: int = -1,
) -> tuple[int, bytes, bytes]:
    """Run to the end; returns exit status, output and complaint. `env` replaces the agent's own environment.

    Of either no more than MOST_BYTES: what a guest has written may make a tool say as much as it likes.
    Raises FileNotFoundError where the program is missing and TimeoutError at the deadline; then, and when it
    is cancelled, nothing that it started is left.
    """
    token = uuid.uuid4().hex
    process = await asyncio.create_subprocess_exec(
        *(limits.prefix() if limits else ()),
        *command,
        stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**(os.environ if env is None else env), TOKEN_VARIABLE: token, OWNER_VARIABLE: owner()},
        pass_fds=pass_fds,
        umask=umask,
    )
    try:
        async with asyncio.timeout(deadline_s):
            output, complaint = await _communicate(process, stdin)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await finished(_end(process, token))
        raise
    return process.returncode or 0, output, complaint


async def _communicate(process: asyncio.subprocess.Process, stdin: bytes | None) -> tuple[bytes, bytes]:
    """As its own method, which keeps all."""
    assert process.stdout is not None and process.stderr is not None
    output, complaint, *_ = await asyncio.gather(
        _heard(process.stdout), _heard(process.stderr), _say(process.stdin, stdin), process.wait()
    )
    return output, complaint


async def _heard(stream: asyncio.StreamReader) -> bytes:
    """All of it, or its beginning: the rest is read, and dropped."""
    heard = bytearray()
    while chunk := await stream.read(_CHUNK_BYTES):
        heard += chunk[: MOST_BYTES - len(heard)]
    return bytes(heard)


async def _say(stream: asyncio.StreamWriter | None, text: bytes | None) -> None:
    if stream is None or text is None:
        return
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it need not listen to the end
        stream.write(text)
        await stream.drain()
    stream.close()


async def _end(process: asyncio.subprocess.Process, token: str) -> None:
    """Reading to the end comes last: it ends only when everything that holds the program's output has ended."""
    await asyncio.to_thread(kill_carriers, token, _GONE_DEADLINE_S)
    await process.communicate()
    await asyncio.sleep(0)  # the transports of the pipes close one turn later
