"""Layers as bytes, read and merged without a tool; and trees as plain values, to be compared."""

from __future__ import annotations

import os
from collections.abc import Iterator

from vdc.images.filetree import Kind, Node
from vdc.images.oci.merge import Merger
from vdc.images.oci.tar import TarEntry, read_entries


def open_bytes(content: bytes) -> int:
    """A descriptor of a file that nobody else sees."""
    descriptor = os.memfd_create("layer")
    os.write(descriptor, content)
    return descriptor


def entries_of(archive: bytes) -> list[TarEntry]:
    descriptor = open_bytes(archive)
    try:
        return list(read_entries(descriptor))
    finally:
        os.close(descriptor)


def merged(*layers: bytes) -> Node:
    merger = Merger()
    for layer in layers:
        descriptor = open_bytes(layer)
        try:
            merger.add_layer(read_entries(descriptor))
        finally:
            os.close(descriptor)
    return merger.root


def content_of(node: Node, layers: tuple[bytes, ...]) -> bytes:
    content = bytearray(node.size)
    for offset, size, source, place in node.pieces:
        content[offset : offset + size] = layers[source][place : place + size]
    return bytes(content)


def paths(root: Node) -> Iterator[tuple[bytes, Node]]:
    """Every path below the root, sorted."""
    waiting = [(b"", root)]
    while waiting:
        path, node = waiting.pop()
        if path:
            yield path, node
        waiting += sorted(
            ((path + b"/" + name if path else name, child) for name, child in node.children.items()),
            key=lambda item: item[0],
            reverse=True,
        )


def listing(*layers: bytes) -> dict[str, bytes | str | None]:
    """What is at each path: a file's content, `-> target`, or None for a folder."""
    found: dict[str, bytes | str | None] = {}
    for path, node in paths(merged(*layers)):
        name = path.decode(errors="backslashreplace")
        if node.kind is Kind.FILE:
            found[name] = content_of(node, layers)
        elif node.kind is Kind.SYMLINK:
            found[name] = "-> " + node.target.decode()
        else:
            found[name] = None if node.kind is Kind.FOLDER else node.kind.name
    return found
