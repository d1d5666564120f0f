"""A container image of a few files, made by hand: a busybox root and what it says of its program."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vdc.api.client import ApiClient
from vdc.images.reference import normalise_reference
from vdc.lab.settings import Settings
from vdc.model.image import Blob, Image, ImageKind
from vdc.model.process import ImageProcess
from vdc.model.units import GIB, MIB

if TYPE_CHECKING:
    from testlab import Lab

KERNEL = "mycelium/container:latest"
APPLETS = (
    "sh", "cat", "cp", "date", "dd", "echo", "env", "grep", "head", "hostname", "httpd", "id", "kill", "ls", "md5sum",
    "mkdir", "mount", "nslookup", "ping", "rm", "sleep", "stty", "sync", "tail", "test", "touch", "wc", "wget", "df",
)  # fmt: skip
_UUID = "0b1f6f0c-3c4e-4a55-9a0e-5a7d21a1c0de"


def runtime() -> Path:
    """The runtime root, which has the tools."""
    return (Settings.from_environment().cache_root / "runtime/current").resolve()


def make_tree(root: Path, files: Mapping[str, str]) -> None:
    """A root with busybox, two accounts and these files, which are programs."""
    for folder in ("bin", "etc", "tmp", "srv", "data", "root"):
        (root / folder).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    shutil.copy(runtime() / "usr/bin/busybox", root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/srv:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\napp:x:1000:\n")
    for name, content in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(0o755)


def make_disk(folder: Path, root: Path) -> Path:
    """The root as an ext4 file system, in qcow2."""
    confined = [
        "bwrap",
        "--ro-bind",
        f"{runtime()}/",
        "/",
        "--dev",
        "/dev",
        "--proc",
        "/proc",
        "--bind",
        str(folder),
        "/vm",
    ]
    confined += ["--ro-bind", str(root), "/images"]
    options = f"hash_seed={_UUID},lazy_journal_init=1,root_owner=0:0"
    for argv in (
        [
            "mke2fs",
            "-q",
            "-F",
            "-t",
            "ext4",
            "-m",
            "0",
            "-U",
            _UUID,
            "-E",
            options,
            "-d",
            "/images",
            "/vm/root.raw",
            "2G",
        ],
        ["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", "/vm/root.raw", "/vm/root.qcow2"],
    ):
        subprocess.run([*confined, *argv], check=True, timeout=120, capture_output=True)
    (folder / "root.raw").unlink()
    return folder / "root.qcow2"


def import_image(lab: Lab, folder: Path, name: str, process: ImageProcess, files: Mapping[str, str]) -> None:
    """Make the image and name it in the lab."""
    root = folder / "tree"
    make_tree(root, files)
    disk = make_disk(folder, root)
    digest = f"sha256:{hashlib.sha256(disk.read_bytes()).hexdigest()}"

    async def upload(api: ApiClient) -> None:
        entries = (await api.list_images()).items
        kernel = next(entry.image for entry in entries if KERNEL in entry.names)
        blob = Blob(digest=digest, size_bytes=disk.stat().st_size)
        image = Image(
            kind=ImageKind.CONTAINER, disk=blob, disk_virtual_bytes=2 * GIB, kernel=kernel.kernel,
            initrd=kernel.initrd, cmdline=kernel.cmdline, min_memory_bytes=128 * MIB, process=process,
        )  # fmt: skip
        async with await api.pinned() as host:
            await host.write_blob(blob.digest, lambda: _chunks(disk), blob.size_bytes)
            await host.register_image(normalise_reference(name), image)

    lab.ask(upload)


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk
