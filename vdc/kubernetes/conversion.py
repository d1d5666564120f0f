"""A workload of one pod with one container, as the manifest of an Endophyte that runs the same. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from vdc.kubernetes.companions import DEFAULT_NAMESPACE
from vdc.kubernetes.computer import needs_of, node_selector, probe_of, security_of, user_of
from vdc.kubernetes.environment import environment
from vdc.kubernetes.fields import Findings, read
from vdc.kubernetes.mounts import Mounts, mounts_of
from vdc.kubernetes.objects import Claim, Deployment, Pod, Selector, StatefulSet
from vdc.kubernetes.scene import Scene, Workload
from vdc.model.manifest import (
    ANNOTATION_PREFIX,
    ISOLATION_LEVEL,
    NAMESPACE,
    SERVICE_TYPE,
    EndophyteManifest,
)
from vdc.model.manifest_file import describe_mistake

DEDICATED_NODES = ANNOTATION_PREFIX + "dedicated-nodes"
MEMORY_SYNC = ANNOTATION_PREFIX + "memory-sync"
_OURS = (
    SERVICE_TYPE,
    ISOLATION_LEVEL,
    NAMESPACE,
    DEDICATED_NODES,
    MEMORY_SYNC,
    ANNOTATION_PREFIX + "description",
)
_BOOKKEEPING = ("kubectl.kubernetes.io/last-applied-configuration", "deployment.kubernetes.io/revision")
WORKLOADS: Mapping[str, type[Pod] | type[Deployment] | type[StatefulSet]] = {
    "Pod": Pod, "Deployment": Deployment, "StatefulSet": StatefulSet,
}  # fmt: skip


def read_workload(kind: str, value: Mapping[str, Any], findings: Findings) -> Workload | None:
    """The workload of a parsed object; None where it is none that has exactly one container."""
    made = read(WORKLOADS[kind], value, findings)
    if made is None:
        return None
    workload = _of_pod(made) if isinstance(made, Pod) else _of_template(made, findings)
    here = f"{workload.pod_path}.containers"
    if len(workload.pod.containers) != 1:
        count = len(workload.pod.containers)
        findings.refuse(here, f"an Endophyte runs one program, and there are {count or 'no'} containers")
        return None
    for name in (workload.pod.service_account_name, workload.pod.service_account):
        if name not in ("", "default"):
            findings.refuse(
                f"{workload.pod_path}.serviceAccountName", "there is no Kubernetes API for it to speak to"
            )
    return workload


def _of_pod(pod: Pod) -> Workload:
    metadata = pod.metadata
    space = metadata.namespace or DEFAULT_NAMESPACE
    return Workload("Pod", metadata, space, pod.spec, metadata, metadata.name, "spec")


def _of_template(made: Deployment | StatefulSet, findings: Findings) -> Workload:
    spec, metadata = made.spec, made.metadata
    pod, path = spec.template.spec, "spec.template.spec"
    if spec.replicas < 1:
        findings.refuse("spec.replicas", "what is applied runs: write 1, and use vdc stop")
    elif spec.replicas > 1:
        findings.refuse(
            "spec.replicas",
            f"{spec.replicas} of them, and an Endophyte is one computer with a replica of its own: write 1",
        )
    if pod.restart_policy != "Always":
        findings.refuse(f"{path}.restartPolicy", f"a {made.kind}'s is Always")
    _check_selector(spec.selector, spec.template.metadata.labels, findings)
    name = metadata.name
    claims: tuple[Claim, ...] = ()
    if isinstance(made, StatefulSet):
        name, claims = f"{name}-{made.spec.ordinals.start}", made.spec.volume_claim_templates
        if made.spec.persistent_volume_claim_retention_policy.when_deleted == "Retain":
            here = "spec.persistentVolumeClaimRetentionPolicy.whenDeleted"
            findings.refuse(here, "an Endophyte's disks are deleted with it")
    space = metadata.namespace or DEFAULT_NAMESPACE
    return Workload(made.kind, metadata, space, pod, spec.template.metadata, name, path, claims)


def _check_selector(selector: Selector | None, labels: Mapping[str, str], findings: Findings) -> None:
    for key, value in (selector.match_labels if selector else {}).items():
        if labels.get(key) != value:
            findings.refuse(f"spec.selector.matchLabels.{key[:80]}", "the template's labels do not have it")


def convert(scene: Scene) -> EndophyteManifest | None:
    """The manifest; None, with the reasons among the findings, where something cannot be kept."""
    workload = scene.workload
    needs = needs_of(scene)
    mounts = mounts_of(scene, needs)
    annotations = _annotations(scene)
    computer: dict[str, Any] = {"type": "container"}
    nodes, sync = annotations.pop(DEDICATED_NODES, None), annotations.pop(MEMORY_SYNC, None)
    if nodes is not None:
        computer["dedicatedNodes"] = _nodes(nodes, scene.findings)
    if sync is not None:
        computer["memorySync"] = sync
    values = {
        "apiVersion": "mycelium.network/v1",
        "kind": "Endophyte",
        "metadata": {
            "name": workload.metadata.name, "labels": _labels(scene), "annotations": annotations,
        },
        "spec": {
            "virtualComputer": computer,
            "image": workload.container.image,
            "resources": {"cpus": needs.cpus, "memory": needs.memory},
            "disks": _disks(mounts, needs.root),
            "process": _process(scene, environment(scene, needs), mounts),
            "placement": {"nodeSelector": node_selector(scene)},
        },
    }  # fmt: skip
    try:
        manifest = EndophyteManifest.model_validate(values)
    except ValidationError as error:
        for mistake in error.errors(include_url=False):
            scene.findings.refuse("as an Endophyte", describe_mistake(mistake, EndophyteManifest))
        return None
    return None if scene.findings.refusals else manifest


def _process(scene: Scene, env: list[dict[str, Any]], mounts: Mounts) -> dict[str, Any]:
    """What is not as the image has it."""
    workload = scene.workload
    container, pod, path = workload.container, workload.pod, workload.container_path
    found: dict[str, Any] = {
        "command": list(container.command) or None,
        "args": list(container.args) or None,
        "env": env,
        "workingDir": container.working_dir or None,
        "user": user_of(scene),
        "hostname": pod.hostname or (workload.pod_name if workload.kind == "StatefulSet" else None),
        "ports": [
            port.model_dump(by_alias=True, exclude={"host_port", "host_ip"}) for port in container.ports
        ],
        "securityContext": security_of(pod) or None,
        "restartPolicy": pod.restart_policy,
        "stopSignal": container.lifecycle.stop_signal,
        "stopSeconds": pod.termination_grace_period_seconds,
        "emptyDirs": mounts.empty_dirs,
        "files": mounts.files,
        **{
            name: probe_of(scene, probe, f"{path}.{name}")
            for name, probe in (
                ("startupProbe", container.startup_probe),
                ("livenessProbe", container.liveness_probe),
                ("readinessProbe", container.readiness_probe),
            )
            if probe is not None
        },
    }
    return {name: value for name, value in found.items() if value is not None}


def _disks(mounts: Mounts, root: int | None) -> list[dict[str, Any]]:
    """The root first, which only has to be named where something comes after it, or it is to be larger."""
    if not mounts.disks and root is None:
        return []
    first = "system" if any(disk["name"] == "root" for disk in mounts.disks) else "root"
    return [{"name": first, **({"size": root} if root else {})}, *mounts.disks]


def _labels(scene: Scene) -> dict[str, str]:
    """The pod's, by which services find it, and those of the object beside them."""
    return _together(
        scene, scene.workload.metadata.labels, scene.workload.pod_metadata.labels, "metadata.labels"
    )


