"""What of an Endophyte's manifest may change after creation; for the rest, why not and what to do instead. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vdc.model.errors import ConflictError, RefusedError
from vdc.model.manifest import NAMESPACE, EndophyteManifest

_CHANGEABLE: Final = frozenset({"virtual_computer", "protection", "placement", "process"})
_SAME_DEVICES: Final = (
    "both copies of a pair have the same devices from power-on to power-off, so nothing is plugged in or out"
)
_REASONS: Final[Mapping[str, str]] = {
    "resources": "lockstep knows no ballooning and no hot-plug: memory and CPUs stay as they were at power-on",
    "disks": _SAME_DEVICES,
    "networks": _SAME_DEVICES,
    "tpm": _SAME_DEVICES,
    "display": _SAME_DEVICES,
    "firmware": "what boots a disk has left its mark on it",
    "image": "its disk is laid over that image",
    "cloud_init": "cloud-init reads it at the guest's first start alone",
}


def check_changeable(before: EndophyteManifest, after: EndophyteManifest) -> None:
    """RefusedError (`immutable-field`) for the first field that differs and may not; ConflictError (`name-taken`)."""
    spaces = [manifest.metadata.annotations.get(NAMESPACE, "default") for manifest in (before, after)]
    if spaces[0] != spaces[1]:
        raise ConflictError(
            f"{before.metadata.name} is that of namespace {spaces[0]}, not of {spaces[1]}",
            code="name-taken",
            hint="Endophytes of all namespaces need different names",
        )
    fields = type(before.spec).model_fields
    changed = [name for name in fields if getattr(before.spec, name) != getattr(after.spec, name)]
    fixed = {
        str(fields[name].alias or name): _REASONS.get(name, "") for name in changed if name not in _CHANGEABLE
    }
    if before.spec.virtual_computer.type is not after.spec.virtual_computer.type:
        fixed["virtualComputer.type"] = _REASONS["image"]
    if not fixed:
        return
    first, reason = next(iter(fixed.items()))
    raise RefusedError(
        f"spec.{first} of {before.metadata.name} cannot be changed after creation{reason and ': ' + reason}",
        code="immutable-field",
        hint=f"delete and create it anew to change {', '.join(fixed)}; its disks go with it",
    )
