"""Start programs that outlive the agent.

A started program has its own session, reads from /dev/null, writes to its log, and inherits no descriptor
but the ones that are passed. The death of the agent, by whatever signal, does not reach it (a service
manager must be told so too: `KillMode=process`).

A sandboxed program (bubblewrap) has a monitor process as its parent. bubblewrap says on its JSON status
descriptor which child is the program; that one is what a handle means. The monitor ends by itself after it.
Danger: with `--unshare-pid` the child is to be the program itself (`--as-pid-1`), not a reaper, which would ignore
SIGTERM; and as process 1 of its namespace the program has to handle SIGTERM itself to be ended by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hostagent.drivers.process.errors import ProcessStartError
from hostagent.drivers.process.handle import KILL_DEADLINE_S, ProcessHandle, Watched
from hostagent.drivers.process.identity import (
    ProcessIdentity,
    boot_id,
    stat_of,
)
from hostagent.drivers.process.pidfile import (
    OWNER_VARIABLE,
    TOKEN_VARIABLE,
    PidRecord,
    kill_carriers,
    new_record,
    owner,
    remove_pidfile,
    write_pidfile,
)
from vdc.confinement.sandbox import ENVIRONMENT
from vdc.confinement.seccomp import FAMILIES, filter_descriptor

SANDBOX_UMASK = 0o077
_STATUS_DEADLINE_S = 10.0
_LOG_LIMIT_BYTES = 16 << 20
_LOG_TAIL_BYTES = 2000
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Request:
    """What is to be started, and where it is recorded."""

    argv: tuple[str, ...]
    record: PidRecord
    pidfile: Path
    log_path: Path
    env: Mapping[str, str] | None
    cwd: Path | None
    pass_fds: tuple[int, ...]
    umask: int = -1
    join: Callable[[int], None] = lambda pid: None
    release: Callable[[], None] = lambda: None


async def spawn(
    argv: Sequence[str],
    *,
    pidfile: Path,
    log_path: Path,
    tag: str = "",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> ProcessHandle:
    """Start `argv` and record it durably in `pidfile` before this returns.

    `env` replaces the environment (None: the agent's own). Raises ProcessStartError, and then nothing runs
    and no pidfile is left; cancelled, the same.
    """
    record = new_record(argv[0], tag, is_sandboxed=False)
    return await _start(_Request(tuple(argv), record, pidfile, log_path, env, cwd, tuple(pass_fds)), None)


async def spawn_in_sandbox(
    argv: Sequence[str],
    *,
    pidfile: Path,
    log_path: Path,
    tag: str = "",
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    niceness: int | None = None,
    families: Sequence[int] = FAMILIES,
    join: Callable[[int], None] = lambda pid: None,
) -> ProcessHandle:
    """Start `bwrap ...` and record the program inside it; its status descriptor and system call filter are added.

    `niceness` is the program's own; None: that of the agent, which is above its guests'. `families` are the address
    families that it may open sockets of. `join` puts a process into the program's control group,
    before it begins. Files that the program makes are open to its own user alone.

    As `spawn`; ProcessStartError carries the end of the log where the sandbox could not be made or where the
    program ended before it could be identified.
    """
    status = StatusPipe()
    try:
        record = new_record(argv[0], tag, is_sandboxed=True)
        with filter_descriptor(families) as filter_fd, gate() as (closed, opener):
            added = ("--json-status-fd", str(status.writer.fileno()), "--seccomp", str(filter_fd))
            full = (*_renice(niceness), argv[0], *added, "--block-fd", str(closed), *argv[1:])
            fds = (*pass_fds, status.writer.fileno(), filter_fd, closed)
            request = _Request(
                full, record, pidfile, log_path, ENVIRONMENT, cwd, fds, SANDBOX_UMASK, join, opener
            )
            return await _start(request, status)
    except BaseException:
        status.reader.close()
        raise
    finally:
        status.writer.close()


@contextlib.contextmanager
def gate() -> Iterator[tuple[int, Callable[[], None]]]:
    """A descriptor for `--block-fd`, and what lets the program begin: its end, of which the agent's death is one."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    opened = os.fdopen(writer, "wb", buffering=0)
    try:
        yield reader, opened.close
    finally:
        opened.close()
        os.close(reader)


def _renice(niceness: int | None) -> tuple[str, ...]:
    """The command prefix that changes the niceness; `nice` executes the rest, so the pid stays."""
    if niceness is None:
        return ()
    return ("nice", "-n", str(niceness - os.getpriority(os.PRIO_PROCESS, 0)))


async def _start(request: _Request, status: StatusPipe | None) -> ProcessHandle:
    children: list[Watched] = []
    try:
        log_start = await in_thread(_prepare, request)
        child = _fork(request)
        children.append(child)
        request.join(child.identity.pid)
        program, monitor = child, None
        if status is not None:
            status.writer.close()
            # Not to be interrupted: killing the monitor before the program is known would leave it behind.
            program = await finished(_program_of(children, status, request.log_path, log_start))
            monitor = child
            request.join(program.identity.pid)  # it was made before its parent was in the group
            request.release()
            child.keep_open(status.reader)
        record = request.record.with_(
            identity=program.identity, monitor=monitor.identity if monitor else None
        )
        await in_thread(write_pidfile, request.pidfile, record)
    except BaseException:
        _kill_all(children, request.record.token)
        remove_pidfile(request.pidfile, request.record.token)
        await _all_ended(children)
        raise
    return ProcessHandle(
        program, monitor=monitor, pidfile=request.pidfile, token=record.token, tag=record.tag
    )


def _prepare(request: _Request) -> int:
    """Announce the start in the pidfile; return the log's present length."""
    try:
        rotate_if_large(request.log_path)
        write_pidfile(request.pidfile, request.record)
    except OSError as error:
        raise ProcessStartError(request.record.argv0, f"{error.strerror}: {error.filename}") from error
    return request.log_path.stat().st_size if request.log_path.exists() else 0


def _fork(request: _Request) -> Watched:
    environment = {
        **(os.environ if request.env is None else request.env),
        TOKEN_VARIABLE: request.record.token,
        OWNER_VARIABLE: owner(),
    }
    try:
        with request.log_path.open("ab") as log:
            child = subprocess.Popen(
                request.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=request.cwd,
                pass_fds=request.pass_fds,
                start_new_session=True,
                umask=request.umask,
                restore_signals=False,  # SIGXFSZ stays ignored: a limit is an error of one file, not the end
            )
    except (OSError, ValueError) as error:
        raise ProcessStartError(request.argv[0], str(error)) from error
    # Not reaped yet, so the pid is certainly this child's, even if it has ended already.
    pidfd = os.pidfd_open(child.pid)
    child.returncode = 0  # the handle reaps; tells Popen that there is nothing left for it to do
    stat = stat_of(child.pid)
    start_ticks = stat.start_ticks if stat else 0
    identity = ProcessIdentity(pid=child.pid, start_ticks=start_ticks, boot_id=boot_id())
    return Watched(identity, pidfd, is_child=True)


async def _program_of(children: list[Watched], status: StatusPipe, log_path: Path, log_start: int) -> Watched:
    """Learn from the sandbox, the first of `children`, which process is the program, and add that."""
    monitor, message = children[0], ""
    try:
        async with asyncio.timeout(_STATUS_DEADLINE_S):
            pid = await status.child_pid()
    except TimeoutError:
        pid, message = None, f"the sandbox did not start within {_STATUS_DEADLINE_S:g} s"
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            stat = stat_of(pid)
            # A later process with that pid would have another parent.
            if stat is not None and stat.parent_pid == monitor.identity.pid and not stat.is_zombie:
                identity = ProcessIdentity(pid=pid, start_ticks=stat.start_ticks, boot_id=boot_id())
                children.append(Watched(identity, pidfd, is_child=False))
                return children[-1]
            os.close(pidfd)
        message = "it ended at once"
    tail = await asyncio.to_thread(_tail, log_path, log_start)
    reason = message or tail[tail.rfind("\n") + 1 :] or "the sandbox ended"
    raise ProcessStartError("the sandboxed program", reason, hint=tail)


def _kill_all(children: Sequence[Watched], token: str) -> None:
    """Kill what was started; a program that its sandbox has not named yet is known by its token."""
    for one in reversed(children):
        one.send(signal.SIGKILL)
    if len(children) == 1:
        kill_carriers(token)


async def _all_ended(children: Sequence[Watched]) -> None:
    try:
        async with asyncio.timeout(KILL_DEADLINE_S):
            for one in children:
                await one.ended.wait()
    except TimeoutError:
        return  # it hangs in the kernel; the event loop reaps it when it ends


class StatusPipe:
    """bubblewrap's `--json-status-fd`: one JSON object a line, the first with `child-pid`."""

    def __init__(self) -> None:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reader, False)
        self.reader = os.fdopen(reader, "rb", buffering=0)
        self.writer = os.fdopen(writer, "wb", buffering=0)

    async def child_pid(self) -> int | None:
        """Wait for the program's pid; None where the sandbox ended without one."""
        text = b""
        while True:
            pid = parse_child_pid(text)
            if pid is not None:
                return pid
            await self._readable()
            chunk = self.reader.read(4096)
            if chunk == b"":
                return None
            text += chunk or b""

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self.reader, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self.reader)


