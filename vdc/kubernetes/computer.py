"""Of a pod's needs, security and probes: what computer it becomes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from vdc.kubernetes import container as k8s
from vdc.kubernetes.pod import PodSpec
from vdc.kubernetes.quantity import parse_quantity, whole
from vdc.kubernetes.scene import Scene
from vdc.model.units import GIB, MIB, format_size

GUEST_OVERHEAD_BYTES = 64 * MIB  # what the guest's kernel and init take of its memory
LEAST_MEMORY_BYTES = 128 * MIB
USUAL_MEMORY_BYTES = 512 * MIB  # where no limit is given
ROOT_BYTES = 10 * GIB  # of a container image's root disk
_KINDS_OF_NEED = ("cpu", "memory", "ephemeral-storage")
_ALWAYS_TRUE = {
    "kubernetes.io/os": "linux", "beta.kubernetes.io/os": "linux",
    "kubernetes.io/arch": "amd64", "beta.kubernetes.io/arch": "amd64",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Needs:
    """What the computer has; `root`: of its root disk, where the usual is too small."""

    cpus: int
    memory: int
    root: int | None = None


def needs_of(scene: Scene) -> Needs:
    """CPUs and memory: the limit, else the request, rounded up, with room for the guest's own kernel."""
    path = f"{scene.workload.container_path}.resources"
    resources = scene.workload.container.resources
    limits, requests = (
        _known(scene, resources.limits, f"{path}.limits"),
        _known(scene, resources.requests, f"{path}.requests"),
    )
    for name in limits.keys() & requests.keys():
        if requests[name] > limits[name]:
            scene.findings.refuse(f"{path}.requests.{name}", "it is more than the limit")
    cpus = max(1, whole(limits.get("cpu", requests.get("cpu", Fraction(1)))))
    memory = limits.get("memory") or max(requests.get("memory", Fraction(0)), Fraction(USUAL_MEMORY_BYTES))
    storage = max(
        limits.get("ephemeral-storage", Fraction(0)), requests.get("ephemeral-storage", Fraction(0))
    )
    if 0 < storage <= ROOT_BYTES:
        field = "limits" if "ephemeral-storage" in limits else "requests"
        scene.findings.note(
            f"{path}.{field}.ephemeral-storage", f"the root disk has {format_size(ROOT_BYTES)}"
        )
    return Needs(
        cpus=cpus,
        memory=max(LEAST_MEMORY_BYTES, whole(memory + GUEST_OVERHEAD_BYTES, MIB)),
        root=whole(storage, MIB) if storage > ROOT_BYTES else None,
    )


def _known(scene: Scene, given: Mapping[str, Any], path: str) -> dict[str, Fraction]:
    for name in given:
        if name not in _KINDS_OF_NEED:
            scene.findings.refuse(
                f"{path}.{name[:80]}", "a guest has CPUs, memory and disks, and no device of a host"
            )
    return {name: parse_quantity(amount) for name, amount in given.items() if name in _KINDS_OF_NEED}


def node_selector(scene: Scene) -> dict[str, str]:
    """The labels that a host has to carry."""
    pod, path = scene.workload.pod, scene.workload.pod_path
    wanted: dict[str, str] = {}
    for key, value in pod.node_selector.items():
        _want(scene, wanted, key, value, f"{path}.nodeSelector")
    required = pod.affinity.node_affinity.required
    here = f"{path}.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"
    terms = required.node_selector_terms if required else ()
    if len(terms) > 1:
        scene.findings.refuse(here, "hosts are chosen by labels that hold together, and this is a choice")
        return wanted
    for n, term in enumerate(terms[0].match_expressions if terms else ()):
        if term.operator != "In" or len(term.values) != 1:
            scene.findings.refuse(
                f"{here}[0].matchExpressions[{n}]", "a host's label can only be In one value"
            )
        else:
            _want(scene, wanted, term.key, term.values[0], f"{here}[0].matchExpressions[{n}]")
    return wanted


