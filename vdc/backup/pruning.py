"""What a repository keeps, and taking away the rest.

Backups go before the chunks that they alone needed, so a prune that breaks off leaves nothing that lacks a chunk, and
the next one ends its work. Nobody adds meanwhile (vdc.backup.locks). Each description is read once, and none is held:
only the names of the chunks that are needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
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

    def keeps(self, place: int, when: datetime, now: datetime) -> bool:
        """Whether one of them is kept; `place`: how many of the same VM are newer."""
        is_counted = self.count is not None and place < self.count
        return is_counted or (self.days is not None and now - when <= timedelta(days=self.days))


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
        going, kept, needed = _split(repository, rule, now, endophyte)
        if not is_dry:
            for vm, backup_id in going:
                lock.check()
                repository.remove(vm, backup_id)
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
    return Pruned(tuple(f"{vm}@{one}" for vm, one in going), len(unused), freed_bytes, kept)


def _split(
    repository: Repository, rule: Kept, now: datetime, endophyte: str | None
) -> tuple[list[tuple[str, str]], int, set[str]]:
    """Which go, the oldest of a VM first; how many are kept; and the chunks that those need."""
    by_vm: dict[str, list[str]] = defaultdict(list)
    for vm, backup_id in repository.names():
        by_vm[vm].append(backup_id)
    going: list[tuple[str, str]] = []
    kept = 0
    needed: set[str] = set()
    for vm, ids in by_vm.items():
        for place, (_, one) in zip(
            reversed(range(len(ids))), repository.each((vm, i) for i in ids), strict=True
        ):
            if not isinstance(one, Backup):
                raise RefusedError(
                    f"nothing is removed while a backup cannot be read: {one}", code="backup-damaged",
                    hint="vdc backup verify names them; delete their files under backups/ to give them up",
                ) from one  # fmt: skip
            if endophyte in (None, vm) and not rule.keeps(place, one.when, now):
                going.append((vm, one.id))
            else:
                kept += 1
                needed |= one.chunks
    return going, kept, needed
