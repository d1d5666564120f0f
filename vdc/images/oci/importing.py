"""From a container image to the plan of an import: fetched, merged, and made into a disk.

Nothing of it is ever unpacked on the machine: layers stay archives, from which the file system is written.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from vdc.images.ext4.build import build_disk
from vdc.images.filetree import Kind, Node
from vdc.images.oci.configuration import Contents, read_contents
from vdc.images.oci.container_disk import find_disk
from vdc.images.oci.fetch import Fetcher, Inspected
from vdc.images.oci.layers import opened_layers
from vdc.images.oci.merge import Merger
from vdc.images.oci.pushed import members
from vdc.images.oci.registries import RegistryOptions
from vdc.images.oci.source import Source
from vdc.images.oci.tar import read_entries
from vdc.images.progress import Progress
from vdc.images.scratch import Scratch
from vdc.model.errors import InvalidError
from vdc.model.image import Blob, Image
from vdc.model.process import ImageProcess

_MOUNT_POINTS = ((b"dev", 0o755), (b"proc", 0o555), (b"run", 0o755), (b"sys", 0o555), (b"tmp", 0o1777))
_COPY_BYTES = 1 << 20
_DISK = "container-disk"
_NOTHING = Node(Kind.FOLDER, 0)


@dataclass(frozen=True, slots=True)
class ContainerFiles:
    """The file system of a container image in a disk, and its program."""

    path: Path
    virtual_bytes: int
    process: ImageProcess
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CarriedDisk:
    """The disk that a containerDisk image carries; `name` as the image calls it."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class PushedImage:
    """What `vdc image push` made: the image as it was, with its files."""

    image: Image
    files: tuple[tuple[Blob, Path], ...]


def import_container(
    source: Source,
    options: RegistryOptions,
    owned: ExitStack,
    progress: Progress,
    *,
    is_disk: bool = False,
    inspected: Inspected = lambda labels: None,
) -> ContainerFiles | CarriedDisk | PushedImage:
    """Fetch it and make a disk of it; `owned` keeps the temporary files. Blocks. Raises as the modules that it uses.

    `inspected` is told the image's labels before its layers are fetched, and may raise.
    """
    scratch = owned.enter_context(Scratch())
    what = source.name or source.text.partition(":")[0]
    fetcher = Fetcher(source, options, scratch, progress, what, inspected=inspected)
    contents = read_contents(fetcher.fetch())
    with opened_layers(contents.layers, scratch, progress) as layers:
        root = merge(layers)
        if contents.pushed is not None:
            return PushedImage(
                contents.pushed, _pushed_files(contents.pushed, root, layers, scratch, progress)
            )
        carried = find_disk(root, contents.process, is_wanted=is_disk)
        if carried is not None:
            path = _extract(carried[1], layers, scratch, _DISK, progress)
            return CarriedDisk(path, carried[0])
        add_mount_points(root)
        disk = build_disk(root, layers, scratch, _identity(contents), progress)
    return ContainerFiles(disk.path, disk.virtual_bytes, contents.process, contents.notes)


def merge(layers: Sequence[int]) -> Node:
    """The tree of some layers, the lowest first. Raises InvalidError (`image-layer-invalid`)."""
    merger = Merger()
    for layer in layers:
        merger.add_layer(read_entries(layer))
    return merger.root


def add_mount_points(root: Node) -> None:
    """What a guest mounts something at has to be there; what an image has there already stays as it is."""
    for name, permissions in _MOUNT_POINTS:
        if name not in root.children:
            root.children[name] = Node(Kind.FOLDER, permissions)


def _identity(contents: Contents) -> str:
    return ",".join(layer.diff_id for layer in contents.layers)


def _pushed_files(
    image: Image, root: Node, layers: Sequence[int], scratch: Scratch, progress: Progress
) -> tuple[tuple[Blob, Path], ...]:
    """The files that the description names. InvalidError (`image-damaged`) where one is not there, or another."""
    found = []
    for path, blob in members(image).items():
        node = root
        for part in path.encode().split(b"/"):
            node = node.children.get(part, _NOTHING) if node.kind is Kind.FOLDER else _NOTHING
        is_it = node.kind is Kind.FILE and node.size == blob.size_bytes
        name = f"pushed-{path.replace('/', '-')}"
        file = _extract(node, layers, scratch, name, progress) if is_it else None
        if file is None or _digest(file) != blob.digest:
            raise InvalidError(
                f"/{path} is not the file that the image's description names",
                hint="push it again",
                code="image-damaged",
            )
        found.append((blob, file))
    return tuple(found)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _extract(
    node: Node,
    layers: Sequence[int],
    scratch: Scratch,
    name: str,
    progress: Callable[[str, int, int], None],
) -> Path:
    """The file, out of the layer's archive."""
    held = sum(piece.size for piece in node.pieces)
    scratch.need(held)
    path = scratch.own(name)
    done = 0
    with path.open("xb") as file:
        file.truncate(node.size)
        for offset, size, source, place in node.pieces:
            left = size
            while left:
                chunk = os.pread(layers[source], min(left, _COPY_BYTES), place + size - left)
                if not chunk:
                    raise InvalidError("the layer has become shorter meanwhile", code="image-layer-invalid")
                os.pwrite(file.fileno(), chunk, offset + size - left)
                left -= len(chunk)
                done += len(chunk)
                progress("reading the disk", done, held)
    return path
