"""The layers of a fetched image as plain archives: unpacked by a program shut in, and each what its image says it is.

Two at a time, the largest first: a program unpacks on one processor while its output is hashed on another one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vdc.images.formats.detect import HEADER_BYTES, PACKED, detect_format
from vdc.images.progress import Progress
from vdc.images.scratch import Scratch, open_result
from vdc.images.unpack import unpack
from vdc.model.errors import InvalidError

_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Layer:
    """A file that skopeo wrote, called by its digest, and the digest of the archive in it."""

    path: Path
    diff_id: str  # without sha256:


@contextlib.contextmanager
def opened_layers(layers: Sequence[Layer], scratch: Scratch, progress: Progress) -> Iterator[list[int]]:
    """Descriptors of the archives, in the same order.

    Raises InvalidError (`image-digest-mismatch`; `image-damaged` where one cannot be unpacked); as `unpack`.
    """
    with contextlib.ExitStack() as owned:
        files = {layer: owned.enter_context(open_result(layer.path)) for layer in layers}
        work = _Unpacking(scratch, progress, sum(os.fstat(file.fileno()).st_size for file in files.values()))
        by_size = sorted(files, key=lambda layer: -os.fstat(files[layer].fileno()).st_size)
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="layer") as threads:
            started = {layer: threads.submit(work.archive, layer, files[layer]) for layer in by_size}
            try:
                archives = {layer: future.result() for layer, future in started.items()}
            except BaseException:
                work.is_given_up = True
                threads.shutdown(cancel_futures=True)
                raise
        for archive in archives.values():
            owned.callback(archive.close)
        yield [archives[layer].fileno() for layer in layers]


class _Unpacking:
    """All layers of an image; `archive` is called by several threads."""

    def __init__(self, scratch: Scratch, progress: Progress, total: int) -> None:
        self._scratch = scratch
        self._progress = progress
        self._total = total
        self._done: dict[Layer, int] = {}
        self._lock = threading.Lock()
        self.is_given_up = False

    def archive(self, layer: Layer, file: BinaryIO) -> BinaryIO:
        """The archive of a layer: the file itself, which skopeo has compared with its digest, or what is in it."""
        packing = detect_format(file.read(HEADER_BYTES))
        if packing not in PACKED:
            _check(layer, layer.path.name)
            return file
        digest = hashlib.sha256()
        path = unpack(
            file, str(packing), self._scratch, f"layer-{layer.path.name}",
            lambda done, _: self._tell(layer, done), hashing=digest.update,
        )  # fmt: skip
        _check(layer, digest.hexdigest())
        layer.path.unlink(missing_ok=True)  # its room is wanted
        return path.open("rb")

    def _tell(self, layer: Layer, done: int) -> None:
        if self.is_given_up:
            raise InvalidError("another layer is damaged", code="image-damaged")
        with self._lock:
            self._done[layer] = done
            self._progress("unpacking layers", sum(self._done.values()), self._total)


def _check(layer: Layer, found: str) -> None:
    if found != layer.diff_id:
        raise InvalidError(
            f"a layer is sha256:{found[:12]}..., and the image's configuration says sha256:{layer.diff_id[:12]}...",
            hint="the image was changed after it was built: build it again",
            code="image-digest-mismatch",
        )
