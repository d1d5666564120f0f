"""The objects themselves: workloads that can become an Endophyte, and what they refer to."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from vdc.kubernetes.fields import KubernetesRecord, Noted, Refused
from vdc.kubernetes.pod import PodSpec
from vdc.kubernetes.quantity import Quantity

_ONE = "there is one computer, which is changed where it is"
_FOREIGN_DATA = "its disk is made empty: data that is somewhere else does not come with it"


class ObjectMeta(KubernetesRecord):
    """Name, labels, annotations; what a server adds is left to it."""

    name: str = Field(default="", max_length=253)
    namespace: str = Field(default="", max_length=63)
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    generate_name: Annotated[
        Any, Refused("an Endophyte is applied by its name: give it in metadata.name")
    ] = None
    owner_references: Annotated[Any, Refused("it belongs to another object: apply that one")] = None
    finalizers: Annotated[Any, Refused("nobody here would take them away")] = None
    uid: Any = None
    resource_version: Any = None
    generation: Any = None
    creation_timestamp: Any = None
    deletion_timestamp: Any = None
    deletion_grace_period_seconds: Any = None
    managed_fields: Any = None
    self_link: Any = None


class PodTemplate(KubernetesRecord):
    """What a workload's pods are like."""

    metadata: ObjectMeta = ObjectMeta()
    spec: PodSpec


class Selector(KubernetesRecord):
    """Which pods are meant."""

    match_labels: dict[str, str] = Field(default_factory=dict)
    match_expressions: Annotated[
        Any, Noted("the one pod is selected by being in the workload's template")
    ] = None


class ClaimResources(KubernetesRecord):
    """How large it is."""

    requests: dict[str, Quantity] = Field(default_factory=dict)
    limits: dict[str, Quantity] = Field(default_factory=dict)


class ClaimSpec(KubernetesRecord):
    """A disk that is asked for."""

    access_modes: tuple[
        Literal["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany", "ReadOnlyMany"], ...
    ] = ()
    resources: ClaimResources = ClaimResources()
    storage_class_name: Annotated[
        Any, Noted("disks are files on the hosts' own storage, whatever the class")
    ] = None
    volume_mode: Literal["Filesystem", "Block"] = "Filesystem"
    selector: Annotated[Any, Refused(_FOREIGN_DATA)] = None
    volume_name: Annotated[Any, Refused(_FOREIGN_DATA)] = None
    data_source: Annotated[Any, Refused(_FOREIGN_DATA)] = None
    data_source_ref: Annotated[Any, Refused(_FOREIGN_DATA)] = None
    volume_attributes_class_name: Annotated[
        Any, Noted("disks are files on the hosts' own storage, whatever the class")
    ] = None


