"""Images that a manifest names by where they come from: imported first, and the VM made of what they became.

- `file:PATH`, `oci:PATH`, `oci-archive:PATH`, `docker-archive:PATH`: the name holds part of the digest, so that the
  same file is the same image however often it is applied, and another file of the same name takes nothing away from
  the VMs that were made of the first.
- `docker://NAME`: called as in its registry. What the cluster has under that name is taken, and not fetched again.
- `NAME`, of a container: the same, where the cluster has no such image.
"""

from __future__ import annotations

from pathlib import Path

from vdc.api.client import ApiClient
from vdc.cli.progress import StatusLine
from vdc.cli.uploading import upload
from vdc.images.oci.source import SCHEMES, parse_source
from vdc.images.reference import candidates, is_digest, normalise_reference, registry_reference
from vdc.images.sources import ImportOptions, plan_import
from vdc.model.errors import NotFoundError, VdcError
from vdc.model.image import Image
from vdc.model.manifest import ComputerType, EndophyteManifest

_FILE, _REGISTRY = "file:", "docker://"
_PATHS = (_FILE, *(scheme for scheme in SCHEMES if scheme != _REGISTRY))
_HEX = 12


def is_source(image: str) -> bool:
    """Whether it says where the image comes from, and not what it is called."""
    return image.startswith((*_PATHS, _REGISTRY))


def anchored(manifest: EndophyteManifest, folder: Path) -> EndophyteManifest:
    """A manifest out of a file names files beside itself."""
    image = manifest.spec.image
    scheme = next((one for one in _PATHS if image.startswith(one)), None)
    if scheme is None:
        return manifest
    path = (folder / image.removeprefix(scheme)).absolute()
    return _with(manifest, f"{scheme}{path}")


async def with_local_image(
    api: ApiClient, manifest: EndophyteManifest, *, dry_run: bool = False
) -> EndophyteManifest:
    """The manifest with the image's name in it. `dry_run` sends nothing. Raises as `plan_import` and `upload`."""
    image = manifest.spec.image
    if image.startswith(_PATHS):
        return _with(manifest, await _from_path(api, image, dry_run=dry_run))
    if image.startswith(_REGISTRY):
        name = parse_source(image).name
        if not dry_run and name not in await _names(api):
            await _import(api, image)
        return _with(manifest, name)
    if not dry_run and await _is_to_be_fetched(api, manifest):
        await _fetch(api, image)
    return manifest


async def _from_path(api: ApiClient, image: str, *, dry_run: bool) -> str:
    source = image.removeprefix(_FILE)
    with StatusLine() as line, plan_import(source, await _options(api, line)) as plan:
        stem = plan.name.rpartition(":")[0].rpartition("/")[2]
        name = normalise_reference(f"file/{stem}:{plan.digest.removeprefix('sha256:')[:_HEX]}")
        if not dry_run:
            await upload(api, plan.named(name), line, source=source)
    return name


async def _is_to_be_fetched(api: ApiClient, manifest: EndophyteManifest) -> bool:
    image = manifest.spec.image
    if manifest.spec.virtual_computer.type is not ComputerType.CONTAINER or is_digest(image):
        return False
    return not await _names(api) & set(candidates(image))


async def _fetch(api: ApiClient, image: str) -> None:
    """What a container engine would do by itself. Raises NotFoundError (`image-not-found`) where it cannot be had."""
    source = f"{_REGISTRY}{registry_reference(image)}"
    try:
        await _import(api, source)
    except VdcError as error:
        raise NotFoundError(
            f"image {image} is not in this cluster, and cannot be fetched: {error}",
            hint=error.problem.hint or f"vdc image import {source}",
            code="image-not-found",
        ) from error


async def _import(api: ApiClient, source: str) -> None:
    with StatusLine() as line, plan_import(source, await _options(api, line)) as plan:
        await upload(api, plan, line, source=source)


async def _options(api: ApiClient, line: StatusLine) -> ImportOptions:
    images: dict[str, Image] = {}
    for entry in (await api.list_images()).items:
        images |= dict.fromkeys(entry.names, entry.image)
    return ImportOptions(find_image=images.get, progress=line.bytes)


async def _names(api: ApiClient) -> set[str]:
    return {name for entry in (await api.list_images()).items for name in entry.names}


def _with(manifest: EndophyteManifest, image: str) -> EndophyteManifest:
    return manifest.with_(spec=manifest.spec.with_(image=image))
