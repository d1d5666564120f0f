"""Starting an agent on a host of the lab, and waiting until it and the cluster answer."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from vdc.api.client import ApiClient
from vdc.api.transport import Deadlines
from vdc.lab import cgroups, kernel, launcher
from vdc.lab.files import locked_folder, write_text
from vdc.lab.models import AgentProcess
from vdc.lab.plan import HostPlan
from vdc.lab.processes import is_running, read_process
from vdc.lab.settings import Settings
from vdc.model.errors import BugError, UnavailableError, VdcError

_POLL_S = 0.05
_ANSWER_S = 2.0
_LAUNCH_S = 10.0
_UNREACHABLE = "agent-unreachable"
_TAIL_LINES = 3


def launch_argv(namespace: str, command: list[str]) -> list[str]:
    """The command line that runs a command inside a namespace, in the foreground."""
    return [
        sys.executable,
        "-I",
        "-S",
        launcher.__file__,
        "run",
        str(kernel.namespace_path(namespace)),
        *command,
    ]


def start_agent(host: HostPlan, settings: Settings) -> AgentProcess:
    """Start the host's agent, detached, and record it; a running one is left alone, whoever else starts it now."""
    host.agent_log.parent.mkdir(parents=True, exist_ok=True)
    with locked_folder(host.state_dir):
        return _start_agent(host, settings)


def _start_agent(host: HostPlan, settings: Settings) -> AgentProcess:
    if (recorded := recorded_agent(host)) is not None and is_running(recorded):
        return recorded
    groups = cgroups.create(host)
    argv = [
        sys.executable, "-I", "-S", launcher.__file__, "detach",
        str(kernel.namespace_path(host.namespace)), ":".join(map(str, groups)) or "-", str(host.agent_log),
        *settings.agent_command, str(host.config_file),
    ]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_LAUNCH_S, check=False)
    if done.returncode != 0:
        raise UnavailableError(
            f"the agent of {host.name} cannot be started: {done.stderr.strip()}", code="agent-not-started"
        )
    process = read_process(int(done.stdout))
    if process is None:
        raise silent(host, "ended at once")
    started = AgentProcess(pid=process.pid, start_time=process.start_time)
    write_text(host.process_file, started.to_json())
    return started


def recorded_agent(host: HostPlan) -> AgentProcess | None:
    """The agent that was started last, alive or not."""
    try:
        return AgentProcess.from_json(host.process_file.read_text())
    except (FileNotFoundError, ValidationError):
        return None


async def wait_for_agents(hosts: Sequence[HostPlan], settings: Settings) -> None:
    """Until each agent answers; `UnavailableError` (`agent-silent`) with the end of its log."""

    async def answers(client: ApiClient) -> str:
        try:
            await client.health()
        except VdcError as error:  # an agent that says what it lacks is an agent that answers
            return str(error) if error.code == _UNREACHABLE else ""
        return ""

    await _all(_until(host, answers, settings.agent_deadline_s, "agent-silent") for host in hosts)


async def wait_for_cluster(hosts: Sequence[HostPlan], settings: Settings) -> None:
    """Until every agent reaches the store, knows the leader and sees all these hosts alive.

    Raises `UnavailableError` (`cluster-not-ready`).
    """
    names = {host.name for host in hosts}

    async def is_ready(client: ApiClient) -> str:
        status = await client.cluster()
        if status.store != "ok":
            return f"its store says: {status.store}"
        if not status.leader:
            return "the cluster has no leader"
        nodes = await client.list_nodes()
        missing = names - {node.host.name for node in nodes.items if node.alive}
        return f"it does not see {', '.join(sorted(missing))}" if missing else ""

    await _all(_until(host, is_ready, settings.cluster_deadline_s, "cluster-not-ready") for host in hosts)


def silent(host: HostPlan, reason: str, code: str = "agent-silent") -> UnavailableError:
    """The error for an agent that is not well: what is wrong, and the last lines that it wrote."""
    tail = _tail(host.agent_log)
    return UnavailableError(
        f"the agent of {host.name} {reason}",
        hint=f"its last words: {tail}" if tail else "it wrote nothing",
        code=code,
    )


async def _all(works: Iterable[Coroutine[None, None, None]]) -> None:
    """Run all at once; the first failure ends the others and is raised bare."""
    try:
        async with asyncio.TaskGroup() as group:
            for number, work in enumerate(works):
                group.create_task(work, name=f"lab-wait-{number}")
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def _until(
    host: HostPlan, check: Callable[[ApiClient], Awaitable[str]], deadline_s: float, code: str
) -> None:
    """Repeat `check` until it returns no complaint. An agent that died is not waited for."""
    reason = "it does not answer"
    try:
        async with (
            asyncio.timeout(deadline_s),
            ApiClient([f"unix://{host.api_socket}"], deadlines=Deadlines(last_s=_ANSWER_S)) as client,
        ):
            while True:
                try:
                    if not (reason := await check(client)):
                        return
                except BugError:
                    raise
                except VdcError as error:
                    reason = str(error)
                if not is_running(recorded_agent(host)):
                    raise silent(host, "has died", code)
                await asyncio.sleep(_POLL_S)
    except TimeoutError as error:
        raise silent(host, f"is not ready after {deadline_s:.0f} s: {reason}", code) from error


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = deque((line for line in file.read().splitlines() if line.strip()), maxlen=_TAIL_LINES)
    except OSError:
        return ""
    return " | ".join(line.decode(errors="replace").strip() for line in lines)[-600:]
