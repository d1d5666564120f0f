"""qemu-img, and mke2fs for volumes, in the sandbox, never guessing a format.

A guest decides what is in its disk; a format guessed from content would let it name host files as its backing
file. So every format is given, a base is opened read-only from the image store, and an image that refers to
anything outside itself is refused by `require_self_contained`.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from hostagent.drivers.process.foreign import size_of_foreign
from hostagent.drivers.process.tool import run_in_sandbox
from hostagent.drivers.process.users import owner_of
from hostagent.drivers.qemu.sandbox import sandboxed
from hostagent.drivers.qemu.spec import IMAGE_DIR, VM_DIR
from vdc.confinement.limits import ToolLimits
from vdc.confinement.sandbox import User
from vdc.model.errors import RefusedError, UnavailableError
from vdc.model.units import GIB, MIB

_QUICK_S = 30.0
_MAX_LAYERS = 4
_IMAGES_DIFFER = 1  # exit status of `qemu-img compare`
_WRITES = ("create", "resize", "commit")
_MEMORY_BYTES = 4 * GIB  # for the tables of an image file of some TiB
_TABLES_BYTES = 64 * MIB  # what an empty image takes at most
_BASE = re.compile(r"blobs/sha256/[0-9a-f]{64}")
_LAYER = re.compile(r"[a-z]+[0-9]+\.qcow2")
_MISMATCH = re.compile(r"Content mismatch at offset (\d+)")


class DiskToolError(UnavailableError):
    """qemu-img failed or did not end in time; the message is its own last line."""

    default_code = "disk-tool-failed"


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What an image says about itself, read under a given format."""

    format: str
    virtual_bytes: int
    actual_bytes: int
    backing_file: str | None
    data_file: str | None


