"""Container images made by hand: an OCI image layout of layers that are given as tar bytes, tar files or folders.

    layout = build_oci_image([folder, tar_of(entry("etc/x", b"text"))], tmp_path / "image", config={"Cmd": ["/x"]})
    vdc image import oci:<layout>:latest

Everything is reproducible: the same layers and configuration have the same digests.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

OCI = "application/vnd.oci.image"
Layer = bytes | Path


def build_oci_image(
    layers: Layer | Sequence[Layer],
    layout: Path,
    *,
    config: Mapping[str, Any] | None = None,
    tag: str = "latest",
    arch: str = "amd64",
    is_compressed: bool = True,
    described: Mapping[str, Any] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Path:
    """Write the layout and return its folder. `config`: Entrypoint, Cmd, Env and so on, as OCI has them;
    `described` is put over all of the configuration.

    A further call with the same folder adds an image under another tag (or the same tag for another architecture:
    see `make_index`).
    """
    parts = [layers] if isinstance(layers, bytes | Path) else list(layers)
    tars = [_tar_bytes(part) for part in parts]
    diff_ids = [_digest(tar) for tar in tars]
    blobs = [_gzip(tar) if is_compressed else tar for tar in tars]
    kind = f"{OCI}.layer.v1.tar" + ("+gzip" if is_compressed else "")
    described = {
        "architecture": arch,
        "os": "linux",
        "config": dict(config or {}),
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        **(described or {}),
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": _put_json(layout, described, f"{OCI}.config.v1+json"),
        "layers": [_put(layout, blob, kind) for blob in blobs],
    }
    entry = _put_json(layout, manifest, f"{OCI}.manifest.v1+json")
    entry["platform"] = {"architecture": arch, "os": "linux"}
    entry["annotations"] = {"org.opencontainers.image.ref.name": tag, **(annotations or {})}
    _add_to_index(layout, entry)
    return layout


def make_index(layout: Path, tags: Sequence[str], tag: str) -> Path:
    """Put images of the layout, one an architecture, into one index under a tag of its own."""
    index = _read_index(layout)
    named = {entry["annotations"]["org.opencontainers.image.ref.name"]: entry for entry in index["manifests"]}
    inner = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": []}
    for name in tags:
        inner["manifests"].append({k: v for k, v in named[name].items() if k != "annotations"})
    entry = _put_json(layout, inner, f"{OCI}.index.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
    _add_to_index(layout, entry)
    return layout


def oci_archive(layout: Path, target: Path) -> Path:
    """The layout as one tar file (`oci-archive:`)."""
    with tarfile.open(target, "w") as tar:
        for path in sorted(layout.rglob("*")):
            tar.add(path, str(path.relative_to(layout)), recursive=False)
    return target


def docker_archive(
    layers: Sequence[Layer], target: Path, *, tag: str, config: Mapping[str, Any] | None = None
) -> Path:
    """What `docker save` writes (`docker-archive:`)."""
    tars = [_tar_bytes(part) for part in layers]
    described = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": dict(config or {}),
            "rootfs": {"type": "layers", "diff_ids": [_digest(tar) for tar in tars]},
        }
    ).encode()
    name = _digest(described).removeprefix("sha256:") + ".json"
    names = [f"{number}/layer.tar" for number in range(len(tars))]
    manifest = json.dumps([{"Config": name, "RepoTags": [tag], "Layers": names}]).encode()
    files = [(name, described), *zip(names, tars, strict=True), ("manifest.json", manifest)]
    target.write_bytes(tar_of(*(entry(path, content) for path, content in files)))
    return target


def entry(
    name: str | bytes, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **fields: Any
) -> tuple[tarfile.TarInfo, bytes]:
    """One entry for `tar_of`; `fields` are TarInfo's (mode, uid, linkname, pax_headers, devmajor, ...)."""
    info = tarfile.TarInfo(os.fsdecode(name))
    info.type, info.size = kind, len(content)
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def folder(name: str | bytes, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """As `entry`, a folder."""
    return entry(name, kind=tarfile.DIRTYPE, **fields)


def link(
    name: str | bytes, target: str, *, hard: bool = False, **fields: Any
) -> tuple[tarfile.TarInfo, bytes]:
    """As `entry`, a symbolic or a hard link."""
    kind = tarfile.LNKTYPE if hard else tarfile.SYMTYPE
    return entry(name, kind=kind, linkname=target, **{"mode": 0o777, **fields})


def tar_of(*entries: tuple[tarfile.TarInfo, bytes], pax: bool = True) -> bytes:
    """An archive of the entries as they are, in this order."""
    buffer = io.BytesIO()
    kind = tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _tar_bytes(part: Layer) -> bytes:
    if isinstance(part, bytes):
        return part
    if part.is_file():
        return part.read_bytes()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in _sorted_paths(part):
            tar.add(path, str(path.relative_to(part)), recursive=False)
    return buffer.getvalue()


def _sorted_paths(root: Path) -> Iterable[Path]:
    for folder_name, folders, files in os.walk(root):
        folders.sort()
        here = Path(folder_name)
        yield from (here / name for name in sorted([*folders, *files]))


def _gzip(content: bytes) -> bytes:
    return gzip.compress(content, compresslevel=1, mtime=0)


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _put(layout: Path, content: bytes, kind: str) -> dict[str, Any]:
    digest = _digest(content)
    path = layout / "blobs" / "sha256" / digest.removeprefix("sha256:")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"mediaType": kind, "digest": digest, "size": len(content)}


def _put_json(layout: Path, value: object, kind: str) -> dict[str, Any]:
    return _put(layout, json.dumps(value, sort_keys=True).encode(), kind)


def _read_index(layout: Path) -> dict[str, Any]:
    path = layout / "index.json"
    if path.exists():
        index: dict[str, Any] = json.loads(path.read_text())
        return index
    return {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": []}


def _add_to_index(layout: Path, new: dict[str, Any]) -> None:
    name = new["annotations"]["org.opencontainers.image.ref.name"]
    index = _read_index(layout)
    index["manifests"] = [
        old for old in index["manifests"] if old["annotations"]["org.opencontainers.image.ref.name"] != name
    ]
    index["manifests"].append(new)
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text(json.dumps(index))
