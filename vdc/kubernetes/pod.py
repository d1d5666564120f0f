"""A pod's specification, field by field (up to Kubernetes 1.35): what is kept has a type, what is not its reason."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from vdc.kubernetes.container import Container, SeccompProfile
from vdc.kubernetes.fields import KubernetesRecord, Noted, Refused
from vdc.kubernetes.volumes import Volume

_ONE_PROGRAM = "an Endophyte runs one program, the container's"
_HOST = "an Endophyte has a kernel and a network of its own, and none of its host's"
_NOT_SCHEDULED = "hosts of Endophytes have no taints, priorities or classes"
_NO_CLUSTER = "there is no Kubernetes API for it to speak to"
_RESOLVER = "names are resolved by the overlay's own servers"


class Term(KubernetesRecord):
    """One condition on a node's labels."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    values: tuple[str, ...] = ()


class NodeTerms(KubernetesRecord):
    """Conditions that hold together."""

    match_expressions: tuple[Term, ...] = ()
    match_fields: Annotated[Any, Refused("hosts are chosen by labels")] = None


class RequiredNodes(KubernetesRecord):
    """Any of these."""

    node_selector_terms: tuple[NodeTerms, ...] = ()


class NodeAffinity(KubernetesRecord):
    """Which nodes."""

    required: RequiredNodes | None = Field(
        default=None, alias="requiredDuringSchedulingIgnoredDuringExecution"
    )
    preferred: Annotated[Any, Noted("hosts are chosen by the room that they have")] = Field(
        default=None, alias="preferredDuringSchedulingIgnoredDuringExecution"
    )


class PodAffinity(KubernetesRecord):
    """Which neighbours."""

    required: Annotated[Any, Refused("hosts are chosen by labels, not by what else runs there")] = Field(
        default=None, alias="requiredDuringSchedulingIgnoredDuringExecution"
    )
    preferred: Annotated[Any, Noted("hosts are chosen by the room that they have")] = Field(
        default=None, alias="preferredDuringSchedulingIgnoredDuringExecution"
    )


class Affinity(KubernetesRecord):
    """Where it shall run."""

    node_affinity: NodeAffinity = NodeAffinity()
    pod_affinity: PodAffinity = PodAffinity()
    pod_anti_affinity: PodAffinity = PodAffinity()


class Os(KubernetesRecord):
    """Which operating system."""

    name: Literal["linux"]


class PodSecurityContext(KubernetesRecord):
    """What holds for all of a pod."""

    run_as_user: int | None = Field(default=None, ge=0, le=2**31 - 1)
    run_as_group: int | None = Field(default=None, ge=0, le=2**31 - 1)
    run_as_non_root: bool = False
    fs_group: int | None = Field(default=None, ge=0, le=2**31 - 1)
    supplemental_groups: tuple[int, ...] = ()
    supplemental_groups_policy: Literal["Merge"] = "Merge"
    seccomp_profile: Annotated[
        SeccompProfile | None, Noted("it confines programs that share a kernel, and the guest's is its own")
    ] = None
    fs_group_change_policy: Annotated[Any, Noted("groups are set at each power-on where they differ")] = None
    sysctls: Annotated[Any, Refused("the guest's kernel cannot be told them yet")] = None
    se_linux_options: Annotated[Any, Refused("the guest's kernel has no SELinux")] = None
    se_linux_change_policy: Annotated[Any, Refused("the guest's kernel has no SELinux")] = None
    app_armor_profile: Annotated[Any, Refused("the guest's kernel has no AppArmor")] = None
    windows_options: Annotated[Any, Refused("a container's guest is Linux")] = None


class PodSpec(KubernetesRecord):
    """All of a pod."""

    containers: tuple[Container, ...]
    volumes: tuple[Volume, ...] = ()
    restart_policy: Literal["Always", "OnFailure", "Never"] = "Always"
    termination_grace_period_seconds: int = Field(default=30, ge=0)
    node_selector: dict[str, str] = Field(default_factory=dict)
    affinity: Affinity = Affinity()
    hostname: str | None = None
    security_context: PodSecurityContext = PodSecurityContext()
    service_account_name: str = "default"
    service_account: str = "default"
    automount_service_account_token: Annotated[Any, Refused(_NO_CLUSTER)] = None
    os: Os | None = None
    dns_policy: Literal["ClusterFirst", "Default"] = "ClusterFirst"
    scheduler_name: Literal["default-scheduler"] = "default-scheduler"
    init_containers: Annotated[Any, Refused(_ONE_PROGRAM)] = None
    ephemeral_containers: Annotated[Any, Refused(_ONE_PROGRAM)] = None
    host_network: Annotated[Any, Refused(_HOST)] = None
    host_pid: Annotated[Any, Refused(_HOST)] = Field(default=None, alias="hostPID")
    host_ipc: Annotated[Any, Refused(_HOST)] = Field(default=None, alias="hostIPC")
    host_users: Any = None  # the guest's users are nobody on the host, as `false` asks for
    hostname_override: Annotated[Any, Refused("write hostname")] = None
    host_aliases: Annotated[Any, Refused("the guest's /etc/hosts is made by its init")] = None
    dns_config: Annotated[Any, Refused(_RESOLVER)] = None
    subdomain: Annotated[Any, Refused("there are no names below a service")] = None
    set_hostname_as_fqdn: Annotated[Any, Refused("there are no names below a service")] = Field(
        default=None, alias="setHostnameAsFQDN"
    )
    node_name: Annotated[Any, Refused("its host changes: write nodeSelector, or use vdc migrate")] = None
    active_deadline_seconds: Annotated[Any, Refused("it runs until it is stopped")] = None
    readiness_gates: Annotated[Any, Refused("nobody here reports such conditions")] = None
    scheduling_gates: Annotated[Any, Refused("nobody here takes them away")] = None
    resource_claims: Annotated[Any, Refused("devices of a host cannot be in lockstep")] = None
    resources: Annotated[Any, Refused("give the container's own")] = None
    scheduling_group: Annotated[Any, Refused("Endophytes are placed one by one")] = None
    workload_ref: Annotated[Any, Refused("Endophytes are placed one by one")] = None
    runtime_class_name: Annotated[Any, Noted("it runs in a virtual computer of its own anyway")] = None
    share_process_namespace: Annotated[Any, Noted("there is one container")] = None
    enable_service_links: Annotated[Any, Noted("services do not become variables")] = None
    image_pull_secrets: Annotated[
        Any, Noted("whoever imports the image (vdc image import) has the credentials for it")
    ] = None
    tolerations: Annotated[Any, Noted(_NOT_SCHEDULED)] = None
    priority: Annotated[Any, Noted(_NOT_SCHEDULED)] = None
    priority_class_name: Annotated[Any, Noted(_NOT_SCHEDULED)] = None
    preemption_policy: Annotated[Any, Noted(_NOT_SCHEDULED)] = None
    overhead: Annotated[Any, Noted(_NOT_SCHEDULED)] = None
    topology_spread_constraints: Annotated[Any, Noted("one computer cannot be spread")] = None
