"""What the product itself costs: CPU time and memory of agent and etcd, CPU time of the command line."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench import processes
from tests.bench.figures import Figure
from tests.bench.lockstep import checkpoint_figures
from tests.bench.suite import Suite
from tests.bench.world import LAB, BenchError, World
from vdc.lab import api as lab_api

SETTLE_S = 6.0
WINDOWS = 6  # that the idle time is divided into
MOST_AGENT_CPU = 2.0  # percent of a core
MOST_AGENT_RSS_MB = 90
MOST_HELP_MS = 150
MOST_PAUSE_MS = 20
_MB = 1e6


async def idle(suite: Suite) -> None:
    """One protected VM, nobody asks for anything: nothing of this program talks to an agent meanwhile."""
    world = suite.world
    async with world.protected():
        await asyncio.sleep(SETTLE_S)
        pids = await watched(world)
        samples = await sample(pids, suite.options.idle_s)
        figures = (await world.view()).status.checkpoints
    suite.raw["idle"] = {"pids": pids, "samples": samples, "checkpoints": figures.model_dump()}
    suite.add(checkpoint_figures("checkpoint.idle", "idle", figures, MOST_PAUSE_MS))
    suite.add(usage_figures(samples))


async def watched(world: World) -> dict[str, int]:
    """The processes to watch, by what they are and their host's part in the VM."""
    status = (await world.view()).status
    copies = {"primary": status.primary, "secondary": status.secondary}
    parts = {copy.host: part for part, copy in copies.items() if copy}
    pids: dict[str, int] = {}
    for host in (await lab_api.status(LAB)).hosts:
        for program, pid in (("agent", host.agent_pid), ("etcd", host.etcd_pid)):
            if pid is None:
                raise BenchError(f"{program} does not run on {host.name}")
            pids[f"{program} on the {parts.get(host.name, 'spare')}'s host"] = pid
    return pids


async def sample(pids: dict[str, int], seconds: float) -> dict[str, list[dict[str, float]]]:
    """CPU time and memory of each process in each window."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in pids}
    last = {name: (time.monotonic(), processes.cpu_seconds(pid)) for name, pid in pids.items()}
    for _ in range(WINDOWS):
        await asyncio.sleep(seconds / WINDOWS)
        for name, pid in pids.items():
            now, used_s = time.monotonic(), processes.cpu_seconds(pid)
            began, before_s = last[name]
            last[name] = now, used_s
            found[name].append(
                {
                    "seconds": now - began,
                    "cpu_s": used_s - before_s,
                    "cpu_percent": (used_s - before_s) / (now - began) * 100,
                    "rss_mb": processes.rss_bytes(pid) / _MB,
                }
            )
    return found


def usage_figures(samples: dict[str, list[dict[str, float]]]) -> list[Figure]:
    """CPU first, then memory; the targets are the agent's."""
    cpu, memory = [], []
    for name, windows in sorted(samples.items()):
        is_agent = name.startswith("agent")
        percents = tuple(window["cpu_percent"] for window in windows)
        sizes = tuple(window["rss_mb"] for window in windows)
        used_s = sum(window["cpu_s"] for window in windows)
        took_s = sum(window["seconds"] for window in windows)
        key = name.replace(" ", "-").replace("'s", "")
        cpu.append(
            Figure(
                f"cpu.{key}", f"CPU, {name}, idle", "% of a core", percents,
                target=MOST_AGENT_CPU if is_agent else None, note=f"{used_s:.2f} s of CPU in {took_s:.0f} s",
            )
        )  # fmt: skip
        target = MOST_AGENT_RSS_MB if is_agent else None
        memory.append(Figure(f"rss.{key}", f"RSS, {name}, idle", "MB", sizes, target=target))
    return [*cpu, *memory]


async def help_text(suite: Suite) -> None:
    """User and system time of `vdc --help`."""
    command = [str(Path(sys.executable).parent / "vdc"), "--help"]
    await asyncio.to_thread(cpu_ms_of, command)  # whatever is compiled or cached the first time
    found = [await asyncio.to_thread(cpu_ms_of, command) for _ in range(max(10, suite.options.runs))]
    suite.raw["help"] = found
    suite.add([Figure("help.cpu", "vdc --help, CPU time", "ms", tuple(found), target=MOST_HELP_MS)])


def cpu_ms_of(command: Sequence[str]) -> float:
    """What a command used, with everything that it started and waited for."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise BenchError(f"{command[0]} ended with {process.returncode}")
    return (usage.ru_utime + usage.ru_stime) * 1000
