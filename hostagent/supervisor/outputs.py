"""What a container's program has written, kept on the secondary's host as the primary's has it.

A secondary's QEMU writes what its own copy's program writes: nothing of the time before it was in lockstep, and around
each checkpoint, which sets it to where the primary's is, a line too many or too few. So its agent fetches the primary's
log now and then. After a promotion that is the log up to then, and its own lines are those that are newer.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

from hostagent.drivers.process.foreign import open_foreign
from hostagent.drivers.qemu.spec import OUTPUT_LOG
from hostagent.supervisor.copy import Copy
from hostagent.supervisor.logs import KEPT_BYTES, bound_log
from vdc.api import models as wire
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.errors import VdcError
from vdc.model.pair import Pair

FETCH_EVERY_S: Final = 5.0
FETCH_S: Final = 10.0
MOST_PIECES: Final = 16  # of a log that grows faster than it is fetched, at once
FETCHED: Final = f"{OUTPUT_LOG}.primary"
_FETCHES = (CopyStage.CHECKPOINTING, CopyStage.LOCKSTEP)


class OutputKeeper:
    """One per supervisor of a container."""

    def __init__(self, copy: Copy) -> None:
        self._copy = copy
        self._path: Path = copy.folder / FETCHED
        self._from = ""  # whose log it is
        self._offset = 0
        self._due_s = 0.0

    async def look(self) -> None:
        """Fetch, or take what was fetched for the log, where that is due."""
        copy = self._copy
        if copy.state.role is CopyRole.PRIMARY:
            self._from = ""
            if self._path.exists():
                await asyncio.to_thread(_adopt, copy.folder, copy.guest)
            return
        now_s, pair = copy.host.clock.boottime_s(), copy.host.mirror.pair(copy.name)
        if copy.state.stage not in _FETCHES or pair is None or now_s < self._due_s:
            return
        self._due_s = now_s + FETCH_EVERY_S
        try:
            async with asyncio.timeout(FETCH_S):
                await self._fetch(pair)
        except (VdcError, TimeoutError, OSError) as error:
            copy.host.log.debug("the program's output was not fetched", endophyte=copy.name, why=str(error))

    async def _fetch(self, pair: Pair) -> None:
        host = self._copy.host

        async def ask(offset: int | None) -> wire.LogText:
            request = wire.OutputRequest(epoch=pair.epoch, from_host=host.name, offset=offset)
            return await host.peer(pair.primary).peer_output(pair.name, request)

        if pair.primary != self._from:
            tail = await ask(None)
            await asyncio.to_thread(self._path.write_text, tail.text)
            self._from, self._offset = pair.primary, tail.end_offset
            return
        for _ in range(MOST_PIECES):
            more = await ask(self._offset)
            if more.end_offset == self._offset:
                return
            self._offset = more.end_offset
            await asyncio.to_thread(_append, self._path, more.text)


def _append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)
    if path.stat().st_size > 2 * KEPT_BYTES:
        end = path.read_bytes()[-KEPT_BYTES:]
        path.write_bytes(end.partition(b"\n")[2])


def _adopt(folder: Path, guest: Path) -> None:
    """Both logs become the earlier part of this copy's own, which begins anew."""
    fetched = (folder / FETCHED).read_bytes().rpartition(b"\n")
    last = fetched[0].rpartition(b"\n")[2].partition(b" ")[0]
    own = b""
    try:
        with open_foreign(guest / OUTPUT_LOG) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - KEPT_BYTES))
            own = file.read(KEPT_BYTES)
    except OSError:
        pass  # there is none yet
    newer = [line for line in own.splitlines(keepends=True) if line.partition(b" ")[0] > last]
    bound_log(guest / OUTPUT_LOG, folder, limit_bytes=0, kept_bytes=1)  # QEMU goes on at its new end
    (folder / f"{OUTPUT_LOG}.1").write_bytes(b"".join((fetched[0], fetched[1], *newer))[-KEPT_BYTES:])
    (folder / FETCHED).unlink()
