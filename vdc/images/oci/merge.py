"""The layers of a container image, one over the other, as one tree. Pure but for reading the layers' headers.

As OCI's image-spec (layer.md) says, and containerd does it:
- A name is cleaned and taken below the root; symbolic links in the folders on the way are followed, as if the tree were
  the whole world. So nothing leads out of it, and `lib/x` goes to where the link /lib leads.
- What comes later replaces what was there, with all that is in it; only a folder over a folder keeps its content.
- `.wh.NAME` removes NAME of the layers below, `.wh..wh..opq` all that is in its folder; what the same layer brings
  stays, wherever in the archive it stands. Other names of aufs (`.wh..wh.*`) are passed over.
- A hard link is another name of what its target is at that moment, in this layer or below; if the target is replaced
  later, the link keeps the old content. The link's own owner and times do not count: not every archive fills them.
- Folders that no layer describes are root's, with mode 0755.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable

from vdc.images.filetree import Kind, Node, Piece
from vdc.images.oci.tar import EntryKind, TarEntry
from vdc.images.oci.window import LayerError
from vdc.model.units import MIB

MAX_ENTRIES = 2_000_000  # of all layers
MAX_HELD_BYTES = 512 * MIB  # of names, links, attributes and maps of sparse files
MAX_STEPS = 200_000_000  # in all: paths and whiteouts can be such that each entry takes very many
MAX_NAME_BYTES = 255
_MAX_FOLLOWED = 40  # symbolic links in one path, as Linux
_WHITEOUT, _AUFS, _OPAQUE = b".wh.", b".wh..wh.", b".wh..wh..opq"
_PIECE_BYTES = 64  # about what one takes in memory
_KINDS = {
    EntryKind.FILE: Kind.FILE,
    EntryKind.SYMLINK: Kind.SYMLINK,
    EntryKind.CHARACTER: Kind.CHARACTER,
    EntryKind.BLOCK: Kind.BLOCK,
    EntryKind.FOLDER: Kind.FOLDER,
    EntryKind.FIFO: Kind.FIFO,
}


class Merger:
    """Takes layers from the lowest one on; `root` is what they make together."""

    def __init__(self) -> None:
        self.root = Node(Kind.FOLDER)
        self._entries = 0
        self._held_bytes = 0
        self._steps = 0
        self._layer = -1
        self._fresh: defaultdict[Node, set[bytes]] = defaultdict(set)  # names that this layer brought
        self._last: tuple[bytes, Node] | None = None  # the last entry's folder, by its path

    def add_layer(self, entries: Iterable[TarEntry]) -> None:
        """Lay one more over it. Raises LayerError (`image-layer-invalid`) at the first entry that makes no sense."""
        self._layer += 1
        self._fresh.clear()
        where = ""
        try:
            for entry in entries:
                where = _shown(entry.name)
                self._count(entry)
                self._add(entry)
                where = f"after {where}"
        except LayerError as error:
            raise LayerError(
                ": ".join(filter(None, (f"layer {self._layer + 1}", where, str(error))))
            ) from error

    def _count(self, entry: TarEntry) -> None:
        self._entries += 1
        self._held_bytes += len(entry.name) + len(entry.link) + _PIECE_BYTES * len(entry.pieces)
        self._held_bytes += sum(len(name) + len(value) for name, value in entry.xattrs)
        if self._entries > MAX_ENTRIES:
            raise LayerError(f"the image has more than {MAX_ENTRIES} entries")
        if self._held_bytes > MAX_HELD_BYTES:
            raise LayerError("the names and attributes of the image's files are too many")

    def _step(self, count: int) -> None:
        self._steps += count
        if self._steps > MAX_STEPS:
            raise LayerError("the layers take too long to be laid over each other")

    def _add(self, entry: TarEntry) -> None:
        parent, name = _split(entry.name)
        if not name:
            if entry.kind is not EntryKind.FOLDER:
                raise LayerError("it would replace the root folder")
            _describe(self.root, entry)
        elif name.startswith(_WHITEOUT):
            self._whiteout(parent, name)
        elif not any(part.startswith(_AUFS) for part in parent.split(b"/")):
            self._put(self._folder(parent), name, entry)

    def _put(self, folder: Node, name: bytes, entry: TarEntry) -> None:
        if len(name) > MAX_NAME_BYTES:
            raise LayerError(f"the name is longer than {MAX_NAME_BYTES} bytes")
        present = folder.children.get(name)
        if entry.kind is EntryKind.FOLDER and present is not None and present.kind is Kind.FOLDER:
            _describe(present, entry)
        elif entry.kind is EntryKind.HARD_LINK:
            target = self._target(entry.link)
            if target is present:
                return
            folder.children[name] = target
        else:
            node = Node(_KINDS[entry.kind], target=entry.link, device=entry.device, size=entry.size)
            if node.kind is Kind.SYMLINK and not node.target:
                raise LayerError("the symbolic link leads nowhere")
            node.pieces = tuple(
                Piece(offset, size, self._layer, place) for offset, size, place in entry.pieces
            )
            _describe(node, entry)
            folder.children[name] = node
        self._fresh[folder].add(name)
        if present is not None and present.kind in (Kind.FOLDER, Kind.SYMLINK):
            self._last = None  # paths may lead elsewhere now

    def _whiteout(self, parent: bytes, name: bytes) -> None:
        hidden = name.removeprefix(_WHITEOUT)
        if name.startswith(_AUFS) and name != _OPAQUE:
            return
        if hidden in (b"", b".", b".."):
            raise LayerError("it removes nothing that has a name")
        folder = self._find(parent)
        if folder is None or folder.kind is not Kind.FOLDER:
            return
        self._last = None
        victims = list(folder.children) if name == _OPAQUE else [hidden]
        self._step(len(victims))
        for victim in victims:
            self._remove_old(folder, victim)

    def _remove_old(self, folder: Node, name: bytes) -> None:
        """Remove what the layers below brought. Folders in which something of this layer is stay."""
        node = folder.children.get(name)
        if node is None:
            return
        # Children before their parents, without recursion: folders nest as deep as a path has room for.
        todo, order = [(folder, name, node)], []
        while todo:
            order.append(todo.pop())
            inner = order[-1][2]
            self._step(1)
            todo.extend((inner, below, child) for below, child in inner.children.items())
        for above, own, inner in reversed(order):
            if own not in self._fresh.get(above, ()) and not inner.children:
                del above.children[own]

    def _folder(self, path: bytes) -> Node:
        """The folder, made where it is missing."""
        if self._last is not None and self._last[0] == path:
            return self._last[1]
        folder = self._walk(path, makes_folders=True)
        assert folder is not None
        if folder.kind is not Kind.FOLDER:
            raise LayerError("it is below a file")
        self._last = (path, folder)
        return folder

    def _find(self, path: bytes) -> Node | None:
        return self._walk(path, makes_folders=False)

    def _target(self, link: bytes) -> Node:
        parent, name = _split(link)
        folder = self._find(parent)
        node = folder.children.get(name) if folder is not None else None
        if node is None:
            raise LayerError(f"the hard link's target {_shown(link)} does not exist")
        if node.kind is Kind.FOLDER:
            raise LayerError(f"the hard link's target {_shown(link)} is a folder")
        return node

    def _walk(self, path: bytes, *, makes_folders: bool) -> Node | None:
        """Follow a path below the root, and the symbolic links in it; None where it ends."""
        way, todo, followed = [self.root], path.split(b"/")[::-1], 0
        self._step(len(todo))
        while todo:
            part = todo.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                if len(way) > 1:
                    way.pop()
                continue
            node = way[-1].children.get(part)
            if node is None:
                if not makes_folders or way[-1].kind is not Kind.FOLDER or len(part) > MAX_NAME_BYTES:
                    if makes_folders:
                        raise LayerError("no folder can be made for it")
                    return None
                node = way[-1].children[part] = Node(Kind.FOLDER)
                self._fresh[way[-1]].add(part)
            if node.kind is Kind.SYMLINK:
                followed += 1
                if followed > _MAX_FOLLOWED:
                    raise LayerError("its path has too many symbolic links")
                way = [self.root] if node.target.startswith(b"/") else way
                todo.extend(target := node.target.split(b"/")[::-1])
                self._step(len(target))
                continue
            way.append(node)
        return way[-1]


def _split(path: bytes) -> tuple[bytes, bytes]:
    """The cleaned path's folder and last name, which is empty for the root itself."""
    clean = posixpath.normpath(b"/" + path).lstrip(b"/")
    parent, _, name = clean.rpartition(b"/")
    return parent, name


def _describe(node: Node, entry: TarEntry) -> None:
    node.permissions, node.uid, node.gid = entry.permissions, entry.uid, entry.gid
    node.mtime_ns, node.xattrs = entry.mtime_ns, entry.xattrs


def _shown(name: bytes) -> str:
    return repr(name[:80].decode(errors="backslashreplace"))
