"""One workload that becomes an Endophyte, and what is found on the way. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vdc.kubernetes.companions import Companion, Companions, Key
from vdc.kubernetes.container import Container
from vdc.kubernetes.fields import Findings
from vdc.kubernetes.objects import Claim, ObjectMeta
from vdc.kubernetes.pod import PodSpec


@dataclass(frozen=True, slots=True)
class Workload:
    """A Pod, Deployment or StatefulSet of one pod with one container."""

    kind: str
    metadata: ObjectMeta
    namespace: str
    pod: PodSpec
    pod_metadata: ObjectMeta  # of the template
    pod_name: str  # as the pod itself is called
    pod_path: str  # where its specification stands in the object: spec, or spec.template.spec
    claims: tuple[Claim, ...] = ()  # of a StatefulSet

    @property
    def label(self) -> str:
        """`statefulset/redis`."""
        return f"{self.kind.lower()}/{self.metadata.name}"

    @property
    def container(self) -> Container:
        """The one."""
        return self.pod.containers[0]

    @property
    def container_path(self) -> str:
        """Where it stands."""
        return f"{self.pod_path}.containers[0]"


@dataclass(slots=True)
class Scene:
    """A workload with all that it may refer to."""

    workload: Workload
    companions: Companions
    findings: Findings
    used: set[Key] = field(default_factory=set)

    def values_of(self, kind: str, name: str, path: str, *, optional: bool) -> Mapping[str, bytes] | None:
        """What a ConfigMap or Secret holds; None, with the reason among the findings, where that is not known."""
        found = self.companion(kind, name, path, optional=optional)
        return found.values if found else None

    def companion(self, kind: str, name: str, path: str, *, optional: bool = False) -> Companion | None:
        """The object of this name in the workload's namespace, which is used from now on."""
        key = Key(kind, self.workload.namespace, name)
        found = self.companions.find(key)
        if found is None and optional:
            self.findings.note(path, f"{key} is optional, and not in this call")
        elif found is None:
            self.findings.refuse(path, f"{key} is not in this call: apply both together")
        else:
            self.used.add(key)
            if found.values is None and found.claim is None:
                self.findings.refuse(path, f"{key} cannot be used")
        return found
