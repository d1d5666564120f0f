"""Where an image is pushed to, and how it gets there.

| destination | what |
|---|---|
| `docker://NAME[:TAG]` | a registry, by skopeo in its sandbox |
| `oci:FOLDER[:TAG]` | an image layout of OCI; one that is there is added to |
| `oci-archive:FILE[:TAG]` | the same as a tar archive, which replaces whatever file is there |
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vdc.confinement.limits import ToolLimits
from vdc.images.oci.layout import Layout, archive
from vdc.images.oci.refusals import refusal
from vdc.images.oci.registries import RegistryOptions, access_to
from vdc.images.oci.source import Source, parse_source
from vdc.images.progress import Progress, untold
from vdc.images.scratch import Scratch
from vdc.images.tool import SCRATCH, Tool, ToolFailedError, run_tool
from vdc.model.errors import InvalidError
from vdc.model.image import Image
from vdc.model.units import GIB, TIB

DEFAULT_TAG = "latest"
SCHEMES = ("docker://", "oci:", "oci-archive:")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_AUTH_FILE = "/dev/stdin"
_LIMITS = ToolLimits(memory_bytes=16 * GIB, file_bytes=4 * TIB, processor_s=6 * 3600, open_files=1024)
_COPY_S = 24 * 3600.0
_LAYOUT = "layout"
_OVERHEAD_BYTES = 16 * 1024**2


@dataclass(frozen=True, slots=True)
class Destination:
    """`path`: of a folder or a file; None: a registry, which `source` names."""

    scheme: str
    tag: str
    path: Path | None = None
    source: Source | None = None


def parse_destination(text: str) -> Destination:
    """Raises InvalidError (`destination-invalid`, `image-ref-invalid`)."""
    scheme = next((one for one in SCHEMES if text.startswith(one)), None)
    if scheme is None:
        raise InvalidError(
            f"{text[:80]!r} is no place to push to",
            hint="docker://REGISTRY/NAME:TAG, oci:FOLDER:TAG or oci-archive:FILE:TAG",
            code="destination-invalid",
        )
    rest = text.removeprefix(scheme)
    if scheme == "docker://":
        if "@" in rest:
            raise InvalidError(
                "an image is pushed under a name; its digest is made by that",
                hint="leave @DIGEST out",
                code="destination-invalid",
            )
        return Destination(scheme, DEFAULT_TAG, source=parse_source(text))
    path, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        path, tag = rest, DEFAULT_TAG
    if not path or not _TAG.fullmatch(tag):
        raise InvalidError(
            f"{text[:80]!r} names no {'folder' if scheme == 'oci:' else 'file'} with a tag",
            hint=f"{scheme}PATH:TAG",
            code="destination-invalid",
        )
    return Destination(scheme, tag, Path(path))


class Push:
    """One, for the time of a `with`: write the layer into `layout`, then `finish`."""

    def __init__(self, destination: Destination, options: RegistryOptions, image: Image) -> None:
        self._destination = destination
        self._options = options
        self._image = image
        self._owned = contextlib.ExitStack()
        self._scratch: Scratch | None = None
        self.layout: Layout

    @contextmanager
    def prepared(self) -> Iterator[Push]:
        """Raises RefusedError (`no-space`, `scratch-unusable`), InvalidError (`layout-unusable`)."""
        with self._owned:
            target = self._destination
            if target.scheme == "oci:":
                assert target.path is not None
                self.layout = Layout(target.path)
            else:
                # An archive is made of a layout that is there as a whole, and skopeo reads one.
                needed = self._image.size_bytes + _OVERHEAD_BYTES
                below = target.path.absolute().parent if target.path is not None else None
                self._scratch = self._owned.enter_context(Scratch(needed, below=below))
                self.layout = Layout(self._scratch.folder / _LAYOUT)
            self.layout.prepare()
            yield self

    def finish(self, progress: Progress = untold) -> None:
        """Bring the layout to where it shall be. Blocks; raises as `run_tool`, and as `refusal` tells."""
        target = self._destination
        if target.path is not None and self._scratch is not None:
            archive(self.layout.folder, target.path)
        elif target.source is not None:
            progress(f"pushing to {target.source.registry}", 0, self._image.size_bytes)
            self._send(target.source)

    @property
    def tag(self) -> str:
        """Of the image in the layout."""
        return self._destination.tag

    def _send(self, target: Source) -> None:
        assert self._scratch is not None
        access = access_to(target, self._options)
        flags = [f"--dest-{option}" for option in access.source]
        # Credentials are a file without a name: nothing of them is ever on the disk.
        with os.fdopen(os.memfd_create("auth", os.MFD_CLOEXEC), "r+b", buffering=0) as credentials:
            credentials.write(access.auth_json.encode())
            argv = (
                "skopeo", *access.program, "--tmpdir", SCRATCH, "copy", *flags, "--authfile", _AUTH_FILE,
                "--retry-times", "3", f"oci:{SCRATCH}/{_LAYOUT}:{self.tag}", target.text,
            )  # fmt: skip
            tool = Tool(argv, _LIMITS, _COPY_S, access.binds, self._scratch.folder, has_network=True)
            try:
                run_tool(tool, stdin=credentials)
            except ToolFailedError as error:
                raise refusal(
                    error.complaint or str(error), what=target.name, where=f"registry {target.registry}",
                    secrets=access.secrets,
                ) from error  # fmt: skip
