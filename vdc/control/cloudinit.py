"""Whether cloud-init can do anything with what a manifest gives it; in the guest it would be silent. Pure."""

from __future__ import annotations

from typing import Final

from vdc.model.errors import InvalidError
from vdc.model.image import Image, ImageKind
from vdc.model.manifest import EndophyteManifest
from vdc.model.strict_yaml import StrictError, parse_documents

_CONFIG: Final = "#cloud-config"
_HEADERS: Final = ("#", "Content-Type:", "MIME-Version:")


def check_cloud_init(manifest: EndophyteManifest, image: Image) -> None:
    """Raises InvalidError: `cloud-init-unsupported`, `user-data-invalid`, `network-config-invalid`."""
    given = manifest.spec.cloud_init
    if given is None:
        return
    if image.kind is not ImageKind.DISK:
        raise InvalidError(
            f"cloudInit is for disk images; {manifest.spec.image} is one of kind {image.kind}",
            code="cloud-init-unsupported",
        )
    if given.user_data is not None:
        _check_user_data(given.user_data)
    if given.network_config is not None:
        _check_yaml(given.network_config, "cloudInit.networkConfig", "network-config-invalid")


def _check_user_data(text: str) -> None:
    if not text.startswith(_HEADERS):
        raise InvalidError(
            "cloudInit.userData begins with nothing that cloud-init knows",
            hint="its first line is for example #cloud-config or #!/bin/sh",
            code="user-data-invalid",
        )
    if text.splitlines()[0].rstrip() == _CONFIG:
        _check_yaml(text, "cloudInit.userData", "user-data-invalid")


def _check_yaml(text: str, field: str, code: str) -> None:
    try:
        documents = parse_documents(text.encode())
    except StrictError as error:  # its words may repeat what is a secret
        raise InvalidError(f"{field} is not YAML in line {error.line}", code=code) from None
    if len(documents) > 1 or not all(isinstance(document, dict) for document in documents):
        raise InvalidError(f"{field} is not one mapping of YAML", code=code)
