"""Names of images (`mycelium/mini`, `localhost:5000/team/app:1.2`), digests of their descriptions. Pure.

A container image keeps the name that it has in its registry, in full (`docker.io/library/redis:7`). Manifests call it
as container engines let them (`redis:7`): `candidates` says which names of the store are meant.
"""

from __future__ import annotations

import hashlib
import json
import re

from vdc.model.errors import InvalidError
from vdc.model.ids import Digest, ImageRef
from vdc.model.image import Image

DEFAULT_TAG = "latest"
MAX_REFERENCE = 255  # without a digest

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_REGISTRY = r"[a-z0-9]+(?:[.-]+[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:(?P<registry>{_REGISTRY}:[0-9]{{1,5}})/)?(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_HOST = re.compile(rf"{_REGISTRY}(?::[0-9]{{1,5}})?")
_DOCKER_HUB = "docker.io"
_DOCKER_ALIASES = ("index.docker.io", "registry-1.docker.io", "registry.hub.docker.com")
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
    match = _REFERENCE.fullmatch(text) if len(text.partition("@")[0]) <= MAX_REFERENCE else None
    if match is None or is_digest(text):
        raise InvalidError(
            f"{text[:80]!r} is not an image name",
            hint="write [HOST:PORT/]PATH[:TAG] in lower case, for example mycelium/mini:latest",
            code="image-ref-invalid",
        )
    return ImageRef(text if match["tag"] or match["digest"] else f"{text}:{DEFAULT_TAG}")


def has_registry(text: str) -> bool:
    """Whether a name begins with the registry that it is in, as container engines tell it from a folder."""
    first, slash, _ = text.partition("/")
    is_host = first == "localhost" or "." in first or ":" in first
    return bool(slash) and is_host and _HOST.fullmatch(first) is not None


def registry_reference(text: str) -> ImageRef:
    """The full name of a container image, as engines complete it: `redis` is `docker.io/library/redis:latest`.

    Raises as `normalise_reference`.
    """
    name = normalise_reference(text)
    if not has_registry(name):
        path = name if "/" in name else f"library/{name}"
        return normalise_reference(f"{_DOCKER_HUB}/{path}")
    first, _, path = name.partition("/")
    if first in (_DOCKER_HUB, *_DOCKER_ALIASES):
        return normalise_reference(f"{_DOCKER_HUB}/{path if '/' in path else f'library/{path}'}")
    return name


def candidates(text: str) -> tuple[ImageRef, ...]:
    """The names of the store that a manifest's name may mean, the nearest first; raises as `normalise_reference`."""
    name = normalise_reference(text)
    full = registry_reference(name)
    return (name,) if name == full else (name, full)


def digest_of(image: Image) -> Digest:
    """The digest of an image's canonical JSON: sorted keys, no spaces, fields at their default left out.

    Leaving defaults out keeps the digests of existing images when the description gains a field.
    """
    return Digest("sha256:" + hashlib.sha256(canonical_json(image).encode()).hexdigest())


def canonical_json(image: Image) -> str:
    """The text that the digest is taken of."""
    values = image.model_dump(mode="json", exclude_defaults=True)
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