def _want(scene: Scene, wanted: dict[str, str], key: str, value: str, path: str) -> None:
    if key in _ALWAYS_TRUE and value == _ALWAYS_TRUE[key]:
        scene.findings.note(path, f"{key}={value} holds for every host")
    elif key in _ALWAYS_TRUE:
        scene.findings.refuse(path, f"{key}={value[:40]} holds for no host")
    elif wanted.setdefault(key, value) != value:
        scene.findings.refuse(path, f"{key[:80]} cannot have two values")


def user_of(scene: Scene) -> str | None:
    """`UID[:GID]`; None leaves the image's."""
    pod, container = scene.workload.pod.security_context, scene.workload.container.security_context
    path = f"{scene.workload.container_path}.securityContext"
    user = pod.run_as_user if container.run_as_user is None else container.run_as_user
    group = pod.run_as_group if container.run_as_group is None else container.run_as_group
    is_other = pod.run_as_non_root if container.run_as_non_root is None else container.run_as_non_root
    if is_other and not user:
        reason = "it is root" if user == 0 else "the image's user is not known here: give runAsUser"
        scene.findings.refuse(f"{path}.runAsNonRoot", reason)
    if group is not None and user is None:
        scene.findings.refuse(f"{path}.runAsGroup", "the image's user is not known here: give runAsUser")
    return None if user is None else f"{user}:{group}" if group is not None else f"{user}"


def security_of(pod: PodSpec) -> dict[str, Any]:
    """What the program may do, as a manifest has it."""
    common, own = pod.security_context, pod.containers[0].security_context
    caps = {
        name: [one.upper().removeprefix("CAP_") for one in given]
        for name, given in (("add", own.capabilities.add), ("drop", own.capabilities.drop))
        if given
    }
    found: dict[str, Any] = {"capabilities": caps} if caps else {}
    if common.fs_group is not None:
        found["fsGroup"] = common.fs_group
    if common.supplemental_groups:
        found["supplementalGroups"] = list(common.supplemental_groups)
    if own.read_only_root_filesystem:
        found["readOnlyRootFilesystem"] = True
    if not own.allow_privilege_escalation:
        found["allowPrivilegeEscalation"] = False
    return found


def probe_of(scene: Scene, probe: k8s.Probe, path: str) -> dict[str, Any] | None:
    """A probe, with the number of the port that it names; None where it is among the findings."""
    kinds: dict[str, Any] = {}
    if probe.exec is not None:
        kinds["exec"] = {"command": list(probe.exec.command)}
    if probe.http_get is not None:
        http = probe.http_get
        kinds["httpGet"] = {
            "port": _port(scene, http.port, f"{path}.httpGet.port"),
            "path": http.path if http.path.startswith("/") else f"/{http.path}",
            "scheme": http.scheme,
            "httpHeaders": [{"name": one.name, "value": one.value} for one in http.http_headers],
        }
    if probe.tcp_socket is not None:
        kinds["tcpSocket"] = {"port": _port(scene, probe.tcp_socket.port, f"{path}.tcpSocket.port")}
    if probe.grpc is not None:  # refused as a field
        return None
    if len(kinds) != 1:
        scene.findings.refuse(path, "a probe is exactly one of exec, httpGet and tcpSocket")
        return None
    figures = {
        "initialDelaySeconds": probe.initial_delay_seconds, "periodSeconds": probe.period_seconds,
        "timeoutSeconds": probe.timeout_seconds, "successThreshold": probe.success_threshold,
        "failureThreshold": probe.failure_threshold,
    }  # fmt: skip
    return {**kinds, **{name: value for name, value in figures.items() if value}}


def _port(scene: Scene, port: int | str, path: str) -> int:
    if isinstance(port, int):
        return port
    for one in scene.workload.container.ports:
        if one.name == port:
            return one.container_port
    if port.isascii() and port.isdigit() and len(port) <= 5:
        return int(port)
    scene.findings.refuse(path, f"the container has no port named {port[:40]!r}")
    return 1
