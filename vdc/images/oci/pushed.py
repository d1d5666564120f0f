"""An image of ours as a container image, so that any registry keeps it, and what comes back is the same image.

Its configuration carries the image's description as the label `LABEL`, and the only layer its files:

| kind | files |
|---|---|
| disk | `/disk/disk.qcow2` or `/disk/disk.img`: KubeVirt's containerDisk, owned by QEMU's user there |
| kernel, container | `/mycelium/kernel`, `/mycelium/initrd` and `/mycelium/disk.qcow2` or `.img` |

The same image is always the same layer and configuration. An ordinary image rather than an artifact with media types
of our own: registries, mirrors and tools pass it on as they are. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from vdc.images.reference import canonical_json
from vdc.model.errors import InvalidError
from vdc.model.image import Blob, Image, ImageKind

LABEL = "network.mycelium.image"
OWNER = 107  # QEMU's user and group in KubeVirt's containers
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
REF_NAME = "org.opencontainers.image.ref.name"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_MAX_LABEL = 256 * 1024


def members(image: Image) -> dict[str, Blob]:
    """Which file of the layer is which blob, in order; paths without a leading slash."""
    disk_name = "disk.qcow2" if image.disk_format == "qcow2" else "disk.img"
    folder = "disk" if image.kind is ImageKind.DISK else "mycelium"
    found = {
        f"{folder}/{disk_name}": image.disk,
        "mycelium/kernel": image.kernel,
        "mycelium/initrd": image.initrd,
    }
    return {path: blob for path, blob in found.items() if blob is not None}


def read_description(config: Mapping[str, Any]) -> Image | None:
    """The image that a configuration describes; None where it is not one of ours. The files are not known to be right.

    Raises InvalidError (`image-damaged`) where the description cannot be read.
    """
    inner = config.get("config")
    labels = inner.get("Labels") if isinstance(inner, dict) else None
    text = labels.get(LABEL) if isinstance(labels, dict) else None
    if text is None:
        return None
    try:
        if not isinstance(text, str) or len(text) > _MAX_LABEL:
            raise ValueError
        return Image.model_validate_json(text)
    except (ValidationError, ValueError, RecursionError) as error:
        raise InvalidError(
            f"its label {LABEL} is no description of an image", hint="push it again", code="image-damaged"
        ) from error


def config_of(image: Image, layer_digest: str) -> bytes:
    """The configuration, for a layer that is not compressed."""
    return _json({
        "architecture": _ARCHITECTURES.get(image.arch, image.arch),
        "os": "linux",
        "config": {"Labels": {LABEL: canonical_json(image)}},
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
        "history": [{"created_by": "vdc image push"}],
    })  # fmt: skip


def manifest_of(config: Blob, layer: Blob) -> bytes:
    """The manifest."""
    return _json({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _descriptor(config, CONFIG_TYPE),
        "layers": [_descriptor(layer, LAYER_TYPE)],
    })  # fmt: skip


def index_with(index: Mapping[str, Any], manifest: Blob, tag: str) -> bytes:
    """A layout's index with this manifest under the tag, instead of whatever had it."""
    entry = {**_descriptor(manifest, MANIFEST_TYPE), "annotations": {REF_NAME: tag}}
    kept = [one for one in index.get("manifests", ()) if _tag_of(one) != tag]
    return _json({"schemaVersion": 2, **index, "manifests": [*kept, entry]})


def _tag_of(entry: object) -> str:
    annotations = entry.get("annotations") if isinstance(entry, dict) else None
    return str(annotations.get(REF_NAME, "")) if isinstance(annotations, dict) else ""


def _descriptor(blob: Blob, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": blob.digest, "size": blob.size_bytes}


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
