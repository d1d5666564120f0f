"""The objects of one call: which become Endophytes, what is a part of them, what cannot be applied. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vdc.kubernetes.companions import DEFAULT_NAMESPACE, KINDS, Companions, Key
from vdc.kubernetes.conversion import WORKLOADS, convert, read_workload
from vdc.kubernetes.fields import Findings, read, strings_below
from vdc.kubernetes.objects import Service
from vdc.kubernetes.scene import Scene, Workload
from vdc.kubernetes.services import check_service
from vdc.model.manifest import NAMESPACE, SERVICE_TYPE
from vdc.model.manifest_file import UNSUPPORTED, Loaded, ManifestError

ENDOPHYTE, ENDOMYCETE = "endophyte", "endomycete"
REFUSED = "conversion-refused"
_HINT = "docs/kubernetes-manifests.md says what can be kept"
_MAX_TEXT = 4000
_INSTEAD = {
    "ReplicaSet": "a Deployment with replicas: 1",
    "ReplicationController": "a Deployment with replicas: 1",
    "DaemonSet": "a Deployment with replicas: 1; an Endophyte runs on one host, not on each",
    "Job": "a Pod with restartPolicy: OnFailure",
    "CronJob": "a Deployment whose program keeps the time itself",
}
_NAMES = ("name", "secretName", "claimName")  # under which an object refers to others


@dataclass(frozen=True, slots=True)
class _Annotated:
    """A workload that is to become an Endophyte; `workload` where it does."""

    item: Loaded
    workload: Workload | None

    def selected_by(self, service: Loaded) -> bool:
        wanted = _below(service.value, "spec", "selector")
        labels = _below(_template(self.item.value) or self.item.value, "metadata", "labels")
        is_near = _namespace(self.item) == _namespace(service)
        return (
            is_near
            and isinstance(wanted, dict)
            and bool(wanted)
            and isinstance(labels, dict)
            and all(labels.get(key) == value for key, value in wanted.items())
        )

    def may_refer_to(self, key: Key) -> bool:
        is_near = _namespace(self.item) == key.namespace
        return is_near and any(key.name in strings_below(self.item.value, name) for name in _NAMES)


@dataclass(slots=True)
class _Call:
    """What has been found out so far."""

    companions: Companions
    annotated: list[_Annotated] = field(default_factory=list)
    users: dict[Key, list[str]] = field(default_factory=dict)  # companion -> Endophytes that it is a part of


def route(loaded: Sequence[Loaded]) -> tuple[Loaded, ...]:
    """The same objects in the same order; what Kubernetes' kinds become is put in."""
    call = _Call(Companions([item for item in loaded if _is_foreign(item)]))
    made = [_workload(item, call) if _is_foreign(item) else item for item in loaded]
    return tuple(_beside(item, call) if _is_foreign(item) else item for item in made)


def service_type(value: Mapping[str, Any]) -> str | None:
    """What the annotation of a parsed object says, or that of its pods; None where there is none.

    Raises `ValueError` where it makes no sense.
    """
    path = ("metadata", "annotations", SERVICE_TYPE)
    found = [one for one in (_below(value, *path), _below(_template(value), *path)) if one is not None]
    for text in found:
        if text not in (ENDOPHYTE, ENDOMYCETE):
            shown = str(text)[:40]
            raise ValueError(
                f"annotation {SERVICE_TYPE}: {shown!r} is neither {ENDOPHYTE!r} nor {ENDOMYCETE!r}"
            )
    if found[1:] and found[0] != found[1]:
        raise ValueError(f"annotation {SERVICE_TYPE}: the object and its template contradict each other")
    return str(found[0]) if found else None


def namespace_of(item: Loaded) -> str | None:
    """The namespace of a workload that `route` has met; None where it is none of Kubernetes'."""
    if not item.origin:
        return None
    return (
        item.manifest.metadata.annotations.get(NAMESPACE, DEFAULT_NAMESPACE)
        if item.manifest
        else _namespace(item)
    )


# ---- workloads


def _workload(item: Loaded, call: _Call) -> Loaded:
    if item.kind in KINDS or item.kind == "Service":
        return item
    try:
        if service_type(item.value) != ENDOPHYTE:
            return _unrouted(item)
    except ValueError as error:
        return _failed(item, Findings([str(error)]))
    if item.kind not in WORKLOADS:
        return _unconvertible(item)
    findings = Findings()
    workload = read_workload(item.kind, item.value, findings)
    scene = Scene(workload, call.companions, findings) if workload is not None else None
    manifest = convert(scene) if scene is not None else None
    if scene is not None:
        _check_claims(scene, call)
    if manifest is None or scene is None or findings.refusals:
        call.annotated.append(_Annotated(item, None))
        return replace(_failed(item, findings), origin=item.label)
    call.annotated.append(_Annotated(item, workload))
    name = manifest.metadata.name
    for key in scene.used:
        call.users.setdefault(key, []).append(f"endophyte/{name}")
    return Loaded(item.source, "Endophyte", name, manifest, origin=item.label, notes=findings.noted)


