"""A repository: chunks by what is in them, and backups that name them. Blocks; several threads may use one."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from vdc.backup.record import CHUNK_BYTES, ZEROS, Backup, check_id
from vdc.backup.storage import Folder, Storage, open_storage
from vdc.model.errors import InvalidError, NotFoundError, VdcError
from vdc.model.ids import check_dns_label

MARKER: Final = "vdc-backup.json"
CHUNKS: Final = "chunks/"
BACKUPS: Final = "backups/"
_KIND = {"kind": "vdc-backup-repository", "format": 1, "chunk_bytes": CHUNK_BYTES}
_PLAIN, _DEFLATED = b"\x00", b"\x01"
_LEVEL = 1  # a fifth of the time of the usual one, and little larger
_CHUNK_KEY = re.compile(r"chunks/[0-9a-f]{2}/[0-9a-f]{64}")
_NOTHING = bytes(CHUNK_BYTES)


class Repository:
    """Of a storage. `open` or `init` it, so that nobody else's folder is written to."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    @classmethod
    def open(cls, place: str) -> Repository:
        """An existing one. NotFoundError (`not-a-repository`), InvalidError, UnavailableError."""
        storage = open_storage(place)
        try:
            kind = json.loads(storage.read(MARKER))
        except NotFoundError as error:
            raise NotFoundError(
                f"{storage.name} is no repository of backups", code="not-a-repository",
                hint="mount what it is on, if that is missing; vdc backup init REPOSITORY makes a new one",
            ) from error  # fmt: skip
        except ValueError as error:
            raise InvalidError(f"{storage.name}: {MARKER} is damaged", code="backup-damaged") from error
        if kind != _KIND:
            raise InvalidError(
                f"{storage.name} is of another kind than this program knows", code="backup-newer",
                hint="use the program that made it",
            )  # fmt: skip
        return cls(storage)

    @classmethod
    def init(cls, place: str) -> tuple[Repository, bool]:
        """The one that is there, or a new one; whether it is new. As `open` and `Folder.check_new`."""
        try:
            return cls.open(place), False
        except NotFoundError:
            storage = open_storage(place)
        if isinstance(storage, Folder):
            storage.check_new()
        storage.write(MARKER, json.dumps(_KIND).encode())
        return cls(storage), True

    # ---- chunks

    def put(self, content: bytes, *, again: bool = False) -> tuple[str, int]:
        """Keep a chunk; its digest, and how many bytes were written for it: none for what is there, and for zeros.

        `again`: what is there is read, and written anew where it is damaged.
        """
        if content == _NOTHING[: len(content)]:
            return ZEROS, 0
        digest = hashlib.sha256(content).hexdigest()
        key = chunk_key(digest)
        if self.storage.has(key) and (not again or self.is_whole(digest)):
            return digest, 0
        packed = zlib.compress(content, _LEVEL)
        stored = _DEFLATED + packed if len(packed) < len(content) else _PLAIN + content
        self.storage.write(key, stored)
        return digest, len(stored)

    def get(self, digest: str, length: int) -> bytes:
        """A chunk of so many bytes. InvalidError (`chunk-damaged`), NotFoundError (`chunk-missing`)."""
        if digest == ZEROS:
            return _NOTHING[:length]
        try:
            content = self._content(digest)
        except NotFoundError as error:
            raise NotFoundError(
                f"chunk {digest[:12]} is missing in {self.storage.name}", code="chunk-missing", hint=_REPAIR
            ) from error
        if content is None or hashlib.sha256(content).hexdigest() != digest or len(content) != length:
            raise InvalidError(
                f"chunk {digest[:12]} in {self.storage.name} is damaged", code="chunk-damaged", hint=_REPAIR
            )
        return content

    def is_whole(self, digest: str) -> bool:
        """Whether a chunk is there and is what it is called."""
        try:
            content = self._content(digest)
        except NotFoundError:
            return False
        return content is not None and hashlib.sha256(content).hexdigest() == digest

    def _content(self, digest: str) -> bytes | None:
        """Of a chunk; None where what is there is none. Raises NotFoundError."""
        try:
            return _unpacked(self.storage.read(chunk_key(digest), CHUNK_BYTES + 1))
        except InvalidError:
            return None

    # ---- backups

    def add(self, backup: Backup) -> None:
        """From here on it exists; all its chunks are there. InvalidError (`backup-damaged`), as it would be read."""
        backup.check(f"{backup.endophyte}@{backup.id}")
        self.storage.write(backup_key(backup.endophyte, backup.id), backup.to_text().encode())

    def remove(self, endophyte: str, backup_id: str) -> None:
        """Its chunks stay."""
        self.storage.delete(backup_key(endophyte, backup_id))

    def names(self, endophyte: str | None = None) -> list[tuple[str, str]]:
        """VM and id of each backup, the oldest first."""
        prefix = BACKUPS if endophyte is None else f"{BACKUPS}{check_dns_label(endophyte)}/"
        found = []
        for stored in self.storage.list(prefix):
            vm, _, file = stored.key.removeprefix(BACKUPS).partition("/")
            if file.endswith(".json"):
                found.append((vm, file.removesuffix(".json")))
        return sorted(found, key=lambda one: (one[0], one[1]))

    def read(self, endophyte: str, backup_id: str) -> Backup:
        """NotFoundError (`backup-not-found`), InvalidError (`backup-damaged`)."""
        what = f"{endophyte}@{backup_id}"
        try:
            text = self.storage.read(backup_key(endophyte, backup_id))
        except NotFoundError as error:
            raise NotFoundError(
                f"{self.storage.name} has no backup {what}", code="backup-not-found",
                hint=f"vdc backup ls {self.storage.name}",
            ) from error  # fmt: skip
        found = Backup.from_text(text, what)
        if (found.endophyte, found.id) != (endophyte, backup_id):
            raise InvalidError(f"{what} is another backup than it is called", code="backup-damaged")
        return found

    def each(
        self, names: Iterable[tuple[str, str]]
    ) -> Iterator[tuple[str, Backup | InvalidError | NotFoundError]]:
        """`VM@ID` and the backup, or what is wrong with it. One after the other: each may be many megabytes."""
        for vm, backup_id in names:
            found: Backup | InvalidError | NotFoundError
            try:
                found = self.read(vm, backup_id)
            except (InvalidError, NotFoundError) as error:
                found = error
            yield f"{vm}@{backup_id}", found

    def newest(self, endophyte: str) -> Backup | None:
        """The latest one of a VM that can be read."""
        for vm, backup_id in reversed(self.names(endophyte)):
            try:
                return self.read(vm, backup_id)
            except VdcError as error:
                if not isinstance(error, InvalidError | NotFoundError):
                    raise
        return None


