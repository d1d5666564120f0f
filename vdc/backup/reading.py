"""Reading a repository: everything of it, to prove that it is whole; one backup, to make a VM of it again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vdc.backup import locks
from vdc.backup.record import CHUNK_BYTES, ZEROS, Backup, chunk_length
from vdc.backup.repository import Repository
from vdc.images import qemuimg
from vdc.images.formats.examine import DiskFile
from vdc.images.scratch import Scratch
from vdc.images.sources.plan import ImportPlan, hash_file
from vdc.model.errors import InvalidError, NotFoundError
from vdc.model.image import Blob, Image, ImageKind

Told = Callable[[str, int, int], None]
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found. `damaged`: by backup, what is wrong with it."""

    backups: int
    chunks: int
    damaged: dict[str, list[str]]


def verify(
    repository: Repository, told: Told, *, endophyte: str | None = None, backup_id: str | None = None
) -> Verdict:
    """Read and hash every chunk that the chosen backups need. Raises as `locks.reading`, NotFoundError."""
    with locks.reading(repository.storage, "vdc backup verify"):
        damaged: dict[str, list[str]] = defaultdict(list)
        found = []
        for vm, one in repository.names(endophyte):
            if backup_id in (None, one):
                try:
                    found.append(repository.read(vm, one))
                except (InvalidError, NotFoundError) as error:
                    damaged[f"{vm}@{one}"].append(str(error))
        if not found and not damaged and endophyte is not None:
            raise _none(repository, endophyte, backup_id)
        lengths: dict[str, int] = {}
        for backup in found:
            lengths |= _lengths(backup)
        wrong = _check(repository, lengths, told)
    for backup in found:
        damaged_here = sorted(backup.chunks & wrong.keys())
        if damaged_here:
            more = f" and {len(damaged_here) - 1} more" if len(damaged_here) > 1 else ""
            damaged[f"{backup.endophyte}@{backup.id}"].append(wrong[damaged_here[0]] + more)
    return Verdict(
        len(found) + sum(1 for name in damaged if not _is_in(name, found)), len(lengths), dict(damaged)
    )


def find(repository: Repository, endophyte: str, backup_id: str | None) -> Backup:
    """One backup, or the newest that can be read. NotFoundError (`backup-not-found`), InvalidError."""
    if backup_id is not None:
        return repository.read(endophyte, backup_id)
    newest = repository.newest(endophyte)
    if newest is None:
        raise _none(repository, endophyte, None)
    return newest


def plan_images(repository: Repository, backup: Backup, told: Told, owned: ExitStack) -> list[ImportPlan]:
    """What its disks are to be imported as, verified; `owned` keeps the files. Raises as `get`, Scratch, `convert`."""
    names = image_names(backup)
    files = [(file.blob, _file(repository, file.blob, file.chunks, owned)) for file in backup.files]
    plans = []
    for number, disk in enumerate(backup.disks):
        scratch = owned.enter_context(Scratch(2 * _held_bytes(disk.chunks)))
        raw = scratch.own("disk.raw")
        with scratch.filling():
            _write(repository, raw, disk.chunks, disk.virtual_bytes, partial(told, f"restoring {disk.name}"))
        path = qemuimg.convert(
            DiskFile("raw", disk.virtual_bytes, {"driver": "raw"}), qemuimg.Place(raw), scratch, told
        )
        raw.unlink()
        blob = hash_file(path, told)
        form = backup.image if number == 0 else Image(kind=ImageKind.DISK)
        image = form.with_(disk=blob, disk_format="qcow2", disk_virtual_bytes=disk.virtual_bytes)
        plans.append(ImportPlan(names[number], image, ((blob, path), *(files if number == 0 else ()))))
    return plans


def image_names(backup: Backup) -> list[str]:
    """The names of the images that its disks become."""
    first = f"backups/{backup.endophyte}"
    return [f"{first}{f'/disk{i}' if i else ''}:{backup.id}" for i in range(len(backup.disks))]


def _file(repository: Repository, blob: Blob, chunks: Sequence[str], owned: ExitStack) -> Path:
    scratch = owned.enter_context(Scratch(blob.size_bytes))
    path = scratch.own("file")
    with scratch.filling():
        _write(repository, path, chunks, blob.size_bytes, lambda done, total: None)
    if hash_file(path, lambda what, done, total: None).digest != blob.digest:
        raise InvalidError("a file of the image is another than it is called", code="backup-damaged")
    return path


def _write(
    repository: Repository,
    path: Path,
    chunks: Sequence[str],
    size_bytes: int,
    told: Callable[[int, int], None],
) -> None:
    """A file with holes where zeros are. Every chunk is checked."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
        for index, chunk in enumerate(chunks):
            if chunk != ZEROS:
                file.seek(index * CHUNK_BYTES)
                file.write(repository.get(chunk, chunk_length(size_bytes, index)))
            told(min(size_bytes, (index + 1) * CHUNK_BYTES), size_bytes)


def _held_bytes(chunks: Sequence[str]) -> int:
    return sum(CHUNK_BYTES for chunk in chunks if chunk != ZEROS)


def _lengths(backup: Backup) -> dict[str, int]:
    parts = [(disk.virtual_bytes, disk.chunks) for disk in backup.disks]
    parts += [(file.blob.size_bytes, file.chunks) for file in backup.files]
    return {
        chunk: chunk_length(size_bytes, index)
        for size_bytes, chunks in parts
        for index, chunk in enumerate(chunks)
        if chunk != ZEROS
    }


def _check(repository: Repository, lengths: dict[str, int], told: Told) -> dict[str, str]:
    wrong: dict[str, str] = {}

    def check(item: tuple[str, int]) -> None:
        try:
            repository.get(*item)
        except (InvalidError, NotFoundError) as error:
            wrong[item[0]] = str(error)

    done = 0
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="verify") as pool:
        for _ in pool.map(check, lengths.items()):
            done += 1
            told("verifying chunks", done * CHUNK_BYTES, len(lengths) * CHUNK_BYTES)
    return wrong


def _is_in(name: str, found: Sequence[Backup]) -> bool:
    return any(name == f"{one.endophyte}@{one.id}" for one in found)


def _none(repository: Repository, endophyte: str, backup_id: str | None) -> NotFoundError:
    which = f"{endophyte}@{backup_id}" if backup_id else f"of {endophyte}"
    place = repository.storage.name
    return NotFoundError(
        f"{place} has no backup {which}", code="backup-not-found", hint=f"vdc backup ls {place}"
    )
