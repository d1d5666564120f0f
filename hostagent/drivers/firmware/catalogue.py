"""Find the firmware of the runtime root (or of the host) by the descriptors that it ships.

Firmware packages describe their files in JSON (QEMU's docs/interop/firmware.json); libvirt and Debian's own
tools choose by the same descriptors. File names differ between distributions, the descriptors do not.
Directories and order are the document's: /etc before /usr/share, then by file name; the first match wins.

Both hosts of a pair must use the same code file: it is part of what the guest sees. The same runtime root
gives that; a pair of two `runtime: null` hosts with different firmware packages fails to enter lockstep.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdc.model.errors import InvalidError, NotFoundError
from vdc.model.manifest import Firmware

_DIRECTORIES = ("etc/qemu/firmware", "usr/share/qemu/firmware")
_ARCH = "x86_64"
_SECURE = frozenset({"secure-boot", "enrolled-keys", "requires-smm"})
_EXCLUDED = {
    Firmware.UEFI: frozenset({"secure-boot", "enrolled-keys", "requires-smm"}),
    Firmware.UEFI_SECURE: frozenset[str](),
}
_REQUIRED = {Firmware.UEFI: frozenset[str](), Firmware.UEFI_SECURE: _SECURE}
_MACHINE_TYPES = {"q35": "pc-q35-0", "pc": "pc-i440fx-0"}  # something that the descriptors' patterns match


@dataclass(frozen=True, slots=True)
class FirmwareFiles:
    """A firmware build: `code` as QEMU is told, inside the root; `vars_template` as this host has it."""

    code: str
    vars_template: Path
    requires_smm: bool


@dataclass(frozen=True, slots=True)
class _Candidate:
    code: str
    vars_template: str
    features: frozenset[str]


def find_firmware(kind: Firmware, root: Path | None, *, machine: str = "q35") -> FirmwareFiles:
    """The files for `uefi` or `uefi-secure` (Secure Boot on, Microsoft's keys enrolled) under `root`.

    `root` is the runtime root, None the host itself. Raises NotFoundError (firmware-missing) where there are
    none, InvalidError for `bios`, which needs no files.
    """
    if kind is Firmware.BIOS:
        raise InvalidError("a BIOS machine has no firmware files", code="firmware-bios")
    base = root or Path("/")
    for candidate in select(read_descriptors(base), kind, machine):
        if _in(base, candidate.code).is_file() and _in(base, candidate.vars_template).is_file():
            return FirmwareFiles(
                code=candidate.code,
                vars_template=_in(base, candidate.vars_template),
                requires_smm="requires-smm" in candidate.features,
            )
    where = f"the runtime root {root}" if root else "this host"
    raise NotFoundError(
        f"{where} has no {kind} firmware for {machine}",
        code="firmware-missing",
        hint="run make setup, it builds the runtime root anew" if root else "install the package ovmf",
    )


def read_descriptors(base: Path) -> list[Mapping[str, Any]]:
    """All descriptors under `base` in the order they are to be tried; what is not JSON is passed over."""
    files: dict[str, Path] = {}
    for directory in _DIRECTORIES:
        for path in (base / directory).glob("*.json"):
            files.setdefault(path.name, path)  # one in /etc replaces its namesake, an empty one hides it
    return [descriptor for _, path in sorted(files.items()) if (descriptor := _read(path)) is not None]


def select(descriptors: Iterable[Mapping[str, Any]], kind: Firmware, machine: str) -> list[_Candidate]:
    """The descriptors that fit, in their order: flash with a template for the variables, both raw."""
    return [
        candidate
        for descriptor in descriptors
        if _is_for(descriptor, machine)
        and (candidate := _candidate(descriptor)) is not None
        and candidate.features >= _REQUIRED[kind]
        and not candidate.features & _EXCLUDED[kind]
    ]


def _is_for(descriptor: Mapping[str, Any], machine: str) -> bool:
    name = _MACHINE_TYPES.get(machine, machine)
    return "uefi" in descriptor.get("interface-types", ()) and any(
        target.get("architecture") == _ARCH
        and any(fnmatch.fnmatch(name, pattern) for pattern in target["machines"])
        for target in descriptor.get("targets", ())
    )


def _candidate(descriptor: Mapping[str, Any]) -> _Candidate | None:
    mapping = descriptor.get("mapping", {})
    executable, template = mapping.get("executable", {}), mapping.get("nvram-template", {})
    if (
        mapping.get("device") != "flash"
        or executable.get("format") != "raw"
        or template.get("format") != "raw"
    ):
        return None
    return _Candidate(executable["filename"], template["filename"], frozenset(descriptor.get("features", ())))


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        descriptor = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return descriptor if isinstance(descriptor, dict) else None


def _in(base: Path, path: str) -> Path:
    return base / path.lstrip("/")