_REPAIR: Final = (
    "vdc backup create VM --to REPOSITORY --full writes damaged chunks anew where the VM still has them"
)


def is_chunk(key: str) -> bool:
    """Whether a chunk can lie there; other files are not ours."""
    return _CHUNK_KEY.fullmatch(key) is not None and key == chunk_key(key.rpartition("/")[2])


def chunk_key(digest: str) -> str:
    """Where a chunk lies."""
    return f"{CHUNKS}{digest[:2]}/{digest}"


def backup_key(endophyte: str, backup_id: str) -> str:
    """Where a backup lies; InvalidError for what is no name."""
    try:
        check_dns_label(endophyte)
    except ValueError as error:
        raise InvalidError(str(error), code="name-invalid") from error
    return f"{BACKUPS}{endophyte}/{check_id(backup_id)}.json"


def _unpacked(stored: bytes) -> bytes | None:
    """Never more than a chunk, whatever is stored."""
    kind, body = stored[:1], stored[1:]
    if kind == _PLAIN:
        return body if len(body) <= CHUNK_BYTES else None
    if kind != _DEFLATED:
        return None
    try:
        unpacking = zlib.decompressobj()
        content = unpacking.decompress(body, CHUNK_BYTES + 1)
    except zlib.error:
        return None
    return content if unpacking.eof and len(content) <= CHUNK_BYTES else None
