"""qemu-img over a disk file that somebody else has made, in the sandbox of `vdc.images.tool`.

The format is always given, for every layer down to the file; nothing is probed. The result of the same input is the
same bytes: no writing out of order, and every option of the result is said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vdc.confinement.limits import ToolLimits
from vdc.confinement.sandbox import Bind
from vdc.images.formats.examine import DiskFile
from vdc.images.formats.problems import unsafe
from vdc.images.formats.vmdk import Extent, describe
from vdc.images.progress import Progress
from vdc.images.scratch import Scratch
from vdc.images.tool import Tool, ToolFailedError, run_tool
from vdc.model.errors import InvalidError
from vdc.model.units import GIB, MIB, format_size

RESULT = "disk.qcow2"
RESULT_OPTIONS = "compat=1.1,cluster_size=65536,lazy_refcounts=off,refcount_bits=16,preallocation=off"
_INPUT = "/run/input"
_MEMORY_BYTES = 4 * GIB  # for the tables of a file of some TiB
_LEAST_S, _SLOWEST_BYTES_PER_S, _MOST_S = 300.0, 2 * MIB, 24 * 3600.0
_CHECK_S = 900.0
_LEAKS_ONLY = 3  # status of `qemu-img check`: space is wasted and nothing is wrong
PERCENT = re.compile(r"\((\d{1,3}\.\d+)/100%\)")
_OPENING = re.compile(
    r"(qemu-img: )?Could not open '[^']{0,200}': |qemu-img: "
)  # names that only the tool sees
_TOO_LARGE = ("File too large", "File size limit exceeded")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of a disk file are: a part of a file, or all of it (`size_bytes` None)."""

    path: Path
    offset_bytes: int = 0
    size_bytes: int | None = None


def convert(
    disk: DiskFile, place: Place, scratch: Scratch, progress: Progress, *, extents: Sequence[Path] = ()
) -> Path:
    """Make a qcow2 file of it in `scratch`; `extents` are the files of a VMDK descriptor, in its order.

    Raises InvalidError (`image-unsafe`) where it cannot be read or holds more than it can; as `run_tool`.
    """
    binds, source = _source(disk, place, scratch, extents)
    most_bytes = disk.virtual_bytes + disk.virtual_bytes // 1024 + 64 * MIB
    most_bytes = min(most_bytes, disk.most_bytes) if disk.most_bytes else most_bytes
    deadline_s = min(_MOST_S, _LEAST_S + disk.virtual_bytes / _SLOWEST_BYTES_PER_S)
    tool = Tool(
        ("qemu-img", "convert", "-p", "--image-opts", source, "-O", "qcow2", "-o", RESULT_OPTIONS, RESULT),
        ToolLimits(_MEMORY_BYTES, most_bytes, int(2 * deadline_s)),
        deadline_s,
        tuple(binds),
        scratch.folder,
    )

    def tell(line: str) -> None:
        if found := PERCENT.search(line):
            done = int(disk.virtual_bytes * min(float(found[1]), 100.0) / 100)
            progress(f"converting {place.path.name}", done, disk.virtual_bytes)
            scratch.need(0)

    try:
        run_tool(tool, on_line=tell)
    except ToolFailedError as error:
        raise _refused(disk.format, most_bytes, error) from error
    return scratch.take(RESULT)


def check(
    path: Path, *, scratch: Scratch | None = None, is_cancelled: Callable[[], bool] = lambda: False
) -> None:
    """Read all tables of a qcow2 file; InvalidError (`image-unsafe`) where they contradict each other or the file."""
    tool = Tool(
        ("qemu-img", "check", "-q", "--image-opts", f"driver=qcow2,file.driver=file,file.filename={_INPUT}"),
        ToolLimits(_MEMORY_BYTES, 0, int(_CHECK_S)),
        _CHECK_S,
        (Bind(path, _INPUT),),
        scratch.folder if scratch else None,
    )
    try:
        run_tool(tool, is_cancelled=is_cancelled)
    except ToolFailedError as error:
        if error.status == _LEAKS_ONLY:
            return
        raise unsafe(
            "qcow2", f"its tables are damaged: {_plain(error)}", "is the file cut off? qemu-img check FILE"
        ) from error


def _source(
    disk: DiskFile, place: Place, scratch: Scratch, extents: Sequence[Path]
) -> tuple[list[Bind], str]:
    """What is bound, and how QEMU is told to open it."""
    options = dict(disk.driver)
    if extents:
        names = [f"{_INPUT}-{index}" for index in range(len(extents))]
        own = scratch.folder / "description"
        own.write_bytes(describe(_renamed(disk.extents, names)))
        options |= {"file.driver": "file", "file.filename": f"{_INPUT}-description"}
        binds = [Bind(path, name) for path, name in zip(extents, names, strict=True)]
        return [*binds, Bind(own, f"{_INPUT}-description")], _joined(options)
    if place.size_bytes is None:
        options |= {"file.driver": "file", "file.filename": _INPUT}
    else:
        options |= {
            "file.driver": "raw", "file.offset": str(place.offset_bytes), "file.size": str(place.size_bytes),
            "file.file.driver": "file", "file.file.filename": _INPUT,
        }  # fmt: skip
    return [Bind(place.path, _INPUT)], _joined(options)


def _renamed(extents: Sequence[Extent], names: Sequence[str]) -> tuple[Extent, ...]:
    """The same extents, in the files as the tool sees them."""
    left = iter(names)
    return tuple(
        Extent(one.kind, one.size_bytes, next(left).rpartition("/")[2] if one.file else "", one.skip_bytes)
        for one in extents
    )


def _joined(options: dict[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in options.items())


def _refused(name: str, most_bytes: int, error: ToolFailedError) -> InvalidError:
    if any(text in error.complaint for text in _TOO_LARGE):
        return unsafe(
            name, f"it unpacks to more than {format_size(most_bytes)}", "no honest file of its size does"
        )
    return unsafe(name, _plain(error), "is the file damaged or cut off? Fetch it again")


def _plain(error: ToolFailedError) -> str:
    return _OPENING.sub("", str(error))
