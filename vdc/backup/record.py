"""A backup as it stands in its repository. Secrets of the VM are not in it: a mask stands in their place."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from typing import Final, Literal

from pydantic import Field, ValidationError

from vdc.images.formats.problems import MAX_VIRTUAL_BYTES
from vdc.model.base import Record
from vdc.model.errors import InvalidError
from vdc.model.ids import DnsLabel
from vdc.model.image import Blob, Image
from vdc.model.manifest import EndophyteManifest
from vdc.model.units import GIB

CHUNK_BYTES: Final = 4 * 1024**2  # part of what is stored: never change it
ZEROS: Final = ""  # in place of the digest of a chunk that holds nothing else
_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{4}")
_CHUNK = re.compile(r"([0-9a-f]{64})?")
_MOST_FILE_BYTES: Final = GIB  # of a kernel or an initrd


class BackupDisk(Record):
    """One disk. `chunks`: the sha256 of each 4 MiB, the last one may be shorter."""

    name: str
    virtual_bytes: int = Field(gt=0, le=MAX_VIRTUAL_BYTES)
    chunks: tuple[str, ...] = Field(repr=False)


class BackupFile(Record):
    """Another file of the VM's image, its kernel or initrd, in chunks as disks are."""

    blob: Blob
    chunks: tuple[str, ...] = Field(repr=False)


class Backup(Record):
    """One backup, restorable by itself. `since`: the backup whose later changes alone were read for it; else empty."""

    format: Literal[1] = 1
    id: str
    endophyte: DnsLabel
    uid: str
    created_at: str
    since: str = ""
    is_quiesced: bool = False
    was_running: bool = True
    image: Image  # what it boots with, but for the disk
    files: tuple[BackupFile, ...] = ()
    disks: tuple[BackupDisk, ...]
    manifest: EndophyteManifest = Field(repr=False)
    read_bytes: int = 0  # from the host
    written_bytes: int = 0  # into the repository

    @property
    def chunks(self) -> frozenset[str]:
        """All that it needs."""
        lists = [*(disk.chunks for disk in self.disks), *(file.chunks for file in self.files)]
        return frozenset(chunk for chunks in lists for chunk in chunks) - {ZEROS}

    @property
    def virtual_bytes(self) -> int:
        """Of all disks."""
        return sum(disk.virtual_bytes for disk in self.disks)

    def to_text(self) -> str:
        """What is stored."""
        body = self.model_dump(mode="json", by_alias=True)
        return json.dumps({"sha256": _checksum(body), "backup": body}, indent=1)

    @classmethod
    def from_text(cls, text: bytes, what: str) -> Backup:
        """Raises InvalidError: `backup-damaged`, `backup-newer`."""
        try:
            outer = json.loads(text)
            body, checksum = outer["backup"], outer["sha256"]
            is_whole = _checksum(body) == checksum
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _damaged(what, "it is no description of a backup") from error
        if not is_whole:
            raise _damaged(what, "its checksum is another")
        try:
            found = cls.model_validate(body)
        except ValidationError as error:  # it is what was written, by a program of another version
            raise InvalidError(
                f"{what} is of another kind than this program knows", code="backup-newer",
                hint="use the program that wrote it",
            ) from error  # fmt: skip
        found.check(what)
        return found

    @property
    def when(self) -> datetime:
        """When the moment was."""
        return datetime.fromisoformat(self.created_at)

    def check(self, what: str) -> None:
        """InvalidError (`backup-damaged`) where chunks and sizes do not fit together, or the time is none."""
        try:
            is_dated = self.when.tzinfo is not None
        except ValueError:
            is_dated = False
        if not is_dated or not _ID.fullmatch(self.id):
            raise _damaged(what, "its time or its id is none")
        if len(self.files) > 2 or any(file.blob.size_bytes > _MOST_FILE_BYTES for file in self.files):
            raise _damaged(what, "it holds more than a kernel and an initrd")
        if not all(
            text.isprintable() for text in (self.uid, self.since, *(disk.name for disk in self.disks))
        ):
            raise _damaged(what, "a name in it cannot be shown")
        parts = [(disk.virtual_bytes, disk.chunks) for disk in self.disks]
        parts += [(file.blob.size_bytes, file.chunks) for file in self.files]
        for size_bytes, chunks in parts:
            is_whole = len(chunks) == chunk_count(size_bytes)
            if not is_whole or not all(_CHUNK.fullmatch(chunk) for chunk in chunks):
                raise _damaged(what, "its list of chunks is not right")


def chunk_count(size_bytes: int) -> int:
    """How many chunks a disk of this size has."""
    return -(-size_bytes // CHUNK_BYTES)


def chunk_length(size_bytes: int, index: int) -> int:
    """Bytes of one chunk."""
    return min(CHUNK_BYTES, size_bytes - index * CHUNK_BYTES)


def check_id(text: str) -> str:
    """The id of a backup; InvalidError (`backup-id-invalid`)."""
    if not _ID.fullmatch(text):
        raise InvalidError(
            f"{text[:80]!r} is not the id of a backup",
            code="backup-id-invalid",
            hint="vdc backup ls REPOSITORY",
        )
    return text


def _checksum(body: object) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _damaged(what: str, why: str) -> InvalidError:
    return InvalidError(
        f"{what} is damaged: {why}", code="backup-damaged", hint="vdc backup verify REPOSITORY"
    )


class BackupSummary(Record):
    """A backup as it is listed."""

    endophyte: str
    id: str
    uid: str
    created_at: str
    since: str
    is_quiesced: bool
    was_running: bool
    disks: tuple[str, ...]
    virtual_bytes: int
    read_bytes: int
    written_bytes: int

    @classmethod
    def of(cls, backup: Backup) -> BackupSummary:
        """Without chunks and manifest."""
        shared = set(cls.model_fields) - {"disks"}
        values = {name: getattr(backup, name) for name in shared}
        return cls(**values, disks=tuple(disk.name for disk in backup.disks))
