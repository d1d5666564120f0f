"""Where a container image comes from, as the user says it, and as skopeo is told it inside its sandbox.

| source | what |
|---|---|
| `docker://NAME[:TAG][@DIGEST]` | a registry |
| `oci:FOLDER[:TAG]`, `oci-archive:FILE[:TAG]` | an image layout of OCI, as a folder or as a tar archive |
| `docker-archive:FILE[:NAME]` | what `docker save` writes |

A part of a path may hold a colon: the longest beginning that exists is the path.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from vdc.confinement.sandbox import Bind
from vdc.images.oci.tar import read_entries
from vdc.images.oci.window import LayerError
from vdc.images.reference import has_registry, normalise_reference, registry_reference
from vdc.model.errors import InvalidError, NotFoundError
from vdc.model.units import MIB

SCHEMES = ("docker://", "docker-archive:", "oci:", "oci-archive:")
_INPUT = "/run/input"
_TAG = re.compile(r"[A-Za-z0-9_@][A-Za-z0-9_.@:/+-]{0,254}")


@dataclass(frozen=True, slots=True)
class Source:
    """`text` is for skopeo, `path` the user's file or folder; `name`: of the image, where the source says it."""

    text: str
    name: str = ""
    path: Path | None = None
    registry: str = ""
    repository: str = ""  # the name without tag and digest

    @property
    def binds(self) -> tuple[Bind, ...]:
        """What the sandbox has to show of the machine."""
        return (Bind(self.path, _INPUT),) if self.path else ()


def is_container_source(text: str) -> bool:
    """Whether the text names a container image. A bare name does if its registry is in it and no such file is there."""
    if text.startswith(SCHEMES):
        return True
    return has_registry(text) and not any(Path(one).exists() for one in (text, text.partition("/")[0]))


def parse_source(text: str) -> Source:
    """Raises InvalidError (`image-ref-invalid`, `source-unsupported`), NotFoundError (`source-not-found`)."""
    scheme = next((one for one in SCHEMES if text.startswith(one)), None)
    if scheme in (None, "docker://"):
        return _registry(text.removeprefix("docker://"))
    return _local(str(scheme).rstrip(":"), text.removeprefix(str(scheme)))


def _registry(text: str) -> Source:
    name = registry_reference(text)
    repository, _, digest = name.partition("@")
    registry, _, path = repository.partition("/")
    path, _, tag = path.partition(":")
    wanted = f"@{digest}" if digest else f":{tag}"  # skopeo takes one of them; the digest says more
    own_name = name if not (tag and digest) else repository
    return Source(f"docker://{registry}/{path}{wanted}", own_name, None, registry, f"{registry}/{path}")


def _local(scheme: str, text: str) -> Source:
    path, tag = _split(text)
    is_folder = scheme == "oci"
    if not path.exists():
        raise NotFoundError(f"there is no file or folder {text.partition(':')[0]}", code="source-not-found")
    if path.is_dir() is not is_folder:
        raise InvalidError(
            f"{path} is {'a folder' if path.is_dir() else 'no folder'}",
            hint="oci: takes the folder of an image layout, oci-archive: and docker-archive: take a file",
            code="source-unsupported",
        )
    if is_folder and not (path / "index.json").is_file():
        raise InvalidError(
            f"{path} is no image layout: it has no index.json",
            hint="oci: takes the folder of an image layout, as skopeo, umoci and buildah write it",
            code="source-unsupported",
        )
    if tag and not _TAG.fullmatch(tag):
        raise InvalidError(f"{tag[:80]!r} names no image of {path}", code="source-unsupported")
    return Source(f"{scheme}:{_INPUT}" + (f":{tag}" if tag else ""), _name(scheme, path, tag), path.resolve())


def _split(text: str) -> tuple[Path, str]:
    parts = text.split(":")
    for count in range(len(parts), 0, -1):
        path = Path(":".join(parts[:count]))
        if path.exists():
            return path, ":".join(parts[count:])
    return Path(parts[0]), ":".join(parts[1:])


def _name(scheme: str, path: Path, tag: str) -> str:
    """What the tag says, where it is a whole name; else the file's name with the tag. Empty where neither is one."""
    own = path.name.lower() if path.is_dir() else path.stem.lower().removesuffix(".tar")
    try:
        if scheme == "docker-archive":
            tag = tag if tag and not tag.startswith("@") else _only_tag(path)
            return registry_reference(tag) if tag else ""
        return registry_reference(tag) if "/" in tag else normalise_reference(f"{own}:{tag}" if tag else own)
    except InvalidError:
        return ""


def _only_tag(path: Path) -> str:
    """The name that `docker save` gave the archive's one image; empty where there is none, or several."""
    with path.open("rb") as file:
        try:
            entries = read_entries(file.fileno())
            found = next((entry for entry in entries if entry.name.endswith(b"manifest.json")), None)
            if found is None or found.name.lstrip(b"./") != b"manifest.json" or not 0 < found.size <= MIB:
                return ""
            (image,) = json.loads(os.pread(file.fileno(), found.size, found.pieces[0][2]))
            (tag,) = image["RepoTags"]
            return str(tag)
        except (LayerError, ValueError, KeyError, TypeError, RecursionError):
            return ""  # compressed, or damaged, which skopeo says
