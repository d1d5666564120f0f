"""`image: file:PATH` in a manifest: the disk is imported first, and the VM made of what that became.

The name holds part of the digest, so that the same file is the same image however often it is applied, and another
file of the same name takes nothing away from the VMs that were made of the first.
"""

from __future__ import annotations

from pathlib import Path

from vdc.api.client import ApiClient
from vdc.cli.progress import StatusLine
from vdc.cli.uploading import upload
from vdc.images.reference import normalise_reference
from vdc.images.sources import ImportOptions, plan_import
from vdc.model.manifest import EndophyteManifest

SCHEME = "file:"
_HEX = 12


def anchored(manifest: EndophyteManifest, folder: Path) -> EndophyteManifest:
    """A manifest out of a file names files beside itself."""
    image = manifest.spec.image
    if not image.startswith(SCHEME):
        return manifest
    path = (folder / image.removeprefix(SCHEME)).absolute()
    return manifest.with_(spec=manifest.spec.with_(image=f"{SCHEME}{path}"))


async def with_local_image(
    api: ApiClient, manifest: EndophyteManifest, *, dry_run: bool = False
) -> EndophyteManifest:
    """The manifest with the image's name in it. `dry_run` sends nothing. Raises as `plan_import` and `upload`."""
    image = manifest.spec.image
    if not image.startswith(SCHEME):
        return manifest
    path = image.removeprefix(SCHEME)
    with StatusLine() as line, plan_import(path, ImportOptions(progress=line.bytes)) as plan:
        stem = plan.name.rpartition(":")[0].rpartition("/")[2]
        name = normalise_reference(f"file/{stem}:{plan.digest.removeprefix('sha256:')[:_HEX]}")
        if not dry_run:
            await upload(api, plan.named(name), line, source=path)
    return manifest.with_(spec=manifest.spec.with_(image=name))
