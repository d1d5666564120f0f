"""Names of images (`mycelium/mini`, `localhost:5000/team/app:1.2`), digests of their descriptions. Pure."""

from __future__ import annotations

import hashlib
import json
import re

from vdc.model.errors import InvalidError
from vdc.model.ids import Digest, ImageRef
from vdc.model.image import Image

DEFAULT_TAG = "latest"
MAX_REFERENCE = 255

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_REGISTRY = r"[a-z0-9]+(?:[.-]+[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:(?P<registry>{_REGISTRY}:[0-9]{{1,5}})/)?(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def is_digest(text: str) -> bool:
    """Whether the text is `sha256:` and 64 lower-case hexadecimal digits."""
    return _DIGEST.fullmatch(text) is not None


def check_digest(text: str) -> Digest:
    """Accept a digest; `InvalidError` (`digest-invalid`) otherwise. What passes is safe as a file name."""
    if not is_digest(text):
        raise InvalidError(
            f"{text[:80]!r} is not a digest",
            hint="a digest is sha256: and 64 hexadecimal digits",
            code="digest-invalid",
        )
    return Digest(text)


def normalise_reference(text: str) -> ImageRef:
    """The one full form of a name, with its tag; `InvalidError` (`image-ref-invalid`) where it is none."""
    match = _REFERENCE.fullmatch(text) if len(text) <= MAX_REFERENCE else None
    if match is None or is_digest(text):
        raise InvalidError(
            f"{text[:80]!r} is not an image name",
            hint="write [HOST:PORT/]PATH[:TAG] in lower case, for example mycelium/mini:latest",
            code="image-ref-invalid",
        )
    return ImageRef(text if match["tag"] else f"{text}:{DEFAULT_TAG}")


def digest_of(image: Image) -> Digest:
    """The digest of an image's canonical JSON: sorted keys, no spaces, fields at their default left out.

    Leaving defaults out keeps the digests of existing images when the description gains a field.
    """
    return Digest("sha256:" + hashlib.sha256(canonical_json(image).encode()).hexdigest())


def canonical_json(image: Image) -> str:
    """The text that the digest is taken of."""
    values = image.model_dump(mode="json", exclude_defaults=True)
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
