"""What was asked of this host and is not in the audit log yet, on its own disk.

An act is written down (fsync) before it is done, and once more with its result. What was begun and not ended when the
agent died has the result `unknown`. Entries are numbered as they end, anew for each process that uses the spool, and
the log's head tells which it has. The newest of those are kept nevertheless: a member of etcd that goes on alone may
lack the log's end.

A disk that is full or broken hinders nobody: entries wait in memory, and reach the log as ever. Only an agent that
dies then forgets them. Where too many wait the next entry says how many were lost (`gap`).

Danger: one process alone may use a spool.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import structlog

from hostagent.drivers.process import in_thread, write_atomically
from vdc.model.audit import UNKNOWN, AuditEntry, AuditHead

MOST_WAITING = 20_000  # entries that are not in the log; at some 500 bytes each
KEPT = 1_000  # of those that are in the log, the newest
COMPACT_BYTES = 2 * 1024 * 1024
WAIT_S = 0.5  # for the disk, before an act begins without it
_FILE = "spool.jsonl"
_MODE = 0o600


class Spool:
    """One per agent. Use it from its event loop alone; the disk is written to in a thread."""

    def __init__(self, folder: Path, host: str) -> None:
        self._path = folder / _FILE
        self._host = host
        self._log = structlog.get_logger()
        self._id = uuid.uuid4().hex[:12]
        self._number = 0  # of this process's newest entry
        self._open: dict[str, AuditEntry] = {}
        self._ended: deque[AuditEntry] = deque()
        self._in_log = 0  # so many of the oldest of these are in the log
        self._gap = 0
        self._lines: list[str] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._writing: asyncio.Task[None] | None = None
        self._size = 0
        self._is_due_anew = False
        self._is_broken = False  # what is in memory is more than what is on the disk
        self.changed = asyncio.Event()

    # ---- what the request's handler does

    async def begin(self, entry: AuditEntry) -> None:
        """Write down that it was asked for; durable on return, unless the disk is slow, full or broken."""
        self._open[entry.id] = entry
        self._lines.append(_line("begin", entry))
        done = asyncio.get_running_loop().create_future()
        self._waiters.append(done)
        self._write()
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                await done

    def end(self, entry: AuditEntry) -> None:
        """Write down how it ended. Not waited for: were it lost, the result would be `unknown`."""
        ended = self._end(entry)
        if ended is not None:
            self._lines.append(_line("end", ended))
            self._write()

    async def flush(self) -> None:
        """Return when everything is on the disk, or the disk is broken."""
        while self._writing is not None:
            await asyncio.shield(self._writing)

    # ---- what the keeper does that brings it into the log

    def waiting(self, most: int) -> list[AuditEntry]:
        """The oldest that are not known to be in the log; numbered by one process."""
        found = list(islice(self._ended, self._in_log, self._in_log + most))
        return [entry for entry in found if entry.spool == found[0].spool]

    def appended(self, head: AuditHead) -> None:
        """Forget what the log has. Where its end was cut off it has less than before: that waits again."""
        mine = head.drained.get(self._host)
        self._in_log = 0
        if mine is not None:
            behind = (
                place
                for place, entry in zip(range(len(self._ended), 0, -1), reversed(self._ended), strict=True)
                if entry.spool == mine.spool and entry.number <= mine.number
            )
            self._in_log = next(behind, 0)
        while self._in_log > KEPT:
            self._ended.popleft()
            self._in_log -= 1
        if self._in_log < len(self._ended):
            self.changed.set()
        else:
            self.changed.clear()
        if self._size > COMPACT_BYTES or self._is_broken:
            self._write(anew=True)

    # ---- the file

    def load(self) -> None:
        """Take over what an earlier process left. Blocks: before the agent serves."""
        text = ""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            text = self._path.read_text(errors="replace")
        except FileNotFoundError:
            pass
        except OSError as error:
            self._note_failure(error)
            with suppress(OSError):  # somebody may still read it one day
                self._path.replace(self._path.with_suffix(".unreadable"))
        for line in text.splitlines():
            self._take(line)
        for entry in tuple(self._open.values()):
            self._end(entry.with_(result=UNKNOWN))
        try:
            self._write_anew(tuple(self._ended), tuple(self._open.values()))
        except OSError as error:
            self._note_failure(error)

    def _end(self, entry: AuditEntry) -> AuditEntry | None:
        self._open.pop(entry.id, None)
        if len(self._ended) - self._in_log >= MOST_WAITING:
            self._gap += 1
            return None
        self._number += 1
        ended = entry.with_(host=self._host, spool=self._id, number=self._number, gap=self._gap)
        self._gap = 0
        self._ended.append(ended)
        self.changed.set()
        return ended

    def _take(self, line: str) -> None:
        try:
            values = json.loads(line)
            if "begin" in values:
                begun = AuditEntry.model_validate(values["begin"])
                self._open[begun.id] = begun
            elif "end" in values:
                ended = AuditEntry.model_validate(values["end"])
                self._open.pop(ended.id, None)
                self._ended.append(ended)
        except (ValueError, TypeError, KeyError, RecursionError):
            self._log.warning("a line of the audit log's spool cannot be read", file=str(self._path))

    def _write(self, *, anew: bool = False) -> None:
        self._is_due_anew |= anew
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all(), name="audit spool")

    async def _write_all(self) -> None:
        """Until nothing is left. Many requests share a write, and the fsync."""
        try:
            while self._lines or self._is_due_anew:
                lines, waiters = self._lines, self._waiters
                self._lines, self._waiters = [], []
                is_whole, self._is_due_anew = self._is_due_anew or self._is_broken, False
                try:
                    if is_whole:
                        await in_thread(self._write_anew, tuple(self._ended), tuple(self._open.values()))
                        if self._is_broken:
                            self._log.info("the audit log's spool is on the disk again")
                        self._is_broken = False
                    else:
                        await in_thread(self._append, lines, bool(waiters))
                except OSError as error:
                    self._note_failure(error)
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_result(None)
        finally:
            self._writing = None

    def _append(self, lines: Sequence[str], is_durable: bool) -> None:
        data = "".join(f"{line}\n" for line in lines).encode()
        with self._path.open("r+b") as file:
            file.seek(0, os.SEEK_END)  # after a write that failed the file is made anew
            file.write(data)
            file.flush()
            if is_durable:
                os.fdatasync(file.fileno())
        self._size += len(data)

    def _write_anew(self, ended: Sequence[AuditEntry], begun: Sequence[AuditEntry]) -> None:
        lines = [*(_line("end", one) for one in ended), *(_line("begin", one) for one in begun)]
        text = "".join(f"{line}\n" for line in lines)
        write_atomically(self._path, text, mode=_MODE)
        self._size = len(text.encode())

    def _note_failure(self, error: OSError) -> None:
        if not self._is_broken:
            self._log.warning(
                "the audit log's spool cannot be written; its entries wait in memory",
                file=str(self._path), why=error.strerror,
            )  # fmt: skip
        self._is_broken = True


def _line(kind: str, entry: AuditEntry) -> str:
    return json.dumps({kind: entry.model_dump(mode="json")})
