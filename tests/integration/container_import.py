"""One container image of the tests', imported from wherever it is said to be."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.oci_layout import entry, folder, tar_of
from vdc.confinement.roots import runtime_root
from vdc.images.oci.importing import CarriedDisk, ContainerFiles, import_container
from vdc.images.oci.registries import RegistryOptions
from vdc.images.oci.source import parse_source
from vdc.model.errors import VdcError
from vdc.model.image import Blob, Image, ImageKind

ROOT = runtime_root()
NEEDS = [
    pytest.mark.skipif(
        ROOT is None or not (ROOT / "usr/bin/skopeo").exists(), reason="no runtime root: make runtime"
    ),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bwrap: make packages"),
]
LAYER = tar_of(folder("app"), entry("app/run", b"#!" + os.urandom(200_000), mode=0o755))
CONFIG = {"Entrypoint": ["/app/run"], "ExposedPorts": {"80/tcp": {}}}
KERNEL = Image(
    kind=ImageKind.KERNEL,
    kernel=Blob(digest="sha256:" + "1" * 64, size_bytes=1),
    initrd=Blob(digest="sha256:" + "2" * 64, size_bytes=1),
    cmdline="quiet",
)


def fetched(
    source: str,
    *,
    is_disk: bool = False,
    ca: Path | None = None,
    is_insecure: bool = False,
    auth_file: Path | None = None,
) -> ContainerFiles | CarriedDisk:
    with ExitStack() as owned:
        options = RegistryOptions(ca, is_insecure, auth_file)
        return import_container(parse_source(source), options, owned, lambda *_: None, is_disk=is_disk)


def error_of(source: str, **options: object) -> VdcError:
    with pytest.raises(VdcError) as caught:
        fetched(source, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value) and caught.value.problem.hint
    return caught.value
