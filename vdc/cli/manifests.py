"""Manifests from a file, a folder or standard input."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from vdc.cli.local_images import anchored
from vdc.model.manifest_file import Loaded, ManifestError, load_text
from vdc.model.strict_yaml import MAX_BYTES

_YAML, _JSON = (".yaml", ".yml"), (".json",)
MAX_FILES = 1000


def read_manifests(sources: tuple[str, ...]) -> tuple[Loaded, ...]:
    """Every object of all sources, in order, Kubernetes' workloads as the Endophytes that they ask to be.

    Raises `ManifestError` where a source cannot be read at all.
    """
    loaded = tuple(item for source in sources for item in _read_source(source))
    if not any(item.value for item in loaded):
        return loaded
    from vdc.kubernetes.routing import route  # its records take a while

    return route(loaded)


def _read_source(source: str) -> tuple[Loaded, ...]:
    if source == "-":
        text = _read(sys.stdin.buffer)
        return load_text(text, "standard input", is_json=_looks_like_json(text))
    path = Path(source)
    if path.is_dir():
        return tuple(loaded for file in _files_of(path) for loaded in _read_file(file))
    if not path.exists():
        raise ManifestError(
            f"there is no file or folder {source}", hint="- is standard input", code="manifest-not-found"
        )
    return _read_file(path)


def _files_of(folder: Path) -> list[Path]:
    """The manifests directly in a folder, by name."""
    files = sorted(
        path for path in folder.iterdir() if path.suffix in _YAML + _JSON and not path.name.startswith(".")
    )
    if not files:
        raise ManifestError(
            f"{folder} contains no manifest",
            hint="files that end with .yaml, .yml or .json",
            code="manifest-not-found",
        )
    if len(files) > MAX_FILES:
        raise ManifestError(f"{folder} contains more than {MAX_FILES} manifests", code="manifest-too-many")
    return files


def _read_file(path: Path) -> tuple[Loaded, ...]:
    try:
        with path.open("rb") as file:
            text = _read(file)
    except OSError as error:
        failure = ManifestError(f"{path} cannot be read: {error.strerror}", code="manifest-unreadable")
        return (Loaded(str(path), error=failure),)
    found = load_text(text, str(path), is_json=path.suffix in _JSON)
    return tuple(
        replace(one, manifest=anchored(one.manifest, path.parent)) if one.manifest else one for one in found
    )


def _read(file: BinaryIO) -> bytes:
    return file.read(MAX_BYTES + 1)  # one byte too many is enough to be refused for its size


def _looks_like_json(text: bytes) -> bool:
    """Whether it begins like an object with a quoted key; YAML would read that as well, but less strictly."""
    begin = text.lstrip()[:80].replace(b" ", b"").replace(b"\n", b"").replace(b"\t", b"").replace(b"\r", b"")
    return begin.startswith((b'{"', b'[{"'))
