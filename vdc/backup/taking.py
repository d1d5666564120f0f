"""Taking a backup: a copy on the primary's host, read into a repository, and only then a backup."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from functools import partial

from vdc.api.backups import BackupRequest, BackupView, Part, read_parts
from vdc.api.client import ApiClient
from vdc.api.settling import once_settled
from vdc.backup import locks
from vdc.backup.record import CHUNK_BYTES, Backup, BackupDisk, BackupFile, chunk_count
from vdc.backup.repository import Repository
from vdc.backup.writing import DiskWriter
from vdc.model.errors import InvalidError, VdcError
from vdc.model.image import Blob
from vdc.model.manifest import EndophyteManifest
from vdc.model.secrets import masked

Told = Callable[[str, int, int], None]  # what, bytes done, bytes in all


class BackupTaker:
    """Of one VM, once. `is_full`: read all of it, and whatever is in the repository already."""

    def __init__(
        self,
        api: ApiClient,
        repository: Repository,
        told: Told,
        *,
        quiesce: bool = False,
        is_full: bool = False,
    ) -> None:
        self._api = api
        self._repository = repository
        self._told = told
        self._quiesce = quiesce
        self._is_full = is_full

    async def take(self, name: str) -> tuple[Backup, str]:
        """The backup, and why all of it was read, where it was. Nothing but chunks is left where it fails.

        Raises what the API and the repository raise.
        """
        with locks.shared(self._repository.storage, f"vdc backup create {name}") as lock:
            before = None if self._is_full else await self._before(name)
            self._told(f"copying the disks of {name} on its host", 0, 0)
            request = BackupRequest(quiesce=self._quiesce, since=before.id if before else "")
            view = await once_settled(
                lambda: self._api.backups.create(name, request), lambda why: self._told(why, 0, 0)
            )
            is_kept = False
            try:
                backup = await self._read(view, before)
                await asyncio.to_thread(lock.check)
                await asyncio.to_thread(self._repository.add, backup)
                is_kept = True
            finally:
                with suppress(
                    VdcError
                ):  # it gives itself up after a while; the next backup is a full one then
                    await asyncio.shield(self._api.backups.end(name, view.id, view.host, kept=is_kept))
        return backup, "--full was given" if self._is_full else view.full_because

    async def _before(self, name: str) -> Backup | None:
        """The newest backup of the same VM, if there is one."""
        newest = await asyncio.to_thread(self._repository.newest, name)
        if newest is None:
            return None
        uid = (await self._api.get_endophyte(name)).metadata.uid
        return newest if newest.uid == uid else None

    async def _read(self, view: BackupView, before: Backup | None) -> Backup:
        since = before if before is not None and view.since == before.id else None
        if view.since and (since is None or len(since.disks) != len(view.disks)):
            raise InvalidError(
                f"{view.endophyte} has other disks than its last backup", code="backup-damaged"
            )
        disks, read_bytes, written_bytes = [], 0, 0
        for number, disk in enumerate(view.disks):
            what = f"reading {disk.name} of {view.endophyte}"
            size_bytes = disk.virtual_bytes
            chunks = since.disks[number].chunks if since else None
            if chunks is not None and len(chunks) != chunk_count(size_bytes):
                raise InvalidError(
                    f"{disk.name} has another size than in its last backup", code="backup-damaged"
                )
            writer = DiskWriter(
                self._repository, size_bytes, chunks, again=self._is_full,
                told=partial(self._told, what),
            )  # fmt: skip
            written = await writer.write(self._stream(view, number, size_bytes))
            disks.append(BackupDisk(name=disk.name, virtual_bytes=size_bytes, chunks=tuple(written.chunks)))
            read_bytes += written.read_bytes
            written_bytes += written.written_bytes
        files = []
        for blob in (view.image.kernel, view.image.initrd):
            if blob is not None:
                file, stored_bytes = await self._file(blob, before)
                files.append(file)
                written_bytes += stored_bytes
        shared = ("id", "endophyte", "uid", "created_at", "since", "is_quiesced", "was_running")
        return Backup(
            **{field: getattr(view, field) for field in shared},
            image=view.image.with_(disk=None, disk_virtual_bytes=0), files=tuple(files), disks=tuple(disks),
            manifest=masked(EndophyteManifest.model_validate(view.manifest)),
            read_bytes=read_bytes, written_bytes=written_bytes,
        )  # fmt: skip

    def _stream(
        self, view: BackupView, disk: int, virtual_bytes: int
    ) -> Callable[[int], AsyncGenerator[Part, None]]:
        def parts(first: int) -> AsyncGenerator[Part, None]:
            chunks = self._api.backups.read(view.endophyte, view.id, view.host, disk, first)
            return read_parts(chunks, first, virtual_bytes)

        return parts

    async def _file(self, blob: Blob, before: Backup | None) -> tuple[BackupFile, int]:
        """A kernel or an initrd; not read again where the last backup has it."""
        for file in before.files if before is not None else ():
            if file.blob == blob:
                return file, 0
        content = bytearray()
        async for piece in self._api.read_blob(blob.digest):
            content += piece
            if len(content) > blob.size_bytes:
                break
        chunks, stored_bytes = [], 0
        for first in range(0, len(content), CHUNK_BYTES):
            chunk = bytes(content[first : first + CHUNK_BYTES])
            digest, size_bytes = await asyncio.to_thread(self._repository.put, chunk, again=self._is_full)
            chunks.append(digest)
            stored_bytes += size_bytes
        return BackupFile(blob=blob, chunks=tuple(chunks)), stored_bytes