def parse_child_pid(text: bytes) -> int | None:
    """The program's pid in what the sandbox has said so far; None where it has not said it yet."""
    for line in text.splitlines(keepends=True):
        if line.endswith(b"\n"):
            with contextlib.suppress(ValueError):
                message = json.loads(line)
                if isinstance(message, dict) and isinstance(message.get("child-pid"), int):
                    return int(message["child-pid"])
    return None


async def in_thread(function: Callable[..., _T], *arguments: object) -> _T:
    """Run in a thread and never leave it half-done; see `finished`."""
    return await finished(asyncio.to_thread(function, *arguments))


async def finished(work: Coroutine[Any, Any, _T]) -> _T:
    """Run to the end: a cancellation is delivered only after it."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # it was interrupted, so nobody else asks
        raise


def rotate_if_large(log_path: Path, limit_bytes: int = _LOG_LIMIT_BYTES) -> None:
    """Keep one old log (`.1`) so that restarts do not fill the disk."""
    if log_path.exists() and log_path.stat().st_size > limit_bytes:
        log_path.replace(log_path.with_name(log_path.name + ".1"))


def _tail(log_path: Path, start: int) -> str:
    with log_path.open("rb") as log:
        log.seek(max(start, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
        return log.read(_LOG_TAIL_BYTES).decode("utf-8", "replace").strip()