def _check_claims(scene: Scene, call: _Call) -> None:
    for key in scene.used & call.users.keys():
        found = call.companions.find(key)
        if found is not None and found.claim is not None:
            scene.findings.refuse(
                "", f"{key} is the disk of {call.users[key][0]} already, and a disk has one user"
            )


def _unconvertible(item: Loaded) -> Loaded:
    instead = _INSTEAD.get(item.kind)
    hint = f"write {instead}" if instead else f"these can: {', '.join(WORKLOADS)}"
    reason = f"a {item.kind} cannot become an Endophyte"
    return replace(item, error=ManifestError(f"{_place(item)}: {reason}", hint=hint, code=REFUSED))


def _unrouted(item: Loaded) -> Loaded:
    """A workload for Kubernetes itself, with the way out."""
    hint = f"annotate it with {SERVICE_TYPE}: {ENDOPHYTE} to run it as a virtual computer"
    return _hinted(item, hint) if item.kind in WORKLOADS or item.kind in _INSTEAD else item


# ---- what is beside them


def _beside(item: Loaded, call: _Call) -> Loaded:
    if item.kind == "Service":
        return _service(item, call)
    key = call.companions.keys.get(id(item))
    if key is None:
        return item
    findings, users = call.companions.findings[id(item)], call.users.get(key, [])
    refused = [one.item.label for one in call.annotated if one.workload is None and one.may_refer_to(key)]
    if not users and not refused:
        hint = "it is taken where a workload of the same call and namespace that becomes an Endophyte refers to it"
        return _hinted(item, hint)
    if findings.refusals:
        return _failed(item, findings)
    sentence = f"is part of {', '.join(users)}" if users else _not_applied(refused)
    return replace(item, error=None, part_of=sentence, notes=findings.noted)


def _service(item: Loaded, call: _Call) -> Loaded:
    selected = [one for one in call.annotated if one.selected_by(item)]
    if not selected:
        return _hinted(
            item, "it is taken where it selects a workload of the same call that becomes an Endophyte"
        )
    findings = Findings()
    service = read(Service, item.value, findings)
    workloads = [one.workload for one in selected if one.workload is not None]
    if service is not None and len(selected) > 1:
        names = ", ".join(one.item.label for one in selected)
        findings.refuse("spec.selector", f"it spreads over {names}, and nothing here does that")
    elif service is not None and workloads:
        check_service(service, workloads[0], findings)
    if findings.refusals:
        return _failed(item, findings)
    sentence = (
        f"is the name of endophyte/{workloads[0].metadata.name}"
        if workloads
        else _not_applied([one.item.label for one in selected])
    )
    return replace(item, error=None, part_of=sentence, notes=findings.noted)


def _not_applied(labels: Sequence[str]) -> str:
    return f"is not applied: {', '.join(labels)} {'is' if len(labels) == 1 else 'are'} refused"


# ---- errors


def _failed(item: Loaded, findings: Findings) -> Loaded:
    """All reasons in one line, as many as a line can have."""
    shown: list[str] = []
    for text in findings.refusals:
        if sum(map(len, shown)) + len(text) > _MAX_TEXT:
            break
        shown.append(text)
    if len(shown) < len(findings.refusals):
        shown.append(f"and {len(findings.refusals) - len(shown)} more")
    error = ManifestError(f"{_place(item)}: {'; '.join(shown)}", hint=_HINT, code=REFUSED)
    return replace(item, error=error, notes=())


def _hinted(item: Loaded, hint: str) -> Loaded:
    assert item.error is not None
    return replace(item, error=ManifestError(item.error.problem.message, hint=hint, code=UNSUPPORTED))


def _place(item: Loaded) -> str:
    return item.source if item.label == item.source else f"{item.source}: {item.label}"


# ---- parsed values, which may be anything


def _is_foreign(item: Loaded) -> bool:
    return item.error is not None and item.error.code == UNSUPPORTED and bool(item.value)


def _below(value: Any, *path: str) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _template(value: Any) -> Any:
    return _below(value, "spec", "template")


def _namespace(item: Loaded) -> str:
    space = _below(item.value, "metadata", "namespace")
    return space if isinstance(space, str) and space else DEFAULT_NAMESPACE
