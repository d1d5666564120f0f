"""A pod's container, field by field: what is kept has a type, what is not its reason."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from vdc.kubernetes.fields import KubernetesRecord, Noted, Refused
from vdc.kubernetes.quantity import Quantity

_OUTPUT = "what the program writes is read by vdc logs"
_NO_TERMINAL = "the program has no terminal, but vdc exec gives one to another program"


def _check_port(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("a port is a number or the name of one")
    return value


PortOrName = Annotated[Any, AfterValidator(_check_port)]


class ContainerPort(KubernetesRecord):
    """Where the program listens."""

    container_port: int = Field(ge=1, le=65535)
    name: str | None = None
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"
    host_port: Annotated[Any, Refused("publishing ports on the hosts is not supported yet")] = None
    host_ip: Annotated[Any, Refused("publishing ports on the hosts is not supported yet")] = Field(
        default=None, alias="hostIP"
    )


class KeyRef(KubernetesRecord):
    """One value of a ConfigMap or Secret."""

    name: str = ""
    key: str
    optional: bool = False


class ObjectRef(KubernetesRecord):
    """All of its values."""

    name: str = ""
    optional: bool = False


class FieldSelector(KubernetesRecord):
    """A field of the pod itself."""

    field_path: str
    api_version: Literal["v1"] = "v1"


class ResourceSelector(KubernetesRecord):
    """What the container may use of something."""

    resource: str
    divisor: Quantity = "0"
    container_name: str | None = None


class EnvSource(KubernetesRecord):
    """Where a variable's value is."""

    config_map_key_ref: KeyRef | None = None
    secret_key_ref: KeyRef | None = None
    field_ref: FieldSelector | None = None
    resource_field_ref: ResourceSelector | None = None
    file_key_ref: Annotated[Any, Refused("only init containers could have made the file")] = None


class EnvVar(KubernetesRecord):
    """One variable."""

    name: str
    value: str = ""
    value_from: EnvSource | None = None


class EnvFrom(KubernetesRecord):
    """A variable for each key."""

    prefix: str = ""
    config_map_ref: ObjectRef | None = None
    secret_ref: ObjectRef | None = None


class ExecAction(KubernetesRecord):
    """A command."""

    command: tuple[str, ...] = ()


class HttpHeader(KubernetesRecord):
    """One header."""

    name: str
    value: str = ""


class HttpAction(KubernetesRecord):
    """A request."""

    port: PortOrName
    path: str = "/"
    scheme: Literal["HTTP", "HTTPS"] = "HTTP"
    http_headers: tuple[HttpHeader, ...] = ()
    host: Annotated[Any, Refused("the guest asks itself: for a name, write a Host header")] = None


class TcpAction(KubernetesRecord):
    """A connection."""

    port: PortOrName
    host: Annotated[Any, Refused("the guest asks itself")] = None


class Probe(KubernetesRecord):
    """A question asked again and again."""

    exec: ExecAction | None = None
    http_get: HttpAction | None = None
    tcp_socket: TcpAction | None = None
    initial_delay_seconds: int = 0
    period_seconds: int = 0  # 0 of these is Kubernetes' default
    timeout_seconds: int = 0
    success_threshold: int = 0
    failure_threshold: int = 0
    grpc: Annotated[Any, Refused("a guest asks by exec, httpGet or tcpSocket")] = None
    termination_grace_period_seconds: Annotated[Any, Refused("give the pod's own")] = None


class ResourceNeeds(KubernetesRecord):
    """How much it needs and may use."""

    limits: dict[str, Quantity] = Field(default_factory=dict)
    requests: dict[str, Quantity] = Field(default_factory=dict)
    claims: Annotated[Any, Refused("devices of a host cannot be in lockstep")] = None


class Lifecycle(KubernetesRecord):
    """What happens at its beginning and end."""

    stop_signal: str | None = None
    post_start: Annotated[Any, Refused("only the program itself is run")] = None
    pre_stop: Annotated[Any, Refused("the program is stopped by its signal alone")] = None


class SeccompProfile(KubernetesRecord):
    """Which system calls are allowed."""

    type: Literal["RuntimeDefault", "Unconfined"]
    localhost_profile: Annotated[Any, Refused("there are no profiles in the guest")] = None


class Capabilities(KubernetesRecord):
    """Parts of root's power."""

    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


class SecurityContext(KubernetesRecord):
    """What the program may do."""

    run_as_user: int | None = Field(default=None, ge=0, le=2**31 - 1)
    run_as_group: int | None = Field(default=None, ge=0, le=2**31 - 1)
    run_as_non_root: bool | None = None
    read_only_root_filesystem: bool = False
    allow_privilege_escalation: bool = True
    capabilities: Capabilities = Capabilities()
    privileged: Annotated[Any, Noted("root in the guest has all of the guest, and no device of its host")] = (
        None
    )
    proc_mount: Annotated[Any, Noted("the guest's /proc is its own")] = None
    seccomp_profile: Annotated[
        SeccompProfile | None, Noted("it confines programs that share a kernel, and the guest's is its own")
    ] = None
    se_linux_options: Annotated[Any, Refused("the guest's kernel has no SELinux")] = None
    app_armor_profile: Annotated[Any, Refused("the guest's kernel has no AppArmor")] = None
    windows_options: Annotated[Any, Refused("a container's guest is Linux")] = None


class VolumeMount(KubernetesRecord):
    """Where a volume is seen."""

    name: str
    mount_path: str
    sub_path: str = ""
    read_only: bool = False
    recursive_read_only: Literal["Disabled", "IfPossible", "Enabled"] = "Disabled"
    mount_propagation: Literal["None"] = "None"
    sub_path_expr: Annotated[Any, Refused("write subPath")] = None


class Container(KubernetesRecord):
    """The program and what is around it."""

    name: str = ""
    image: str = Field(min_length=1)
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    env: tuple[EnvVar, ...] = ()
    env_from: tuple[EnvFrom, ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    resources: ResourceNeeds = ResourceNeeds()
    volume_mounts: tuple[VolumeMount, ...] = ()
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Lifecycle = Lifecycle()
    security_context: SecurityContext = SecurityContext()
    volume_devices: Annotated[Any, Refused("a volume is a file system here: write volumeMounts")] = None
    resize_policy: Annotated[Any, Noted("what a guest has of CPUs and memory stays")] = None
    restart_policy: Annotated[Any, Refused("give the pod's own")] = None
    restart_policy_rules: Annotated[Any, Refused("give the pod's own restartPolicy")] = None
    stdin: Annotated[Any, Refused(_NO_TERMINAL)] = None
    stdin_once: Annotated[Any, Refused(_NO_TERMINAL)] = None
    tty: Annotated[Any, Refused(_NO_TERMINAL)] = None
    image_pull_policy: Annotated[
        Any, Noted("an image is imported once and stays what it was for this Endophyte")
    ] = None
    termination_message_path: Annotated[Any, Noted(_OUTPUT)] = None
    termination_message_policy: Annotated[Any, Noted(_OUTPUT)] = None