class Claim(KubernetesRecord):
    """A claim, of its own or in a StatefulSet's template."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["PersistentVolumeClaim"] = "PersistentVolumeClaim"
    metadata: ObjectMeta = ObjectMeta()
    spec: ClaimSpec
    status: Any = None


class ConfigMap(KubernetesRecord):
    """Texts and bytes by their keys."""

    api_version: Literal["v1"]
    kind: Literal["ConfigMap"]
    metadata: ObjectMeta
    data: dict[str, str] = Field(default_factory=dict)
    binary_data: dict[str, str] = Field(default_factory=dict, repr=False)
    immutable: bool = False


class Secret(KubernetesRecord):
    """The same, to be shown to nobody."""

    api_version: Literal["v1"]
    kind: Literal["Secret"]
    metadata: ObjectMeta
    data: dict[str, str] = Field(default_factory=dict, repr=False)
    string_data: dict[str, str] = Field(default_factory=dict, repr=False)
    type: str = "Opaque"
    immutable: bool = False


class Pod(KubernetesRecord):
    """One pod."""

    api_version: Literal["v1"]
    kind: Literal["Pod"]
    metadata: ObjectMeta
    spec: PodSpec
    status: Any = None


class DeploymentSpec(KubernetesRecord):
    """One pod, whichever."""

    replicas: int = 1
    selector: Selector | None = None
    template: PodTemplate
    strategy: Annotated[Any, Noted(_ONE)] = None
    min_ready_seconds: Annotated[Any, Noted(_ONE)] = None
    revision_history_limit: Annotated[Any, Noted(_ONE)] = None
    progress_deadline_seconds: Annotated[Any, Noted(_ONE)] = None
    paused: Annotated[Any, Refused("what is applied takes effect: apply it when it shall")] = None


class Deployment(KubernetesRecord):
    """A workload without an identity of its own."""

    api_version: Literal["apps/v1"]
    kind: Literal["Deployment"]
    metadata: ObjectMeta
    spec: DeploymentSpec
    status: Any = None


class Ordinals(KubernetesRecord):
    """The number of the first pod."""

    start: int = Field(default=0, ge=0)


class ClaimRetention(KubernetesRecord):
    """What becomes of disks."""

    when_deleted: Literal["Retain", "Delete"] | None = None
    when_scaled: Annotated[Any, Noted("there is one computer, which is not scaled")] = None


class StatefulSetSpec(KubernetesRecord):
    """One pod with a number and disks."""

    replicas: int = 1
    selector: Selector | None = None
    template: PodTemplate
    volume_claim_templates: tuple[Claim, ...] = ()
    service_name: Annotated[
        str, Noted("there are no names below a service: its own name is all it is reached by")
    ] = ""
    pod_management_policy: Annotated[Any, Noted(_ONE)] = None
    update_strategy: Annotated[Any, Noted(_ONE)] = None
    min_ready_seconds: Annotated[Any, Noted(_ONE)] = None
    revision_history_limit: Annotated[Any, Noted(_ONE)] = None
    persistent_volume_claim_retention_policy: ClaimRetention = ClaimRetention()
    ordinals: Ordinals = Ordinals()


class StatefulSet(KubernetesRecord):
    """A workload with an identity and disks of its own."""

    api_version: Literal["apps/v1"]
    kind: Literal["StatefulSet"]
    metadata: ObjectMeta
    spec: StatefulSetSpec
    status: Any = None


class ServicePort(KubernetesRecord):
    """One port of a service."""

    port: int = Field(ge=1, le=65535)
    name: str = ""
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"
    target_port: Any = None
    node_port: Annotated[Any, Refused("publishing ports on the hosts is not supported yet")] = None
    app_protocol: Annotated[Any, Noted("nobody is told which protocol a port speaks")] = None


class ServiceSpec(KubernetesRecord):
    """A name and ports for pods."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] = "ClusterIP"
    selector: dict[str, str] = Field(default_factory=dict)
    ports: tuple[ServicePort, ...] = ()
    cluster_ip: str = Field(default="", alias="clusterIP")  # an Endophyte has an address of its own
    cluster_ips: Any = Field(default=None, alias="clusterIPs")
    ip_families: Annotated[Any, Noted("overlays have IPv4")] = None
    ip_family_policy: Annotated[Any, Noted("overlays have IPv4")] = None
    session_affinity: Annotated[Any, Noted("one computer answers everybody")] = None
    session_affinity_config: Annotated[Any, Noted("one computer answers everybody")] = None
    internal_traffic_policy: Annotated[Any, Noted("one computer answers everybody")] = None
    traffic_distribution: Annotated[Any, Noted("one computer answers everybody")] = None
    publish_not_ready_addresses: Annotated[Any, Noted("an Endophyte's name leads to it, ready or not")] = None
    external_ips: Annotated[Any, Refused("publishing ports on the hosts is not supported yet")] = Field(
        default=None, alias="externalIPs"
    )
    external_name: Annotated[Any, Refused("an Endophyte has no name but its own")] = None
    external_traffic_policy: Annotated[Any, Refused("publishing ports on the hosts is not supported yet")] = (
        None
    )
    load_balancer_ip: Annotated[Any, Refused("publishing ports on the hosts is not supported yet")] = Field(
        default=None, alias="loadBalancerIP"
    )
    load_balancer_class: Annotated[Any, Refused("publishing ports on the hosts is not supported yet")] = None
    load_balancer_source_ranges: Annotated[
        Any, Refused("publishing ports on the hosts is not supported yet")
    ] = None
    allocate_load_balancer_node_ports: Any = None
    health_check_node_port: Any = None


class Service(KubernetesRecord):
    """Where pods are reached."""

    api_version: Literal["v1"]
    kind: Literal["Service"]
    metadata: ObjectMeta
    spec: ServiceSpec
    status: Any = None
