"""What the product consists of, as CycloneDX 1.6: the Python environment, and the runtime root with QEMU.

The same installation gives the same text: everything is sorted, the serial number is made of the content, and there
is no time in it but `SOURCE_DATE_EPOCH`. Hashes of a Python package are those of its lock (every file of the
release that pip accepts); what is installed of it is told apart by the digest of its RECORD.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vdc.model.errors import InvalidError, NotFoundError

SPEC_VERSION = "1.6"
PARTS = ("python", "runtime", "all")
_NAMESPACE = uuid.UUID("6f1f2c7e-52d2-5d0e-9d43-6b7e1c2b9a10")
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)((?:.*\\\n)*.*)", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_CHUNK_BYTES = 1024**2

Component = dict[str, Any]
Lock = Mapping[tuple[str, str], tuple[str, ...]]  # hashes by name and version
Locks = Mapping[str, Lock]  # by the scope of what is in no lock before
_FILES = {
    "required": ("base.txt",),
    "optional": ("s3.txt", "libvirt.txt"),  # extras, part of a deployment that wants them
    "excluded": ("dev.txt", "build.txt"),
}


def sbom(part: str, *, runtime_root: Path, requirements: Path | None) -> str:
    """The document of a part as JSON text. Raises NotFoundError where there is no runtime root to look at."""
    components: list[Component] = []
    if part in ("python", "all"):
        components += python_components(distributions(), _locks(requirements))
    if part in ("runtime", "all"):
        components += runtime_components(runtime_root)
    return json.dumps(document(part, components), indent=2, sort_keys=True, ensure_ascii=True) + "\n"


def document(part: str, components: Iterable[Component]) -> dict[str, Any]:
    """The whole of it."""
    from vdc import __version__

    ordered = sorted(components, key=lambda one: str(one["bom-ref"]))
    body = json.dumps(ordered, sort_keys=True)
    own = {"type": "application", "bom-ref": f"vdc-{part}", "name": f"vdc-{part}", "version": __version__}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, body)}",
        "version": 1,
        "metadata": {"component": own, **_timestamp(os.environ.get("SOURCE_DATE_EPOCH", ""))},
        "components": ordered,
    }


def _timestamp(epoch: str) -> dict[str, str]:
    if not epoch:
        return {}
    if not re.fullmatch(r"[0-9]{1,11}", epoch):
        raise InvalidError("SOURCE_DATE_EPOCH is not a number of seconds", code="sbom-epoch")
    return {"timestamp": datetime.fromtimestamp(int(epoch), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}


def python_components(found: Iterable[Distribution], locks: Locks) -> list[Component]:
    """One component a package."""
    components: dict[str, Component] = {}
    for one in found:
        name, version = re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower(), one.version
        purl = f"pkg:pypi/{quote(name)}@{quote(version)}"
        component: Component = {
            "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl,
        }  # fmt: skip
        scope = next((scope for scope, lock in locks.items() if (name, version) in lock), None)
        if scope is not None:
            hashes = locks[scope][name, version]
            component["hashes"] = [{"alg": "SHA-256", "content": digest} for digest in hashes]
        if locks.get("required"):
            component["scope"] = "required" if name == "vdc" else scope or "excluded"
        if record := one.read_text("RECORD"):
            digest = hashlib.sha256(record.encode()).hexdigest()
            component["properties"] = [{"name": "vdc:record-sha256", "value": digest}]
        components.setdefault(purl, component)
    return list(components.values())


def read_lock(text: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """A requirements file's pins."""
    return {
        (re.sub(r"[-_.]+", "-", name).lower(), version): tuple(sorted(_HASH.findall(rest)))
        for name, version, rest in _PIN.findall(text)
    }


def _locks(folder: Path | None) -> Locks:
    found: dict[str, Lock] = {}
    for scope, names in _FILES.items():
        pins: dict[tuple[str, str], tuple[str, ...]] = {}
        for name in names:
            if folder is not None and (folder / name).is_file():
                pins |= read_lock((folder / name).read_text())
        found[scope] = pins
    return found


def runtime_components(root: Path) -> list[Component]:
    """The Debian packages that the root was unpacked from, and every file in it with its digest."""
    try:
        manifest = json.loads((root / "manifest.json").read_bytes())
        packages, suite = dict(manifest["packages"]), str(manifest["suite"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotFoundError(
            f"there is no runtime root at {root}", hint="make runtime", code="runtime-missing"
        ) from error
    components: list[Component] = []
    for name, version in packages.items():
        purl = f"pkg:deb/debian/{quote(name)}@{quote(version, safe='')}?arch=amd64&distro={quote(suite)}"
        components.append(
            {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        )
    resolved = root.resolve()
    for path in resolved.rglob("*"):
        if path.is_file() and not path.is_symlink():
            name = "/" + path.relative_to(resolved).as_posix()
            hashes = [{"alg": "SHA-256", "content": _digest(path)}]
            components.append({"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": hashes})
    return components


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
