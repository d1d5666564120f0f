"""Small QMP steps that several sequences share: inventories, removals that tolerate absence, timings.

A removal looks at what is there first and removes only that; QEMU's error texts are never interpreted. What
vanishes between the look and the removal is not an error either.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.qmp import QmpCommandError, QmpSession, QmpTimeoutError

MIGRATION_CAPABILITIES = ("x-colo", "return-path", "pause-before-switchover")
MIGRATION_ENDED = frozenset({"none", "completed", "failed", "cancelled"})


class Stopwatch:
    """Durations of named steps in milliseconds, one after the other."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()
        self.laps_ms: dict[str, float] = {}

    def lap(self, name: str) -> float:
        """End the step `name`, which began when the one before it ended."""
        now = time.monotonic()
        self.laps_ms[name] = round((now - self._last) * 1000, 1)
        self._last = now
        return self.laps_ms[name]

    @property
    def total_ms(self) -> float:
        """Since the stopwatch was made."""
        return round((time.monotonic() - self._start) * 1000, 1)


async def migration_status(qmp: QmpSession) -> str:
    """QEMU's word for the state of its migration; `none` where there never was one."""
    return str((await qmp.execute(Command.QUERY_MIGRATE)).get("status", "none"))


async def run_state(qmp: QmpSession) -> str:
    """QEMU's word for what the guest does: running, paused, colo, inmigrate, finish-migrate, ..."""
    return str((await qmp.execute(Command.QUERY_STATUS))["status"])


async def objects(qmp: QmpSession) -> frozenset[str]:
    """Ids of user-created objects (filters, comparers, iothreads)."""
    return frozenset(entry["name"] for entry in await qmp.execute(Command.QOM_LIST, {"path": "/objects"}))


async def chardevs(qmp: QmpSession) -> frozenset[str]:
    """Ids of character devices."""
    return frozenset(entry["label"] for entry in await qmp.execute(Command.QUERY_CHARDEV))


async def block_nodes(qmp: QmpSession) -> dict[str, dict[str, Any]]:
    """Block nodes by name."""
    nodes = await qmp.execute(Command.QUERY_NAMED_BLOCK_NODES, {"flat": True})
    return {node["node-name"]: node for node in nodes}


async def block_jobs(qmp: QmpSession) -> dict[str, dict[str, Any]]:
    """Block jobs by id."""
    return {job["device"]: job for job in await qmp.execute(Command.QUERY_BLOCK_JOBS)}


async def attempt(
    qmp: QmpSession, command: Command, arguments: dict[str, Any], *, deadline_s: float = 2.0
) -> bool:
    """Run a command whose refusal changes nothing; whether QEMU accepted it."""
    try:
        await qmp.execute(command, arguments, deadline_s=deadline_s)
    except QmpCommandError:
        return False
    return True


async def remove_objects(qmp: QmpSession, ids: Iterable[str]) -> None:
    """Delete those of `ids` that exist, in the order given."""
    present = await objects(qmp)
    for name in ids:
        if name in present:
            await attempt(qmp, Command.OBJECT_DEL, {"id": name})


async def remove_nodes(qmp: QmpSession, names: Iterable[str], *, deadline_s: float = 5.0) -> None:
    """Delete block nodes that exist, waiting while something still uses them; raises QmpTimeoutError."""
    wanted = list(names)

    async def all_gone() -> bool:
        present = await block_nodes(qmp)
        for name in wanted:
            if name in present:
                await attempt(qmp, Command.BLOCKDEV_DEL, {"node-name": name})
        present = await block_nodes(qmp)
        return not any(name in present for name in wanted)

    await until(all_gone, what=f"removing block nodes {', '.join(wanted)}", deadline_s=deadline_s)


async def remove_chardevs(qmp: QmpSession, ids: Iterable[str]) -> None:
    """Delete those of `ids` that exist; the filters that used them have to be gone."""
    present = await chardevs(qmp)
    for name in ids:
        if name in present:
            await attempt(qmp, Command.CHARDEV_REMOVE, {"id": name})


async def set_capabilities(qmp: QmpSession, names: Iterable[str], *, state: bool) -> None:
    """Switch migration capabilities."""
    settings = [{"capability": name, "state": state} for name in names]
    await qmp.execute(Command.MIGRATE_SET_CAPABILITIES, {"capabilities": settings})


async def poll(condition: Callable[[], Awaitable[bool]], *, interval_s: float) -> None:
    """Ask QEMU again and again; the caller bounds it."""
    while True:
        if await condition():
            return
        await asyncio.sleep(interval_s)


async def until(
    condition: Callable[[], Awaitable[bool]], *, what: str, deadline_s: float, interval_s: float = 0.02
) -> None:
    """Poll `condition`; raises QmpTimeoutError naming `what` when it does not come true."""
    try:
        async with asyncio.timeout(deadline_s):
            await poll(condition, interval_s=interval_s)
    except TimeoutError as error:
        raise QmpTimeoutError(f"{what} did not end within {deadline_s:g} s") from error
