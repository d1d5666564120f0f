"""A pod's volumes: from files, from disks, empty ones; the many others are refused by their kind."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from vdc.kubernetes.container import FieldSelector, ResourceSelector
from vdc.kubernetes.fields import KubernetesRecord, Refused
from vdc.kubernetes.quantity import Quantity

_HOST = "a host's own files do not move with an Endophyte"
_NETWORK = "only disks of the cluster itself are kept on both hosts"
_NO_CLUSTER = "there is no Kubernetes API for it to speak to"


class KeyToPath(KubernetesRecord):
    """One key's file."""

    key: str
    path: str
    mode: int | None = Field(default=None, ge=0, le=0o777)


class ConfigMapVolume(KubernetesRecord):
    """A file for each key."""

    name: str = ""
    items: tuple[KeyToPath, ...] = ()
    default_mode: int = Field(default=0o644, ge=0, le=0o777)
    optional: bool = False


class SecretVolume(KubernetesRecord):
    """The same from a Secret, whose name has another field here."""

    secret_name: str = ""
    items: tuple[KeyToPath, ...] = ()
    default_mode: int = Field(default=0o644, ge=0, le=0o777)
    optional: bool = False


class DownwardFile(KubernetesRecord):
    """A file with a field of the pod."""

    path: str
    field_ref: FieldSelector | None = None
    resource_field_ref: ResourceSelector | None = None
    mode: int | None = Field(default=None, ge=0, le=0o777)


class DownwardVolume(KubernetesRecord):
    """Several of them."""

    items: tuple[DownwardFile, ...] = ()
    default_mode: int = Field(default=0o644, ge=0, le=0o777)


class ProjectedMap(KubernetesRecord):
    """A ConfigMap or Secret among them."""

    name: str = ""
    items: tuple[KeyToPath, ...] = ()
    optional: bool = False


class ProjectedDownward(KubernetesRecord):
    """Fields among them."""

    items: tuple[DownwardFile, ...] = ()


class ProjectedPart(KubernetesRecord):
    """One of the sources that are laid into the same folder."""

    config_map: ProjectedMap | None = None
    secret: ProjectedMap | None = None
    downward_api: ProjectedDownward | None = Field(default=None, alias="downwardAPI")
    service_account_token: Annotated[Any, Refused(_NO_CLUSTER)] = None
    cluster_trust_bundle: Annotated[Any, Refused(_NO_CLUSTER)] = None
    pod_certificate: Annotated[Any, Refused(_NO_CLUSTER)] = None


class ProjectedVolume(KubernetesRecord):
    """Several sources in one folder."""

    sources: tuple[ProjectedPart, ...] = ()
    default_mode: int = Field(default=0o644, ge=0, le=0o777)


class EmptyDirVolume(KubernetesRecord):
    """An empty folder."""

    medium: Literal["", "Memory"] = ""
    size_limit: Quantity = None


class ClaimVolume(KubernetesRecord):
    """A disk by the name of its claim."""

    claim_name: str
    read_only: bool = False


class EphemeralVolume(KubernetesRecord):
    """A disk as the pod itself asks for it; `volumeClaimTemplate` is read as a claim."""

    volume_claim_template: dict[str, Any]


class Volume(KubernetesRecord):
    """One volume; without a source it is an empty folder."""

    name: str
    config_map: ConfigMapVolume | None = None
    secret: SecretVolume | None = None
    downward_api: DownwardVolume | None = Field(default=None, alias="downwardAPI")
    projected: ProjectedVolume | None = None
    empty_dir: EmptyDirVolume | None = None
    persistent_volume_claim: ClaimVolume | None = None
    ephemeral: EphemeralVolume | None = None
    host_path: Annotated[Any, Refused(_HOST, even_empty=True)] = None
    image: Annotated[Any, Refused("files of a second image cannot be mounted", even_empty=True)] = None
    git_repo: Annotated[
        Any, Refused("nothing is fetched for an Endophyte: write a configMap", even_empty=True)
    ] = None
    csi: Annotated[Any, Refused(_NETWORK, even_empty=True)] = None
    nfs: Annotated[Any, Refused(_NETWORK, even_empty=True)] = None
    iscsi: Annotated[Any, Refused(_NETWORK, even_empty=True)] = None
    fc: Annotated[Any, Refused(_NETWORK, even_empty=True)] = None
    rbd: Annotated[Any, Refused(_NETWORK, even_empty=True)] = None
    cephfs: Annotated[Any, Refused(_NETWORK, even_empty=True)] = None
    cinder: Annotated[Any, Refused(_NETWORK, even_empty=True)] = None
    flex_volume: Annotated[Any, Refused(_NETWORK, even_empty=True)] = None
    flocker: Annotated[Any, Refused(_NETWORK, even_empty=True)] = None
    glusterfs: Annotated[Any, Refused(_NETWORK, even_empty=True)] = None
    quobyte: Annotated[Any, Refused(_NETWORK, even_empty=True)] = None
    storageos: Annotated[Any, Refused(_NETWORK, even_empty=True)] = None
    scale_io: Annotated[Any, Refused(_NETWORK, even_empty=True)] = Field(default=None, alias="scaleIO")
    azure_disk: Annotated[Any, Refused(_NETWORK, even_empty=True)] = None
    azure_file: Annotated[Any, Refused(_NETWORK, even_empty=True)] = None
    aws_elastic_block_store: Annotated[Any, Refused(_NETWORK, even_empty=True)] = None
    gce_persistent_disk: Annotated[Any, Refused(_NETWORK, even_empty=True)] = None
    vsphere_volume: Annotated[Any, Refused(_NETWORK, even_empty=True)] = None
    photon_persistent_disk: Annotated[Any, Refused(_NETWORK, even_empty=True)] = None
    portworx_volume: Annotated[Any, Refused(_NETWORK, even_empty=True)] = None
