"""Content-addressed files of one host: `ROOT/blobs/sha256/HEX`.

A file under its final name is whole and has been verified: it is written beside it under a temporary name, hashed on
the way, flushed to the disk and renamed. Beside a blob of several chunks lies its chunk list, `HEX.chunks`.

What is on its way: `.incoming-*` (a stream; worth nothing when its writer ends), `.upload-HEX` (an upload that can be
gone on with, `write_part`) and `.fetch-HEX` (chunks from other hosts, vdc.images.assembly). Whoever writes holds a lock
on the file, so that `sweep` can tell what nobody writes any more, this process or another one.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vdc.images.chunks import CHUNK_BYTES, ChunkHasher, ChunkList
from vdc.images.reference import check_digest
from vdc.images.writing import (
    FILE_MODE,
    BlobWriter,
    busy,
    check_content,
    in_thread,
    lock,
    needs_space,
    sync_folder,
)
from vdc.model.errors import ConflictError, InvalidError, NotFoundError, RefusedError
from vdc.model.image import Blob, Image

DIRECTORY_MODE = 0o755  # QEMU runs as another user and reads its images here
_READ_BYTES = 1024**2
_INCOMING, _UPLOAD, FETCH = ".incoming-", ".upload-", ".fetch-"
_LIST = ".chunks"
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a store holds (`unfinished_bytes`: what is on its way) and what is left on its file system."""

    blobs: int
    size_bytes: int
    free_bytes: int
    unfinished_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Swept:
    """What was taken away: blobs by digest, and names of what was unfinished."""

    blobs: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    size_bytes: int = 0


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def relative_path(digest: str) -> str:
    """Where a blob is below its store's root; `InvalidError` for anything that is not a digest."""
    return f"blobs/sha256/{check_digest(digest).removeprefix('sha256:')}"


