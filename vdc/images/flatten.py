"""One disk of a chain: qemu-img, shut in with exactly these files, writes what the guest would see into a new file.

Every format is given and every file is bound by us; nothing is opened by a name that stands in one of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vdc.confinement.limits import ToolLimits
from vdc.confinement.sandbox import Bind
from vdc.images.chain import Link
from vdc.images.progress import Progress
from vdc.images.qemuimg import PERCENT, RESULT, RESULT_OPTIONS
from vdc.images.scratch import Scratch
from vdc.images.tool import Tool, run_tool
from vdc.model.units import GIB, MIB

_LINK = "/run/link"  # and its number; not in a folder, which would be the tool's starter's
_DEADLINE_S = 24 * 3600.0
_MEMORY_BYTES = 4 * GIB


def flatten(links: Sequence[Link], scratch: Scratch, progress: Progress, what: str) -> Path:
    """Write the chain as one qcow2 file into `scratch`; raises as `run_tool`, and `no-space` before it begins."""
    content_bytes = sum(link.allocated_bytes for link in links)
    scratch.need(content_bytes)

    def hear(line: str) -> None:
        if found := PERCENT.search(line):
            progress(what, int(float(found[1]) * content_bytes / 100), content_bytes)
            scratch.need(0)

    arguments = ("convert", "-p", "--image-opts", options_of(links), "-O", "qcow2", "-o", RESULT_OPTIONS)
    tool = Tool(
        argv=("qemu-img", *arguments, RESULT),
        limits=ToolLimits(
            memory_bytes=_MEMORY_BYTES,
            file_bytes=content_bytes + content_bytes // 8 + 64 * MIB,
            processor_s=int(_DEADLINE_S) * (os.cpu_count() or 1),
        ),
        deadline_s=_DEADLINE_S,
        binds=tuple(
            Bind(link.path, f"{_LINK}{place}", is_device=link.is_device) for place, link in enumerate(links)
        ),
        scratch=scratch.folder,
    )
    run_tool(tool, on_line=hear)
    return scratch.take(RESULT)


def options_of(links: Sequence[Link]) -> str:
    """The chain as QEMU's `--image-opts` have it. Pure."""
    options = []
    for place, link in enumerate(links):
        prefix = "backing." * place
        protocol = "host_device" if link.is_device else "file"
        options += [
            f"{prefix}driver={link.format}",
            f"{prefix}file.driver={protocol}",
            f"{prefix}file.filename={_LINK}{place}",
        ]
    return ",".join(options)
