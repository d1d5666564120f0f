"""From a tree of files to a qcow2 disk: an empty file system, the files, a check, the conversion.

Reproducible: fixed times, and an identity (UUID, seed of the folders' hashes) that the caller names. Made so that a
guest writes nothing but what its programs write: no table is left to be initialised later.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vdc.confinement.limits import ToolLimits
from vdc.images.ext4.fill import Filler, Layout, lay_out
from vdc.images.ext4.records import BLOCK_BYTES, INODE_BYTES
from vdc.images.ext4.volume import Volume
from vdc.images.filetree import Node
from vdc.images.scratch import Scratch
from vdc.images.tool import Tool, ToolFailedError, run_tool
from vdc.model.errors import RefusedError
from vdc.model.units import GIB, MIB, TIB, format_size

DEFAULT_BYTES = 10 * GIB
_MOST_BYTES = 16 * TIB
_INODE_RATIO = 16 * 1024  # bytes of the disk for each inode, as mke2fs by itself
_JOURNAL_BYTES = 64 * MIB
_FEATURES = (
    "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,"
    "huge_file,dir_nlink,extra_isize"
)  # no checksums: with them the kernel initialises tables in the background
_LARGE_FOLDER = 2_000  # names; larger ones get an index
_NAMESPACE = uuid.UUID("b1a2f0c4-6f0e-5f0c-9a55-0d5f6c3e7a10")
_RAW, _QCOW2 = "disk.raw", "disk.qcow2"
_MEMORY_BYTES = 4 * GIB
_DEADLINE_S = 3600.0
_CORRECTED = 1  # e2fsck's status for a file system that it changed
_FIXED_TIME = {"E2FSPROGS_FAKE_TIME": "1", "E2FSCK_TIME": "1"}

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Disk:
    """A finished disk."""

    path: Path
    virtual_bytes: int


def build_disk(
    root: Node, sources: Sequence[int], scratch: Scratch, identity: str, progress: Progress
) -> Disk:
    """Write the tree as an ext4 file system into a qcow2 file, which is `scratch`'s.

    Raises InvalidError (`image-links-many`, `image-attributes-large`, `image-layer-invalid`), RefusedError
    (`no-space`, `image-too-large`, those of `run_tool`).
    """
    layout = lay_out(root)
    size_bytes = disk_bytes(layout)
    scratch.need(2 * layout.blocks * BLOCK_BYTES)
    descriptor = os.open(scratch.folder / _RAW, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, size_bytes)
        _make_empty(scratch, layout, size_bytes, uuid.uuid5(_NAMESPACE, identity))
        total = layout.content_bytes
        Filler(
            Volume(descriptor), layout, sources, lambda done: progress("writing files", done, total)
        ).fill()
    finally:
        os.close(descriptor)
    if layout.largest_folder > _LARGE_FOLDER:
        _check(scratch, size_bytes, is_indexing=True)
    _convert(scratch, size_bytes, layout, progress)
    (scratch.folder / _RAW).unlink()
    return Disk(scratch.take(_QCOW2), size_bytes)


def disk_bytes(layout: Layout) -> int:
    """10 GiB, and more where that does not leave a fifth of the disk free. Raises RefusedError (`image-too-large`)."""
    needed = layout.blocks * BLOCK_BYTES + len(layout.numbers) * INODE_BYTES + _JOURNAL_BYTES
    wanted = max(DEFAULT_BYTES, -(-needed * 5 // 4 // GIB) * GIB + GIB if needed > DEFAULT_BYTES // 2 else 0)
    if wanted > _MOST_BYTES:
        raise RefusedError(f"the image's files need {format_size(needed)}", code="image-too-large")
    return wanted


def _make_empty(scratch: Scratch, layout: Layout, size_bytes: int, identity: uuid.UUID) -> None:
    argv = ["mke2fs", "-q", "-F", "-b", str(BLOCK_BYTES), "-I", str(INODE_BYTES), "-m", "0", "-O", _FEATURES]
    argv += ["-J", f"size={_JOURNAL_BYTES // MIB}", "-U", str(identity)]
    argv += ["-E", f"hash_seed={identity},lazy_itable_init=0,lazy_journal_init=0,nodiscard"]
    argv += ["-N", str(max(size_bytes // _INODE_RATIO, 2 * len(layout.numbers))), _RAW]
    run_tool(_tool(scratch, argv, size_bytes))


def _check(
    scratch: Scratch, size_bytes: int, *, is_indexing: bool, is_cancelled: Callable[[], bool] | None = None
) -> None:
    argv = ["e2fsck", "-f", "-y", "-D", _RAW] if is_indexing else ["e2fsck", "-f", "-n", _RAW]
    tool = _tool(scratch, argv, size_bytes)
    try:
        run_tool(tool, is_cancelled=is_cancelled or (lambda: False))
    except ToolFailedError as error:
        if not (is_indexing and error.status == _CORRECTED):
            raise


def _convert(scratch: Scratch, size_bytes: int, layout: Layout, progress: Progress) -> None:
    """While the other processor looks whether the file system is sound."""
    argv = ["qemu-img", "convert", "-p", "-f", "raw", "-O", "qcow2", _RAW, _QCOW2]
    given_up = threading.Event()

    def on_line(line: str) -> None:
        share = line.strip("()").partition("/")[0]
        if line.endswith("/100%)"):
            progress("converting", int(float(share) * layout.content_bytes / 100), layout.content_bytes)

    with ThreadPoolExecutor(1, thread_name_prefix="e2fsck") as others:
        check = others.submit(_check, scratch, size_bytes, is_indexing=False, is_cancelled=given_up.is_set)
        try:
            run_tool(_tool(scratch, argv, 2 * size_bytes), on_line=on_line)
            check.result()
        finally:
            given_up.set()


def _tool(scratch: Scratch, argv: Sequence[str], file_bytes: int) -> Tool:
    return Tool(
        tuple(argv),
        ToolLimits(memory_bytes=_MEMORY_BYTES, file_bytes=file_bytes, processor_s=int(_DEADLINE_S)),
        _DEADLINE_S,
        scratch=scratch.folder,
        env=_FIXED_TIME,
    )
