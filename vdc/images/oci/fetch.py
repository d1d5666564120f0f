"""Fetch one container image by skopeo, in the sandbox: its manifest, its configuration, its layers.

skopeo checks every digest on the way: what a registry sends against its manifest, the manifest against a digest in the
name. Each file is called by its digest.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vdc.confinement.limits import ToolLimits
from vdc.images.oci.refusals import refusal
from vdc.images.oci.registries import RegistryOptions, access_to
from vdc.images.oci.source import Source
from vdc.images.progress import Progress
from vdc.images.scratch import Scratch
from vdc.images.tool import SCRATCH, Tool, ToolFailedError, run_tool
from vdc.model.errors import InvalidError, UnavailableError, VdcError
from vdc.model.units import GIB, TIB

ARCH, OS = "amd64", "linux"
_FOLDER = "layers"
_AUTH_FILE = "/dev/stdin"
_LAYER_BYTES = 4 * TIB
_LIMITS = ToolLimits(memory_bytes=16 * GIB, file_bytes=_LAYER_BYTES, processor_s=6 * 3600, open_files=1024)
_INSPECT_S, _COPY_S = 120.0, 24 * 3600.0
_RETRIES = "3"
_STALLED_S = 120.0  # without one byte
_SLOW_HINT = "try again, or use a mirror (containers-registries.conf(5))"
_LOOK_S = 0.5
Inspected = Callable[[Mapping[str, Any]], None]
_UNPACKED = 6  # times the compressed size: about what is needed, before it is known


class Fetcher:
    """One image. `what` names it in messages."""

    def __init__(
        self,
        source: Source,
        options: RegistryOptions,
        scratch: Scratch,
        progress: Progress,
        what: str,
        *,
        inspected: Inspected = lambda labels: None,
    ) -> None:
        self._source = source
        self._access = access_to(source, options)
        self._scratch = scratch
        self._progress = progress
        self._what = what
        self._inspected = inspected
        self._where = f"registry {source.registry}" if source.registry else str(source.path)

    def fetch(self) -> Path:
        """The folder with it all.

        Raises InvalidError (`image-arch-unsupported`, `image-digest-mismatch`, `image-damaged`), NotFoundError
        (`image-not-in-source`), RefusedError (`registry-unauthorised`, `registry-untrusted`), UnavailableError
        (`registry-unreachable`, `registry-slow`); as `run_tool`.
        """
        facts = self._inspect()
        labels = facts.get("Labels")
        self._inspected(labels if isinstance(labels, dict) else {})
        total = _total(facts)
        self._scratch.need(_UNPACKED * total)
        try:
            return self._copy(total)
        except UnavailableError as error:
            if error.code != "registry-unreachable":
                raise
            # It did answer a moment ago: a broken connection.
            shutil.rmtree(self._folder)
            return self._copy(total)

    @property
    def _folder(self) -> Path:
        return self._scratch.folder / _FOLDER

    def _copy(self, total: int) -> Path:
        self._folder.mkdir(mode=0o700)
        watch = _Watch(self._scratch, self._where, total, self._progress, f"fetching {self._what}")
        argv = self._argv("copy", prefix="src-", target=f"dir:{SCRATCH}/{_FOLDER}")
        self._run(argv, _COPY_S, watch.look)
        return self._folder

    def _inspect(self) -> dict[str, Any]:
        """What it is, before any of it is fetched."""
        output = self._run(self._argv("inspect", "--no-tags", prefix=""), _INSPECT_S)
        try:
            facts = json.loads(output)
            arch, system = str(facts["Architecture"]), str(facts["Os"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InvalidError(f"{self._what} is not understood", code="image-damaged") from error
        if (arch, system) != (ARCH, OS):
            raise InvalidError(
                f"{self._what} is for {system[:40]}/{arch[:40]}, and hosts run {OS}/{ARCH}",
                hint="fetch or build it for that platform",
                code="image-arch-unsupported",
            )
        return dict(facts)

    def _argv(self, *verb: str, prefix: str, target: str = "") -> tuple[str, ...]:
        """`prefix` is that of options about the source, which skopeo's commands call differently."""
        return (
            "skopeo", *self._access.program, "--override-arch", ARCH, "--override-os", OS, "--tmpdir", SCRATCH,
            *verb, "--retry-times", _RETRIES, *(f"--{prefix}{option}" for option in self._access.source),
            *(["--authfile", _AUTH_FILE] if self._source.registry else []),
            self._source.text, *([target] if target else []),
        )  # fmt: skip

    def _run(
        self, argv: tuple[str, ...], deadline_s: float, look: Callable[[], bool] = lambda: False
    ) -> bytes:
        binds = (*self._source.binds, *self._access.binds)
        has_network = bool(self._source.registry)
        tool = Tool(argv, _LIMITS, deadline_s, binds, self._scratch.folder, has_network=has_network)
        # Credentials are a file without a name: nothing of them is ever on the disk.
        with os.fdopen(os.memfd_create("auth", os.MFD_CLOEXEC), "r+b", buffering=0) as credentials:
            credentials.write(self._access.auth_json.encode())
            try:
                return run_tool(tool, stdin=credentials, is_cancelled=look)
            except ToolFailedError as error:
                raise self._refused(error) from error

    def _refused(self, error: ToolFailedError) -> VdcError:
        if error.status is None:
            return UnavailableError(
                f"{self._where} takes too long: {error}", hint=_SLOW_HINT, code="registry-slow"
            )
        return refusal(
            error.complaint or str(error), what=self._what, where=self._where, secrets=self._access.secrets
        )


def _total(facts: dict[str, Any]) -> int:
    """Bytes of all layers as the manifest has them; 0 where it does not say."""
    layers = facts.get("LayersData")
    sizes = (
        [layer.get("Size") for layer in layers if isinstance(layer, dict)] if isinstance(layers, list) else []
    )
    return sum(size for size in sizes if isinstance(size, int) and 0 < size <= _LAYER_BYTES)


class _Watch:
    """Looks at the growing folder: how far it is, whether there is room, and whether anything comes at all."""

    def __init__(self, scratch: Scratch, where: str, total: int, progress: Progress, what: str) -> None:
        self._scratch = scratch
        self._where = where
        self._total = total
        self._progress = progress
        self._what = what
        self._bytes = -1
        self._grew_at = self._looked_at = time.monotonic()

    def look(self) -> bool:
        """Called all the time; False: go on."""
        now = time.monotonic()
        if now - self._looked_at < _LOOK_S:
            return False
        self._looked_at = now
        present = sum(_size(path) for path in self._scratch.folder.rglob("*"))
        if present != self._bytes:
            self._bytes, self._grew_at = present, now
        if now - self._grew_at > _STALLED_S:
            raise UnavailableError(
                f"{self._where} has sent nothing for {_STALLED_S:g} s",
                hint=_SLOW_HINT,
                code="registry-slow",
            )
        self._scratch.need(0)
        self._progress(self._what, present, max(self._total, present))
        return False


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
