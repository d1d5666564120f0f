"""A file system as the kernel sees it: of a disk that was made here, mounted to be read, or of a folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vdc.confinement.limits import ToolLimits
from vdc.confinement.sandbox import Bind
from vdc.images.scratch import Scratch
from vdc.images.tool import Tool, run_tool
from vdc.model.units import GIB

LIMITS = ToolLimits(memory_bytes=4 * GIB, file_bytes=64 * GIB, processor_s=600)


@dataclass(frozen=True)
class Seen:
    """What is at a path. `names`: all paths of the same file."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    content: str  # digest of a file, target of a link
    device: tuple[int, int]
    xattrs: tuple[tuple[str, bytes], ...]
    names: tuple[bytes, ...]


def see(root: Path) -> dict[bytes, Seen]:
    """Every path below a folder, the folder itself as b'.'."""
    stats = {path.relative_to(root): path.lstat() for path in (root, *root.rglob("*"))}
    same: dict[tuple[int, int], list[bytes]] = {}
    for path, status in stats.items():
        same.setdefault((status.st_dev, status.st_ino), []).append(os.fsencode(path))
    return {
        os.fsencode(path): _seen(root / path, status, same[status.st_dev, status.st_ino])
        for path, status in stats.items()
    }


def _seen(path: Path, status: os.stat_result, names: list[bytes]) -> Seen:
    content = ""
    if stat.S_ISREG(status.st_mode):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest() + f" {status.st_size}"
    elif stat.S_ISLNK(status.st_mode):
        content = str(path.readlink())
    is_device = stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)
    return Seen(
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        content=content,
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if is_device else (0, 0),
        xattrs=tuple(
            (name, os.getxattr(path, name, follow_symlinks=False))
            for name in sorted(os.listxattr(path, follow_symlinks=False))
        ),
        names=tuple(sorted(names)),
    )


def can_mount() -> bool:
    """Whether this machine lets us look at a disk by the kernel."""
    return os.geteuid() == 0 and Path("/dev/loop-control").exists()


@contextlib.contextmanager
def mounted(disk: Path, folder: Path) -> Iterator[Path]:
    """The first file system of a qcow2 disk, to be read."""
    raw = as_raw(disk, folder)
    place = folder / "mounted"
    place.mkdir()
    subprocess.run(["mount", "-o", "loop,ro", str(raw), str(place)], check=True, timeout=60)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=60)
        raw.unlink()
        place.rmdir()


def as_raw(disk: Path, folder: Path) -> Path:
    """The disk's content as a sparse file."""
    with Scratch(below=folder) as scratch:
        argv = ("qemu-img", "convert", "-f", "qcow2", "-O", "raw", "/run/input", "raw")
        run_tool(Tool(argv, LIMITS, 600, (Bind(disk, "/run/input"),), scratch.folder))
        taken = scratch.take("raw")
        return taken.rename(folder / "disk.raw")


def complaints_about(disk: Path, folder: Path) -> str:
    """What e2fsck has to say; raises where anything is wrong."""
    raw = as_raw(disk, folder)
    try:
        tool = Tool(("e2fsck", "-f", "-n", "/run/input"), LIMITS, 600, (Bind(raw, "/run/input"),))
        return run_tool(tool).decode()
    finally:
        raw.unlink()
