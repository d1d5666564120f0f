"""A tree of files as they will be in a guest: names, owners, attributes, and where each file's bytes are. Pure.

Names are bytes, as Linux has them. A file with several names is one `Node` under each of them. Nothing here follows
a link or touches a file system.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """What a node is; the value is its type in a Unix mode."""

    FIFO = 0o010000
    CHARACTER = 0o020000
    FOLDER = 0o040000
    BLOCK = 0o060000
    FILE = 0o100000
    SYMLINK = 0o120000


class Piece(NamedTuple):
    """Bytes of a file: `size` of them from `offset` on are at `place` of the source file `source`."""

    offset: int
    size: int
    source: int
    place: int


@dataclass(slots=True, eq=False)
class Node:
    """One inode. `pieces` are sorted and do not overlap; what lies between them is a hole.

    `permissions` are the lower 12 bits of the mode. `xattrs` have their full names (`user.origin`).
    """

    kind: Kind
    permissions: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    size: int = 0
    pieces: tuple[Piece, ...] = ()
    target: bytes = b""  # of a symbolic link
    device: tuple[int, int] = (0, 0)
    children: dict[bytes, Node] = field(default_factory=dict)

    @property
    def mode(self) -> int:
        """Type and permissions, as stat(2) has them."""
        return self.kind.value | self.permissions


def walk(root: Node) -> Iterator[tuple[Node, list[tuple[bytes, Node]]]]:
    """Every folder with its sorted content; parents come before their children."""
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        content = sorted(folder.children.items())
        yield folder, content
        waiting.extend(node for _, node in reversed(content) if node.kind is Kind.FOLDER)