class BlobStore:
    """The blobs under one folder. `reserve_bytes` of the file system stay free for running guests."""

    def __init__(
        self, root: Path, *, reserve_bytes: int = 0, free_bytes: Callable[[Path], int] = _free_bytes
    ) -> None:
        self.folder = root / "blobs" / "sha256"
        self._reserve_bytes = reserve_bytes
        self._free_bytes = free_bytes
        self._receiving: set[str] = set()  # digests that are being uploaded in parts
        self.promised: dict[str, int] = {}  # bytes that transfers have yet to write, by their file's name

    def prepare(self) -> None:
        """Make the folders (mode 0755 whatever the umask); done before the first write as well."""
        for folder in (self.folder.parent.parent, self.folder.parent, self.folder):
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(DIRECTORY_MODE)

    # ---- what is here

    def path(self, digest: str) -> Path:
        """Where the blob is or would be; `InvalidError` for anything that is not a digest."""
        return self.folder / check_digest(digest).removeprefix("sha256:")

    def has(self, digest: str) -> bool:
        """Whether the blob is here, whole."""
        return self.path(digest).is_file()

    def open(self, digest: str) -> BinaryIO:
        """The blob for reading; `NotFoundError` (`blob-not-found`)."""
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError as error:
            raise NotFoundError(f"this host does not hold {digest}", code="blob-not-found") from error

    def chunk_list(self, digest: str) -> ChunkList:
        """Of a blob that is here; made by reading it where it is not known. Blocks; `NotFoundError`."""
        with self.open(digest) as file:
            blob = Blob(digest=digest, size_bytes=os.fstat(file.fileno()).st_size)
            if blob.size_bytes <= CHUNK_BYTES:
                return ChunkList.of_small(blob)
            with suppress(OSError, InvalidError):
                return ChunkList.of(blob, self._list_path(digest).read_bytes())
            hasher = ChunkHasher()
            while content := file.read(_READ_BYTES):
                hasher.update(content)
        made = hasher.finish()
        self.save_list(digest, made)
        return made

    def chunk_lists(self, image: Image) -> dict[str, str]:
        """Digests of the lists of those blobs of an image that need one. Blocks."""
        return {
            blob.digest: self.chunk_list(blob.digest).digest
            for blob in image.blobs
            if blob.size_bytes > CHUNK_BYTES
        }

    def save_list(self, digest: str, chunks: ChunkList) -> None:
        """Remember the list of a blob, where it has one; it can be made anew. Blocks."""
        if chunks.count > 1:
            temporary = self._incoming()
            try:
                temporary.write_bytes(chunks.digests)
                temporary.chmod(FILE_MODE)
                temporary.replace(self._list_path(digest))
            except OSError:
                temporary.unlink(missing_ok=True)

    def remove(self, digest: str) -> bool:
        """Remove the blob; says whether it was there. Whoever has it open keeps it."""
        path = self.path(digest)
        self._list_path(digest).unlink(missing_ok=True)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        return True

    def digests(self) -> tuple[str, ...]:
        """Everything that is here, sorted."""
        if not self.folder.is_dir():
            return ()
        names = sorted(entry.name for entry in self.folder.iterdir() if _HEX.fullmatch(entry.name))
        return tuple(f"sha256:{name}" for name in names)

    def usage(self) -> Usage:
        """Number and size of what is here; the free bytes already without the reserve."""
        self.prepare()
        sizes, unfinished = [], 0
        for entry in self.folder.iterdir():
            with suppress(FileNotFoundError):
                on_disk = _bytes_on_disk(entry)
                if _HEX.fullmatch(entry.name):
                    sizes.append(on_disk)
                elif entry.name.startswith("."):
                    unfinished += on_disk
        return Usage(len(sizes), sum(sizes), max(0, self.free_bytes()), unfinished)

    def free_bytes(self) -> int:
        """What may still be written: without the reserve, and without what transfers have yet to write."""
        return self._free_bytes(self.folder) - self._reserve_bytes - sum(list(self.promised.values()))

    def check_space(self, size_bytes: int) -> None:
        """Raises RefusedError (`no-space`)."""
        free = self.free_bytes()
        if size_bytes > free:
            raise needs_space(size_bytes, free)

    # ---- writing

    async def write(self, digest: str, chunks: AsyncIterable[bytes], size_bytes: int | None = None) -> Blob:
        """Store a stream under its digest; a blob that is here already is not read again.

        Raises `InvalidError` (`digest-mismatch`) where the content is another, `RefusedError` (`no-space`)
        before the first byte where `size_bytes` does not fit, and later where the disk fills up meanwhile.
        Nothing is left behind then, nor when the stream fails or the task is cancelled.
        """
        path = self.path(digest)
        if path.is_file():
            return Blob(digest=digest, size_bytes=path.stat().st_size)
        self.prepare()
        self.check_space(size_bytes or 0)
        writer = BlobWriter(self._incoming())
        try:
            await in_thread(writer.open, self.folder)
            await self._write_all(writer, chunks, size_bytes)
            await self._publish(writer, digest, size_bytes)
        finally:
            await self._close(writer)
        return Blob(digest=digest, size_bytes=writer.size_bytes)

    async def add(self, chunks: AsyncIterable[bytes], size_bytes: int) -> Blob:
        """Store a stream of so many bytes whose digest nobody knows yet. Raises and cleans up as `write`."""
        self.prepare()
        self.check_space(size_bytes)
        writer = BlobWriter(self._incoming())
        try:
            await in_thread(writer.open, self.folder)
            await self._write_all(writer, chunks, size_bytes)
            await in_thread(writer.flush, self.folder)
            digest = writer.digest
            if not self.path(digest).is_file():
                await self._publish(writer, digest, size_bytes)
        finally:
            await self._close(writer)
        return Blob(digest=digest, size_bytes=writer.size_bytes)

    def received(self, digest: str) -> int:
        """How much of an upload in parts is here."""
        try:
            return self._upload(digest).stat().st_size
        except FileNotFoundError:
            return 0

    def is_receiving(self, digest: str) -> bool:
        """Whether somebody sends it in parts now."""
        return digest in self._receiving

    async def write_part(
        self, digest: str, first: int, chunks: AsyncIterable[bytes], size_bytes: int
    ) -> Blob | None:
        """Go on with an upload at the byte `first`; the blob when it is whole. What arrives stays, whatever happens.

        Raises ConflictError: `upload-offset` where another byte is due, `blob-busy` while another does the same; the
        rest as `write`, and then nothing is left of it.
        """
        path = self.path(digest)
        if path.is_file():
            return Blob(digest=digest, size_bytes=path.stat().st_size)
        if first != self.received(digest):
            raise _wrong_place(first, self.received(digest))
        if digest in self._receiving:
            raise busy()
        self.prepare()
        self.check_space(size_bytes - first)
        writer, is_kept = BlobWriter(self._upload(digest)), True
        self._receiving.add(digest)
        try:
            await in_thread(writer.open, self.folder)
            if first != writer.size_bytes:
                raise _wrong_place(first, writer.size_bytes)
            await self._write_all(writer, chunks, size_bytes)
            if writer.size_bytes < size_bytes:
                return None
            await self._publish(writer, digest, size_bytes)
        except (InvalidError, RefusedError):  # wrong content, or a full disk
            is_kept = False
            raise
        finally:
            self._receiving.discard(digest)
            await self._close(writer, keep=is_kept)
        return Blob(digest=digest, size_bytes=writer.size_bytes)

    async def _write_all(
        self, writer: BlobWriter, chunks: AsyncIterable[bytes], size_bytes: int | None
    ) -> None:
        async for chunk in chunks:
            if writer.accept(chunk):
                await in_thread(writer.flush, self.folder)
                self.promised[writer.name] = max(0, (size_bytes or 0) - writer.size_bytes)
                self.check_space(0)  # others write too, and not every sender says how much will come
            if size_bytes is not None and writer.size_bytes > size_bytes:
                break

    async def _close(self, writer: BlobWriter, *, keep: bool = False) -> None:
        self.promised.pop(writer.name, None)
        await in_thread(lambda: writer.close(keep=keep), self.folder)

    async def _publish(self, writer: BlobWriter, digest: str, size_bytes: int | None) -> None:
        await in_thread(writer.finish, self.folder)
        check_content(digest, size_bytes, writer)

        def publish() -> None:
            self.save_list(digest, writer.publish(self.path(digest)))

        await in_thread(publish, self.folder)

    def take(self, digest: str, temporary: Path, chunks: ChunkList) -> None:
        """Give a verified file its final name. Blocks."""
        temporary.replace(self.path(digest))
        sync_folder(self.folder)
        self.save_list(digest, chunks)

    # ---- tidying up

    def sweep(
        self, needed: Collection[str] | None = None, *, idle_s: float = 0.0, is_dry: bool = False
    ) -> Swept:
        """Remove temporary files that nobody writes any more and, where `needed` is given, what is not needed.

        Of what is unfinished that is what has not grown for `idle_s`, of blobs what is as old as that. Blocks.
        """
        if not self.folder.is_dir():
            return Swept()
        blobs: list[str] = []
        unfinished: list[str] = []
        size_bytes = 0
        youngest = time.time() - idle_s
        for entry in sorted(self.folder.iterdir()):
            kind, digest = _kind_of(entry.name)
            if entry.suffix == _LIST and not is_dry and not entry.with_suffix("").exists():
                entry.unlink(missing_ok=True)
            if kind is None or (needed is None and kind != _INCOMING):
                continue
            is_wanted = kind in ("", FETCH) and needed is not None and digest in needed
            with suppress(FileNotFoundError):
                if is_wanted or (kind != _INCOMING and entry.stat().st_mtime > youngest):
                    continue
                on_disk = _bytes_on_disk(entry)
                if not _remove_unlocked(entry, is_dry=is_dry):
                    continue
                size_bytes += on_disk
                (unfinished if kind else blobs).append(entry.name if kind else digest)
                if not kind and not is_dry:
                    self._list_path(digest).unlink(missing_ok=True)
        return Swept(tuple(blobs), tuple(unfinished), size_bytes)

    def _list_path(self, digest: str) -> Path:
        return self.path(digest).with_suffix(_LIST)

    def _incoming(self) -> Path:
        return self.folder / f"{_INCOMING}{secrets.token_hex(8)}"

    def _upload(self, digest: str) -> Path:
        return self.folder / f"{_UPLOAD}{self.path(digest).name}"

    def fetch_path(self, digest: str) -> Path:
        """Where chunks of a blob from other hosts are put together."""
        return self.folder / f"{FETCH}{self.path(digest).name}"


def _kind_of(name: str) -> tuple[str | None, str]:
    """What a file is (empty: a blob; None: none of ours), and of which digest."""
    if _HEX.fullmatch(name):
        return "", f"sha256:{name}"
    for kind in (_INCOMING, _UPLOAD, FETCH):
        if name.startswith(kind):
            return kind, f"sha256:{name.removeprefix(kind)}"
    return None, ""


def _bytes_on_disk(path: Path) -> int:
    """What goes when the file goes: holes take nothing."""
    found = path.stat()
    return min(found.st_size, found.st_blocks * 512)


def _wrong_place(first: int, due: int) -> ConflictError:
    return ConflictError(f"the part begins at byte {first}, due is {due}", code="upload-offset")


def _remove_unlocked(path: Path, *, is_dry: bool) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False  # published or removed meanwhile
    try:
        lock(descriptor, path)
        if not is_dry:
            path.unlink(missing_ok=True)
        return True
    except ConflictError:
        return False
    finally:
        os.close(descriptor)
