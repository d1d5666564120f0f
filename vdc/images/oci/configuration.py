"""What a fetched image says of itself: its layers, and the program that it runs. Pure but for reading small files.

A Dockerfile's HEALTHCHECK is left out, as Kubernetes leaves it out: probes are the manifest's. So are labels, and the
commands that a further build would run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdc.images.oci.fetch import ARCH, OS
from vdc.images.oci.layers import Layer
from vdc.images.oci.pushed import read_description
from vdc.images.process import fault_of
from vdc.images.scratch import open_result
from vdc.model.errors import InvalidError
from vdc.model.image import Image
from vdc.model.process import ImageProcess
from vdc.model.units import MIB

_MAX_BYTES = 8 * MIB  # of a file; registries take 4 MiB
_MAX_LAYERS = 1_000
_MAX_WORDS = 4_096
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_HEALTHCHECK = "the image's HEALTHCHECK is not used: give the manifest a livenessProbe where one is wanted"


@dataclass(frozen=True, slots=True)
class Contents:
    """`layers`: the lowest first. `notes`: for the user. `pushed`: what image of ours it is."""

    process: ImageProcess
    layers: tuple[Layer, ...]
    notes: tuple[str, ...] = ()
    pushed: Image | None = None


def read_contents(folder: Path) -> Contents:
    """Of the folder that skopeo filled. Raises InvalidError (`image-damaged`, `image-arch-unsupported`)."""
    manifest = _object(_read(folder / "manifest.json"), "manifest")
    layers = [_hex(layer) for layer in _list(manifest.get("layers"), "layers")]
    described = _object(_read(folder / _hex(manifest.get("config"))), "configuration")
    _check_platform(described)
    rootfs = _object(described.get("rootfs"), "rootfs")
    wanted = [_hex({"digest": digest}) for digest in _list(rootfs.get("diff_ids"), "diff_ids")]
    if len(layers) != len(wanted):
        raise _damaged(f"it has {len(layers)} layers, and its configuration names {len(wanted)}")
    if len(layers) > _MAX_LAYERS:
        raise _damaged(f"it has {len(layers)} layers")
    config = _object(described.get("config") or {}, "config")
    notes = (_HEALTHCHECK,) if _has_healthcheck(config) else ()
    return Contents(
        to_process(config),
        tuple(Layer(folder / name, diff_id) for name, diff_id in zip(layers, wanted, strict=True)),
        notes,
        read_description(described),
    )


def to_process(config: Mapping[str, Any]) -> ImageProcess:
    """The part `config` of an image's configuration. Raises InvalidError (`image-damaged`)."""
    process = ImageProcess(
        entrypoint=_words(config, "Entrypoint"),
        cmd=_words(config, "Cmd"),
        env=tuple(word for word in _words(config, "Env") if not word.startswith("=") and "=" in word),
        working_dir=_folder(_text(config, "WorkingDir")),
        user=_text(config, "User"),
        stop_signal=_text(config, "StopSignal").upper(),
        exposed_ports=_ports(_keys(config, "ExposedPorts")),
        volumes=tuple(_keys(config, "Volumes")),
    )
    if fault := fault_of(process):
        raise _damaged(fault)
    return process


def _read(path: Path) -> object:
    try:
        with open_result(path) as file:
            text = file.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise _damaged("its description is too long")
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged("its description is not JSON") from error


def _check_platform(described: Mapping[str, Any]) -> None:
    arch, system = described.get("architecture"), described.get("os")
    if (arch, system) != (ARCH, OS):
        raise InvalidError(
            f"the image is for {str(system)[:40]}/{str(arch)[:40]}, and hosts run {OS}/{ARCH}",
            hint="fetch or build it for that platform",
            code="image-arch-unsupported",
        )


def _has_healthcheck(config: Mapping[str, Any]) -> bool:
    found = config.get("Healthcheck")
    test = found.get("Test") if isinstance(found, dict) else None
    return bool(test) and test != ["NONE"]


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _damaged(f"its {what} is no object")
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise _damaged(f"its {what} are no list")
    return value


def _hex(descriptor: object) -> str:
    """The name of a file in the folder."""
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    match = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if match is None:
        raise _damaged("one of its digests is none")
    return match[1]


def _words(config: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = config.get(key)
    words = [value] if isinstance(value, str) else [] if value is None else _list(value, key)
    if len(words) > _MAX_WORDS or not all(_is_text(word) for word in words):
        raise _damaged(f"its {key} is no list of words")
    return tuple(words)


def _text(config: Mapping[str, Any], key: str) -> str:
    value = config.get(key)
    if value is None:
        return ""
    if not _is_text(value):
        raise _damaged(f"its {key} is no text")
    return str(value)


def _keys(config: Mapping[str, Any], key: str) -> list[str]:
    value = config.get(key)
    if value is None:
        return []
    if not isinstance(value, dict) or len(value) > _MAX_WORDS or not all(_is_text(one) for one in value):
        raise _damaged(f"its {key} is no object")
    return sorted(value)


def _folder(path: str) -> str:
    return path if path.startswith("/") or not path else f"/{path}"


def _ports(keys: list[str]) -> tuple[str, ...]:
    ports = []
    for key in keys:
        match = _PORT.fullmatch(key)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if match is None or not 1 <= first <= last <= 65535 or last - first > _MAX_WORDS:
            raise _damaged(f"it exposes {key[:20]!r}")
        ports += [f"{port}/{(match[3] or 'tcp').lower()}" for port in range(first, last + 1)]
    return tuple(dict.fromkeys(ports))


def _is_text(value: object) -> bool:
    """Whether it is a string that can be written: JSON may name half of a character."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _damaged(reason: str) -> InvalidError:
    return InvalidError(
        f"the image makes no sense: {reason}",
        hint="is it a container image, and whole? fetch or build it again",
        code="image-damaged",
    )