@dataclass(frozen=True, slots=True)
class QemuImg:
    """qemu-img for one folder. File names are plain names in `folder`; bases are paths below `image_dir`.

    It runs as the user that owns the folder, and what it makes there is that user's.
    """

    runtime_root: Path | None
    folder: Path
    image_dir: Path

    async def create(self, name: str, size_bytes: int) -> None:
        """An empty qcow2 image."""
        await self._run("create", "-q", "-f", "qcow2", _own(name), str(size_bytes))

    async def create_overlay(
        self, name: str, base: str, *, base_format: str = "qcow2", size_bytes: int | None = None
    ) -> None:
        """A qcow2 image over a read-only base of the image store, grown to `size_bytes` where given."""
        size = [] if size_bytes is None else [str(size_bytes)]
        backing = f"{IMAGE_DIR}/{_relative(base)}"
        await self._run("create", "-q", "-f", "qcow2", "-F", base_format, "-b", backing, _own(name), *size)

    async def create_ext4(self, name: str, size_bytes: int, label: str, *, deadline_s: float = 300.0) -> None:
        """A qcow2 image with an empty ext4 file system, whose UUID and hash seed are `label`.

        It is made in a sparse file beside it. A hole reads as zeros, so nothing is left for the guest to initialise.
        """
        raw = f"{name}.raw"
        (self.folder / raw).unlink(missing_ok=True)
        try:
            await self._run_tool(
                "mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-U", label,
                "-E", f"hash_seed={label},lazy_journal_init=1", _own(raw), f"{size_bytes // 1024}k",
                deadline_s=deadline_s, limits=self._limits_of(size_bytes, deadline_s),
            )  # fmt: skip
            await self._run_tool(
                "qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", _own(raw), _own(name),
                deadline_s=deadline_s, limits=self._limits_of(size_bytes // 16 + _TABLES_BYTES, deadline_s),
            )  # fmt: skip
        finally:
            (self.folder / raw).unlink(missing_ok=True)

    async def create_layer(self, name: str, below: str) -> None:
        """A qcow2 image over another one of the same folder."""
        await self._run("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", _own(below), _own(name))

    async def resize(self, name: str, size_bytes: int) -> None:
        """Grow a qcow2 image; shrinking is refused by qemu-img."""
        await self._run("resize", "-q", "-f", "qcow2", _own(name), str(size_bytes))

    async def commit(self, name: str, *, deadline_s: float = 600.0) -> None:
        """Write a layer's content into the image below it; the layer is empty afterwards."""
        await self._run("commit", "-q", "-f", "qcow2", _own(name), deadline_s=deadline_s)

    async def flatten(self, name: str, target: str, size_bytes: int, *, deadline_s: float = 3600.0) -> None:
        """Copy what an image shows into a new one that stands alone; nobody writes to it meanwhile."""
        await self._run_tool(
            "qemu-img", "convert", "-q", "-f", "qcow2", "-O", "qcow2", _own(name), _own(target),
            deadline_s=deadline_s, limits=self._limits_of(size_bytes + size_bytes // 64 + _TABLES_BYTES, deadline_s),
        )  # fmt: skip

    async def info(self, name: str, *, image_format: str = "qcow2") -> ImageInfo:
        """Read an image's header; works while QEMU has it open."""
        return _parse(await self._run("info", "-U", "-f", image_format, "--output=json", _own(name)))

    async def base_of(self, name: str) -> str:
        """The base in the image store below an image, through the layers of this folder; empty without one."""
        for _ in range(_MAX_LAYERS):
            below = (await self.info(name)).backing_file
            if below is None:
                return ""
            if _BASE.fullmatch(base := below.removeprefix(f"{IMAGE_DIR}/")):
                return base
            name = below.removeprefix(f"{VM_DIR}/")
            if not _LAYER.fullmatch(name):  # whoever took QEMU over can write what it likes there
                raise DiskToolError(f"an image names {below[:80]!r} below itself, which is no layer of ours")
        raise DiskToolError(f"{name} has too many layers")

    async def check(self, name: str, *, deadline_s: float = 120.0) -> None:
        """Read all of a qcow2 image's own tables; raises DiskToolError where they contradict each other."""
        await self._run("check", "-q", "-f", "qcow2", _own(name), deadline_s=deadline_s)

    async def base_info(self, base: str, *, image_format: str = "qcow2") -> ImageInfo:
        """As `info`, for a file of the image store."""
        path = f"{IMAGE_DIR}/{_relative(base)}"
        return _parse(await self._run("info", "-U", "-f", image_format, "--output=json", path))

    async def compare(self, one: str, other: str, *, deadline_s: float) -> int | None:
        """Offset of the first byte where two images (as `--image-opts`) differ; None where they are equal."""
        output = await self._run(
            "compare", "--image-opts", one, other, deadline_s=deadline_s, also_accepted=_IMAGES_DIFFER
        )
        found = _MISMATCH.search(output.decode(errors="replace"))
        return int(found[1]) if found else None

    async def _run(self, *arguments: str, deadline_s: float = _QUICK_S, also_accepted: int = 0) -> bytes:
        limits = await asyncio.to_thread(self._limits, arguments[0], deadline_s)
        return await self._run_tool(
            "qemu-img", *arguments, deadline_s=deadline_s, limits=limits, also_accepted=also_accepted
        )

    async def _run_tool(
        self, program: str, *arguments: str, deadline_s: float, limits: ToolLimits, also_accepted: int = 0
    ) -> bytes:
        command = sandboxed(
            [program, *arguments],
            User(owner_of(self.folder)),
            runtime_root=self.runtime_root,
            vm_dir=self.folder,
            image_dir=self.image_dir,
        )
        what = f"{program} {arguments[0]}" if program == "qemu-img" else program
        try:
            status, output, complaint = await run_in_sandbox(command, deadline_s=deadline_s, limits=limits)
        except TimeoutError as error:
            raise DiskToolError(f"{what} did not end within {deadline_s:g} s") from error
        if status not in (0, also_accepted):
            lines = complaint.decode(errors="replace").strip().splitlines() or ["no message"]
            raise DiskToolError(f"{what}: {lines[-1]}")
        return output

    def _limits(self, verb: str, deadline_s: float) -> ToolLimits:
        """No file grows beyond what all layers here hold together; what is only read is not written at all."""
        present = sum(map(_size_here, self.folder.glob("*.qcow2"))) if verb in _WRITES else 0
        return self._limits_of(present + present // 64 + _TABLES_BYTES if verb in _WRITES else 0, deadline_s)

    def _limits_of(self, file_bytes: int, deadline_s: float) -> ToolLimits:
        return ToolLimits(
            memory_bytes=_MEMORY_BYTES,
            file_bytes=file_bytes,
            processor_s=math.ceil(deadline_s) * (os.cpu_count() or 1),
        )


def require_self_contained(info: ImageInfo) -> None:
    """Refuse an image that refers to another file (RefusedError)."""
    if info.backing_file is not None:
        raise RefusedError("the image has a backing file; flatten it first", code="image-not-self-contained")
    if info.data_file is not None:
        raise RefusedError(
            "the image keeps its data in another file; convert it first", code="image-not-self-contained"
        )


def _size_here(path: Path) -> int:
    """Of what is a file here: a link of the guest's making may lead to anything, of any size, or nowhere."""
    try:
        return size_of_foreign(path) or 0
    except PermissionError:
        return 0


def _own(name: str) -> str:
    if "/" in name or name in ("", ".", ".."):
        raise ValueError(f"{name!r} is not a file name")
    return f"{VM_DIR}/{name}"


def _relative(base: str) -> str:
    path = Path(base)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{base!r} leads out of the image store")
    return base


def _parse(output: bytes) -> ImageInfo:
    """The tool has read a file that a guest may have written, so its answer is checked as well."""
    try:
        record = json.loads(output)
        specific = record.get("format-specific", {}).get("data", {})
        info = ImageInfo(
            format=record["format"],
            virtual_bytes=record["virtual-size"],
            actual_bytes=record.get("actual-size", 0),
            backing_file=record.get("backing-filename"),
            data_file=specific.get("data-file"),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DiskToolError("qemu-img info: its answer is not understood") from error
    texts = (info.format, info.backing_file or "", info.data_file or "")
    numbers = (info.virtual_bytes, info.actual_bytes)
    if not all(isinstance(text, str) for text in texts) or not all(type(one) is int for one in numbers):
        raise DiskToolError("qemu-img info: its answer is not understood")
    return info
