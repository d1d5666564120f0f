"""Reading a repository: everything of it, to prove that it is whole; one backup, to make a VM of it again."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from vdc.backup import locks
from vdc.backup.record import CHUNK_BYTES, ZEROS, Backup, BackupFile, chunk_length
from vdc.backup.repository import Repository
from vdc.images import qemuimg
from vdc.images.formats.examine import DiskFile
from vdc.images.scratch import Scratch
from vdc.images.sources.plan import ImportPlan, hash_file
from vdc.model.errors import InvalidError, NotFoundError
from vdc.model.image import Blob, Image, ImageKind

Told = Callable[[str, int, int], None]
_Chunk = tuple[str, int]  # its digest, and how long it is said to be
_AT_ONCE: Final = 4
_BATCH: Final = 256  # what waits for a thread takes memory
_OTHER_FILE: Final = "a file of the image is another than it is called"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found. `damaged`: by backup, what is wrong with it."""

    backups: int
    chunks: int
    damaged: dict[str, list[str]]


def verify(
    repository: Repository, told: Told, *, endophyte: str | None = None, backup_id: str | None = None
) -> Verdict:
    """Read and hash every chunk that the chosen backups need, and each file as a whole.

    Raises as `locks.reading`, NotFoundError.
    """
    with locks.reading(repository.storage, "vdc backup verify"):
        names = [(vm, one) for vm, one in repository.names(endophyte) if backup_id in (None, one)]
        if not names and endophyte is not None:
            raise _none(repository, endophyte, backup_id)
        damaged: dict[str, list[str]] = defaultdict(list)
        chunks: set[_Chunk] = set()
        files: set[BackupFile] = set()
        for name, one in repository.each(names):
            if isinstance(one, Backup):
                chunks.update(_chunks(one))
                files.update(one.files)
            else:
                damaged[name].append(str(one))
        wrong = _check(repository, chunks, told)
        others = {
            file
            for file in files
            if wrong.keys().isdisjoint(_chunks_of(file)) and not _is_it(repository, file)
        }
        if wrong or others:
            for name, one in repository.each(names):
                if isinstance(one, Backup):
                    damaged[name] += _problems(one, wrong, others)
    return Verdict(len(names), len(chunks), {name: found for name, found in damaged.items() if found})


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
        raise InvalidError(_OTHER_FILE, code="backup-damaged")
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


def _chunks(backup: Backup) -> Iterator[_Chunk]:
    """All that it needs."""
    for disk in backup.disks:
        yield from _lengths(disk.virtual_bytes, disk.chunks)
    for file in backup.files:
        yield from _chunks_of(file)


def _chunks_of(file: BackupFile) -> Iterator[_Chunk]:
    return _lengths(file.blob.size_bytes, file.chunks)


def _lengths(size_bytes: int, chunks: Sequence[str]) -> Iterator[_Chunk]:
    return ((chunk, chunk_length(size_bytes, index)) for index, chunk in enumerate(chunks) if chunk != ZEROS)


def _check(repository: Repository, chunks: Collection[_Chunk], told: Told) -> dict[_Chunk, str]:
    """What is wrong with each that cannot be read."""
    wrong: dict[_Chunk, str] = {}

    def check(chunk: _Chunk) -> None:
        try:
            repository.get(*chunk)
        except (InvalidError, NotFoundError) as error:
            wrong[chunk] = str(error)

    done, rest = 0, iter(chunks)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="verify") as pool:
        while batch := list(islice(rest, _BATCH)):
            for _ in pool.map(check, batch):
                done += 1
                told("verifying chunks", done * CHUNK_BYTES, len(chunks) * CHUNK_BYTES)
    return wrong


def _is_it(repository: Repository, file: BackupFile) -> bool:
    """Whether its chunks, each of them whole, are together what it is called."""
    digest = hashlib.sha256()
    try:
        for index, chunk in enumerate(file.chunks):
            digest.update(repository.get(chunk, chunk_length(file.blob.size_bytes, index)))
    except (InvalidError, NotFoundError):
        return False
    return "sha256:" + digest.hexdigest() == file.blob.digest


def _problems(backup: Backup, wrong: Mapping[_Chunk, str], others: Set[BackupFile]) -> list[str]:
    here = sorted(wrong.keys() & set(_chunks(backup)))
    more = f" and {len(here) - 1} more" if len(here) > 1 else ""
    return [
        *(wrong[chunk] + more for chunk in here[:1]),
        *(_OTHER_FILE for file in backup.files if file in others),
    ]


def _none(repository: Repository, endophyte: str, backup_id: str | None) -> NotFoundError:
    which = f"{endophyte}@{backup_id}" if backup_id else f"of {endophyte}"
    place = repository.storage.name
    return NotFoundError(
        f"{place} has no backup {which}", code="backup-not-found", hint=f"vdc backup ls {place}"
    )
