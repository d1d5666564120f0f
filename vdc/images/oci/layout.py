"""Writing an image into an OCI layout (image-spec, image-layout.md): a folder, or a tar archive of one.

Blobs first, the index last and in one step: a reader sees the image whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from vdc.images.oci.pushed import OWNER, config_of, index_with, manifest_of
from vdc.model.errors import InvalidError
from vdc.model.image import Blob, Image

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_MAX_INDEX_BYTES = 4 * 1024**2
_BLOCK = tarfile.BLOCKSIZE


class LayerWriter:
    """One layer, file after file; the same files make the same bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._size_bytes = 0
        self._left = 0  # of the file that is being written
        self._folders: set[str] = set()

    def begin(self, path: str, size_bytes: int) -> None:
        """The next file; `write` has to bring so many bytes."""
        assert self._left == 0
        folder = path.rpartition("/")[0]
        if folder and folder not in self._folders:
            self._folders.add(folder)
            self._header(folder, tarfile.DIRTYPE, 0o755, 0)
        self._header(path, tarfile.REGTYPE, 0o440, size_bytes)
        self._left = size_bytes

    def write(self, content: bytes) -> None:
        """More of the file."""
        self._left -= len(content)
        self._put(content)
        if self._left == 0:
            self._put(bytes(-self._size_bytes % _BLOCK))

    def finish(self) -> Blob:
        """The end of the layer."""
        assert self._left == 0
        self._put(bytes(2 * _BLOCK))
        return Blob(digest="sha256:" + self._hash.hexdigest(), size_bytes=self._size_bytes)

    def close(self) -> None:
        """Once more does nothing."""
        self._file.close()

    def _header(self, path: str, kind: bytes, mode: int, size_bytes: int) -> None:
        info = tarfile.TarInfo(path)
        info.type, info.mode, info.size = kind, mode, size_bytes
        info.uid = info.gid = OWNER
        self._put(info.tobuf(tarfile.PAX_FORMAT))

    def _put(self, content: bytes) -> None:
        self._file.write(content)
        self._hash.update(content)
        self._size_bytes += len(content)


class Layout:
    """A folder that is a layout, is made one, or is refused (InvalidError, `layout-unusable`)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blobs = folder / "blobs" / "sha256"

    def prepare(self) -> None:
        """Make the folders. What is there already has to be a layout."""
        self._index()
        self._blobs.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "oci-layout").exists():
            (self.folder / "oci-layout").write_bytes(_LAYOUT)

    @contextmanager
    def new_layer(self) -> Iterator[tuple[LayerWriter, Path]]:
        """A layer under a temporary name, gone at the end unless it was added."""
        path = self._blobs / f".{secrets.token_hex(8)}"
        try:
            writer = LayerWriter(path.open("xb"))
            try:
                yield writer, path
            finally:
                writer.close()
        finally:
            path.unlink(missing_ok=True)

    def add(self, image: Image, layer: Blob, written: Path, tag: str) -> str:
        """Give a layer its name, and the image its tag; the digest of its manifest."""
        written.replace(self._blobs / layer.digest.removeprefix("sha256:"))
        config = self._put(config_of(image, layer.digest))
        manifest = self._put(manifest_of(config, layer))
        self._replace(self.folder / "index.json", index_with(self._index(), manifest, tag))
        return manifest.digest

    def _index(self) -> dict[str, Any]:
        path = self.folder / "index.json"
        if not path.exists():
            is_begun = (self.folder / "oci-layout").exists()
            if not is_begun and self.folder.exists() and any(self.folder.iterdir()):
                raise _unusable(self.folder, "it is not empty, and no layout")
            return {}
        try:
            index = json.loads(path.read_bytes()[:_MAX_INDEX_BYTES])
            if not isinstance(index, dict) or not isinstance(index.get("manifests", []), list):
                raise ValueError
        except (OSError, ValueError, RecursionError) as error:
            raise _unusable(self.folder, "its index.json cannot be read") from error
        return index

    def _put(self, content: bytes) -> Blob:
        digest = hashlib.sha256(content).hexdigest()
        self._replace(self._blobs / digest, content)
        return Blob(digest=f"sha256:{digest}", size_bytes=len(content))

    def _replace(self, path: Path, content: bytes) -> None:
        temporary = path.with_name(f".{secrets.token_hex(8)}")
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def archive(folder: Path, target: Path) -> None:
    """Put a layout into one tar archive, in one step; the same layout makes the same bytes."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
            for path in sorted(folder.rglob("*")):
                info = tar.gettarinfo(path, str(path.relative_to(folder)))
                info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
                if info.isdir():  # or who unpacks it makes the folder as somebody who may not
                    info.mode = 0o755
                    tar.addfile(info)
                    continue
                info.mode = 0o644
                with path.open("rb") as file:
                    tar.addfile(info, file)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _unusable(folder: Path, reason: str) -> InvalidError:
    return InvalidError(
        f"{folder} cannot take the image: {reason}", hint="name another folder", code="layout-unusable"
    )
