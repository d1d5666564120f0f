"""Put a tree of files into an empty file system. The same tree gives the same bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vdc.images.ext4.attributes import pack_attributes
from vdc.images.ext4.records import (
    BLOCK_BYTES,
    FAST_SYMLINK_BYTES,
    MAX_EXTENT_BLOCKS,
    MAX_LINKS,
    Extent,
    extent_blocks,
    folder_blocks,
    pack_device,
    pack_extents,
    pack_folder,
    pack_inode,
)
from vdc.images.ext4.volume import FIRST_INODE, ROOT_INODE, Volume
from vdc.images.filetree import Kind, Node, walk
from vdc.model.errors import InvalidError
from vdc.model.units import MIB

_BY_US_BYTES = 256 * 1024  # pieces below are read and written here, larger ones copied by the kernel
_STEP_BYTES = 16 * MIB  # between two looks at the progress
_SPECIAL = (Kind.CHARACTER, Kind.BLOCK, Kind.FIFO)


@dataclass(frozen=True, slots=True)
class Layout:
    """A tree with its inodes numbered, and what it takes."""

    root: Node
    numbers: dict[Node, int]  # in their order, the root first
    links: dict[Node, int]
    parents: dict[Node, int]  # of folders
    blocks: int  # at most
    content_bytes: int
    largest_folder: int  # names in it


def lay_out(root: Node) -> Layout:
    """Number the inodes and count blocks. Raises InvalidError (`image-links-many`)."""
    numbers: dict[Node, int] = {root: ROOT_INODE}
    links: dict[Node, int] = {}
    parents = {root: ROOT_INODE}
    blocks = content_bytes = largest = 0
    for folder, content in walk(root):
        subfolders = 0
        blocks += folder_blocks(name for name, _ in content) + _attribute_blocks(folder)
        largest = max(largest, len(content))
        for _, node in content:
            if node not in numbers:
                numbers[node] = FIRST_INODE + len(numbers) - 1
                if node.kind is not Kind.FOLDER:
                    blocks += _most_blocks(node) + _attribute_blocks(node)
                    content_bytes += sum(piece.size for piece in node.pieces)
            if node.kind is Kind.FOLDER:
                parents[node] = numbers[folder]
                subfolders += 1
            else:
                links[node] = links.get(node, 0) + 1
        links[folder] = 2 + subfolders if subfolders + 2 < MAX_LINKS else 1  # the feature dir_nlink
    if links and max(links.values()) > MAX_LINKS:
        raise InvalidError(
            f"a file has more than {MAX_LINKS} names, which ext4 cannot hold", code="image-links-many"
        )
    return Layout(root, numbers, links, parents, blocks, content_bytes, largest)


def _attribute_blocks(node: Node) -> int:
    return 1 if node.xattrs else 0


def _most_blocks(node: Node) -> int:
    if node.kind is Kind.SYMLINK:
        return len(node.target) > FAST_SYMLINK_BYTES
    if not node.pieces:
        return 0
    runs = list(_block_runs(node))
    blocks = sum(count for _, count in runs)
    return blocks + extent_blocks(2 * len(runs) + blocks // MAX_EXTENT_BLOCKS)


def _block_runs(node: Node) -> Iterator[tuple[int, int]]:
    """Which of its blocks a file needs: (first, number), in order, no two of them adjacent."""
    first = end = 0
    for piece in node.pieces:
        begin, stop = piece.offset // BLOCK_BYTES, -(-(piece.offset + piece.size) // BLOCK_BYTES)
        if begin > end:
            if end > first:
                yield first, end - first
            first = begin
        end = max(end, stop)
    if end > first:
        yield first, end - first


class Filler:
    """Writes a layout's files into a volume. `sources` are the open files that pieces name."""

    def __init__(
        self, volume: Volume, layout: Layout, sources: Sequence[int], progress: Callable[[int], None]
    ) -> None:
        self._volume = volume
        self._layout = layout
        self._sources = sources
        self._progress = progress
        self._done_bytes = self._told_bytes = 0

    def fill(self) -> None:
        """All of it. Raises InvalidError (`image-layer-invalid`) where a source is shorter than it was."""
        for node, number in self._layout.numbers.items():
            self._volume.add_inode(number, self._record(node, number), is_folder=node.kind is Kind.FOLDER)
        self._volume.finish()

    def _record(self, node: Node, number: int) -> bytes:
        attributes, block = pack_attributes(node.xattrs) if node.xattrs else (b"", b"")
        attribute_block = self._write_block(block) if block else 0
        size, blocks, place, has_extents = self._content(node, number)
        return pack_inode(
            node,
            links=self._layout.links[node],
            size=size,
            blocks=blocks + bool(block),
            place=place,
            has_extents=has_extents,
            attributes=attributes,
            attribute_block=attribute_block,
        )

    def _content(self, node: Node, number: int) -> tuple[int, int, bytes, bool]:
        """Size, number of blocks, what the inode says of their place, and whether those are extents."""
        if node.kind in _SPECIAL:
            return 0, 0, bytes(60) if node.kind is Kind.FIFO else pack_device(node.device), False
        if node.kind is Kind.SYMLINK and len(node.target) <= FAST_SYMLINK_BYTES:
            return len(node.target), 0, node.target.ljust(60, b"\0"), False
        if node.kind is Kind.FILE:
            extents = self._extents(_block_runs(node))
            self._write_pieces(node, extents)
            size = node.size
        else:
            content = node.target if node.kind is Kind.SYMLINK else self._folder(node, number)
            extents = self._extents([(0, -(-len(content) // BLOCK_BYTES))])
            self._write_content(content, extents)
            size = len(content)
        place, more = pack_extents(extents, self._write_block)
        return size, sum(count for _, _, count in extents) + more, place, True

    def _folder(self, node: Node, number: int) -> bytes:
        numbers = self._layout.numbers
        content = ((name, numbers[child], child.kind) for name, child in sorted(node.children.items()))
        return pack_folder(number, self._layout.parents[node], content)

    def _extents(self, runs: Sequence[tuple[int, int]] | Iterator[tuple[int, int]]) -> list[Extent]:
        extents = []
        for first, count in runs:
            for start, taken in self._volume.take(count):
                extents.append((first, start, taken))
                first += taken  # noqa: PLW2901 - the rest of the run
        return extents

    def _write_block(self, content: bytes) -> int:
        ((block, _),) = self._volume.take(1)
        self._volume.write(block * BLOCK_BYTES, content)
        return block

    def _write_content(self, content: bytes, extents: Sequence[Extent]) -> None:
        for first, start, count in extents:
            part = content[first * BLOCK_BYTES : (first + count) * BLOCK_BYTES]
            self._volume.write(start * BLOCK_BYTES, part)

    def _write_pieces(self, node: Node, extents: Sequence[Extent]) -> None:
        """Both are in order; a piece may reach over extents, and an extent hold several pieces."""
        index = 0
        for piece in node.pieces:
            offset, place, left = piece.offset, piece.place, piece.size
            while left:
                first, start, count = extents[index]
                if offset >= (first + count) * BLOCK_BYTES:
                    index += 1
                    continue
                part = min(left, (first + count) * BLOCK_BYTES - offset)
                self._copy(piece.source, place, start * BLOCK_BYTES + offset - first * BLOCK_BYTES, part)
                offset, place, left = offset + part, place + part, left - part

    def _copy(self, source: int, source_place: int, place: int, count: int) -> None:
        while count:
            if count < _BY_US_BYTES:
                content = os.pread(self._sources[source], count, source_place)
                self._volume.write(place, content)
                done = len(content)
            else:
                done = self._volume.copy(self._sources[source], source_place, place, min(count, _STEP_BYTES))
            if not done:
                raise InvalidError("a layer has become shorter meanwhile", code="image-layer-invalid")
            source_place, place, count = source_place + done, place + done, count - done
            self._done_bytes += done
            if self._done_bytes - self._told_bytes >= _STEP_BYTES:
                self._told_bytes = self._done_bytes
                self._progress(self._done_bytes)
