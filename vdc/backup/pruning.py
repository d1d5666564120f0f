"""What a repository keeps, and taking away the rest.

Backups go before the chunks that they alone needed, so a prune that breaks off leaves nothing that lacks a chunk, and
the next one ends its work. Nobody adds meanwhile (vdc.backup.locks).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from vdc.backup import locks
from vdc.backup.record import Backup
from vdc.backup.repository import CHUNKS, Repository, is_chunk
from vdc.backup.storage import Folder
from vdc.model.errors import RefusedError

Told = Callable[[int, int], None]  # chunks looked at, chunks in all


@dataclass(frozen=True, slots=True)
class Kept:
    """The newest `count` of each VM, and those of the last `days`; what either one keeps is kept."""

    count: int | None = None
    days: float | None = None

    def splits(self, backups: Sequence[Backup], now: datetime) -> tuple[list[Backup], list[Backup]]:
        """Those of one VM that are kept, and those that go; any order."""
        newest_first = sorted(backups, key=lambda one: one.id, reverse=True)
        kept: list[Backup] = []
        gone: list[Backup] = []
        for place, one in enumerate(newest_first):
            is_counted = self.count is not None and place < self.count
            is_young = self.days is not None and now - one.when <= timedelta(days=self.days)
            (kept if is_counted or is_young else gone).append(one)
        return kept, gone


@dataclass(frozen=True, slots=True)
class Pruned:
    """What went, or would."""

    backups: tuple[str, ...]
    chunks: int
    freed_bytes: int
    kept: int


def prune(
    repository: Repository, rule: Kept, now: datetime, *, endophyte: str | None = None, is_dry: bool = False,
    told: Told = lambda done, total: None,
) -> Pruned:  # fmt: skip
    """Of one VM or of all. RefusedError (`backup-damaged`): what a damaged backup needs is not known, so nothing goes.

    As `locks.alone`.
    """
    storage = repository.storage
    with locks.alone(storage, "vdc backup prune") as lock:
        backups, damaged = repository.readable()
        if damaged:
            raise RefusedError(
                f"nothing is removed while a backup cannot be read: {damaged[0]}", code="backup-damaged",
                hint="vdc backup verify names them; delete their files under backups/ to give them up",
            )  # fmt: skip
        by_vm: dict[str, list[Backup]] = defaultdict(list)
        for one in backups:
            by_vm[one.endophyte].append(one)
        gone = [
            one
            for vm, found in sorted(by_vm.items())
            if endophyte in (None, vm)
            for one in reversed(rule.splits(found, now)[1])
        ]
        names = {(one.endophyte, one.id) for one in gone}
        kept = [one for one in backups if (one.endophyte, one.id) not in names]
        if not is_dry:
            for one in gone:
                lock.check()
                repository.remove(one.endophyte, one.id)
        needed = frozenset[str]().union(*(one.chunks for one in kept))
        chunks = (found for found in storage.list(CHUNKS) if is_chunk(found.key))
        unused = [found for found in chunks if found.key.rpartition("/")[2] not in needed]
        if not is_dry:
            for place, found in enumerate(unused):
                if place % 100 == 0:
                    lock.check()
                storage.delete(found.key)
                told(place + 1, len(unused))
            if isinstance(storage, Folder):
                storage.sweep()
    freed_bytes = sum(found.size_bytes for found in unused)
    return Pruned(tuple(f"{one.endophyte}@{one.id}" for one in gone), len(unused), freed_bytes, len(kept))
