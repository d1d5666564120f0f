"""What is not kept of Kubernetes' objects, read from the records that read them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_origin

from pydantic import BaseModel

from vdc.kubernetes.fields import Noted, Refused
from vdc.kubernetes.objects import ClaimSpec, DeploymentSpec, ObjectMeta, ServiceSpec, StatefulSetSpec
from vdc.kubernetes.pod import PodSpec
from vdc.model.manifest_file import record_in

# Where each table begins; what has a row of its own is not entered from another one.
_ROOTS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("every object's metadata", ObjectMeta),
    ("Deployment", DeploymentSpec),
    ("StatefulSet", StatefulSetSpec),
    ("pod", PodSpec),
    ("claim", ClaimSpec),
    ("Service", ServiceSpec),
)


def refused_table() -> str:
    """Fields that make an object be refused."""
    return _table("refused, because", Refused)


def noted_table() -> str:
    """Fields that the user is told of."""
    return _table("means nothing here, because", Noted)


def _table(title: str, wanted: type[Refused] | type[Noted]) -> str:
    lines = [f"| of | fields | {title} |", "|---|---|---|"]
    for label, root in _ROOTS:
        reasons: dict[str, list[str]] = {}
        for path, marker in _markers(root, ""):
            if isinstance(marker, wanted):
                reasons.setdefault(marker.reason, []).append(f"`{path}`")
        lines += [f"| {label} | {', '.join(paths)} | {reason} |" for reason, paths in reasons.items()]
    return "\n".join([*lines, ""])


def _markers(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, Refused | Noted]]:
    for name, about in model.model_fields.items():
        path = f"{prefix}{about.alias or name}"
        yield from ((path, marker) for marker in about.metadata if isinstance(marker, Refused | Noted))
        inner = record_in(about.annotation)
        if inner is None or inner in [root for _, root in _ROOTS] or name == "template":
            continue
        is_many = get_origin(about.annotation) is tuple
        yield from _markers(inner, f"{path}{'[]' if is_many else ''}.")