def _annotations(scene: Scene) -> dict[str, str]:
    workload, findings = scene.workload, scene.findings
    both = _together(
        scene, workload.metadata.annotations, workload.pod_metadata.annotations, "metadata.annotations"
    )
    for key in both:
        if key.startswith(ANNOTATION_PREFIX) and key not in _OURS:
            close = difflib.get_close_matches(key, _OURS, n=1)
            advice = f"did you mean {close[0]}?" if close else f"known: {', '.join(_OURS)}"
            findings.refuse(f"metadata.annotations.{key[:80]}", f"unknown ({advice})")
    kept = {key: value for key, value in both.items() if key not in _BOOKKEEPING}
    if workload.namespace != DEFAULT_NAMESPACE:
        kept[NAMESPACE] = workload.namespace
    return kept


def _together(
    scene: Scene, of_object: Mapping[str, str], of_pod: Mapping[str, str], path: str
) -> dict[str, str]:
    for key in of_object.keys() & of_pod.keys():
        if of_object[key] != of_pod[key]:
            if key.startswith(ANNOTATION_PREFIX):
                scene.findings.refuse(
                    f"{path}.{key[:80]}", "the object and its template contradict each other"
                )
            else:
                scene.findings.note(f"{path}.{key[:80]}", "the template's value counts")
    return {**of_object, **of_pod}


def _nodes(text: str, findings: Findings) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 2:
        return int(text)
    findings.refuse(f"metadata.annotations.{DEDICATED_NODES}", f"{text[:40]!r} is not a number of hosts")
    return 1
