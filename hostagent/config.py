"""The agent's configuration file (YAML), validated as a whole before anything starts."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from vdc.model.base import StrictRecord
from vdc.model.errors import InvalidError
from vdc.model.ids import DnsLabel
from vdc.model.network import Network
from vdc.model.strict_yaml import MAX_BYTES, StrictError, parse_documents
from vdc.model.units import SizeBytes
from vdc.protection.timing import Durations, contradictions

API_PORT = 7400
HEARTBEAT_PORT = 7401
ETCD_CLIENT_PORT = 7379
ETCD_PEER_PORT = 7380
_YES = ("true", "yes", "on", "1")  # all of them are true to a field of this kind
MAX_UNIX_PATH = 107
_LONGEST_VM_SUFFIX = len("/vms/") + 63 + len("/qmp.sock")
_MAX_UID = 2**31 - 1  # some programs take a larger one for a negative number
_SERVICES = 16  # the last uids of the range


class HostAddress(StrictRecord):
    """An address of this host on one underlay, and the interface that carries it."""

    address: IPv4Address
    interface: str = Field(min_length=1, max_length=15)


class EmbeddedEtcd(StrictRecord):
    """A member that the agent starts and keeps running. Ports are the same on all members."""

    members: dict[DnsLabel, IPv4Address] = Field(
        min_length=1
    )  # host -> management address, this host included
    heartbeat_ms: int = Field(default=20, ge=5, le=1000)
    election_ms: int = Field(default=150, ge=50, le=10_000)
    client_port: int = ETCD_CLIENT_PORT
    peer_port: int = ETCD_PEER_PORT

    @model_validator(mode="after")
    def _election_far_above_heartbeat(self) -> EmbeddedEtcd:
        if self.election_ms < 5 * self.heartbeat_ms:
            raise ValueError("election_ms must be at least five times heartbeat_ms (an etcd rule)")
        return self


class EtcdConfig(StrictRecord):
    """Either an embedded member or the endpoints of an existing etcd."""

    embedded: EmbeddedEtcd | None = None
    endpoints: tuple[str, ...] = ()
    ca: Path | None = None  # of an existing etcd: whom to trust there; None: the machine's authorities
    certificate: Path | None = None  # and what to show
    key: Path | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> EtcdConfig:
        if (self.embedded is None) == (not self.endpoints):
            raise ValueError("give either etcd.embedded or etcd.endpoints")
        if not all(endpoint.startswith("https://") for endpoint in self.endpoints):
            raise ValueError("etcd.endpoints must begin with https://: nothing is sent in clear")
        if self.embedded is not None and (self.ca or self.certificate or self.key):
            raise ValueError(
                "ca, certificate and key are for etcd.endpoints; etcd.embedded has the cluster's"
            )
        if (self.certificate is None) != (self.key is None):
            raise ValueError("give both certificate and key, or neither")
        return self


class GuestUids(StrictRecord):
    """Users that nobody else on this host has: one for each VM, the last few for helper programs.

    The default lies beyond what distributions, LDAP and containers give out (systemd's UIDS-GIDS.md).
    """

    first: int = Field(default=1_900_000_000, ge=1_000)
    count: int = Field(default=65_536, ge=256)

    @model_validator(mode="after")
    def _within_31_bits(self) -> GuestUids:
        if self.first + self.count - 1 > _MAX_UID:
            raise ValueError(f"guest_uids must end at {_MAX_UID} or before")
        return self

    @property
    def all(self) -> range:
        """Every one."""
        return range(self.first, self.first + self.count)

    @property
    def guests(self) -> range:
        """Those that VMs get."""
        return self.all[:-_SERVICES]

    @property
    def etcd(self) -> int:
        """Of the etcd member."""
        return self.all[-1]

    @property
    def dnsmasq(self) -> int:
        """Of the guests' name service."""
        return self.all[-2]

    @property
    def probe(self) -> int:
        """Of the QEMU that is asked what it can do."""
        return self.all[-3]


class Timings(StrictRecord):
    """Detection and budgets in milliseconds; checked against each other (docs/failover.md)."""

    heartbeat_ms: int = Field(default=50, ge=10, le=1000)
    suspect_ms: int = Field(default=200, ge=50, le=10_000)
    isolated_pause_ms: int = Field(default=8_000, ge=1_000)
    secondary_delay_ms: int = Field(
        default=30, ge=0
    )  # the primary's head start when only replication is lost
    liveness_ttl_s: int = Field(default=3, ge=2)
    leader_ttl_s: int = Field(default=3, ge=2)
    reprotect_backoff_s: float = Field(default=30.0, ge=0)


class AgentConfig(StrictRecord):
    """Everything that an agent has to be told."""

    host: DnsLabel
    state_dir: Path
    management: HostAddress
    replication: HostAddress
    overlay_address: IPv4Address
    network: Network = Network()
    etcd: EtcdConfig
    witness: bool = False  # votes and may lead, runs no guests
    api_port: int = API_PORT
    heartbeat_port: int = HEARTBEAT_PORT
    runtime: Path | None = None  # the runtime root; None: the host's own QEMU
    cache_dir: Path | None = None  # for what was found out about this machine; None: below state_dir
    memory: SizeBytes | None = None  # that Endophytes may use; None: what the host has less a reserve
    labels: dict[str, str] = Field(default_factory=dict)
    timings: Timings = Timings()
    resync_mbit: int = Field(
        default=0, ge=0, le=1_000_000
    )  # a copy to a secondary takes at most; 0: no limit
    image_mbit: int = Field(
        default=400, ge=0, le=1_000_000
    )  # images that this host sends and fetches take at most, while one of its guests has a second copy; 0: no limit
    guest_uids: GuestUids = GuestUids()
    accelerator: str = Field(default="auto", pattern="^(auto|kvm|tcg)$")
    use_libvirt: bool = True
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")

    @model_validator(mode="before")
    @classmethod
    def _witness_needs_less(cls, values: Any) -> Any:
        """A witness has neither replication nor overlay: one address is enough for it."""
        if not isinstance(values, dict) or str(values.get("witness")).lower() not in _YES:
            return values
        return {"replication": values.get("management"), "overlay_address": _any_overlay(values), **values}

    @model_validator(mode="after")
    def _consistent(self) -> AgentConfig:
        if problems := contradictions(self.durations):
            raise ValueError("; ".join(problems))
        if not self.state_dir.is_absolute():
            raise ValueError("state_dir must be an absolute path")
        if len(str(self.state_dir)) + _LONGEST_VM_SUFFIX > MAX_UNIX_PATH:
            raise ValueError(
                f"state_dir is too long: sockets below it must stay within {MAX_UNIX_PATH} characters, "
                f"so it may have {MAX_UNIX_PATH - _LONGEST_VM_SUFFIX}"
            )
        if self.overlay_address not in self.network.cidr:
            raise ValueError("overlay_address does not lie in network.cidr")
        if self.etcd.embedded and self.host not in self.etcd.embedded.members:
            raise ValueError(f"etcd.embedded.members does not name this host ({self.host})")
        return self

    @property
    def has_replication(self) -> bool:
        """Whether there is a second network; a witness may do with the management network."""
        return self.replication.address != self.management.address

    @property
    def durations(self) -> Durations:
        """All durations that failover depends on, of this agent."""
        timings, etcd = self.timings, self.etcd.embedded
        return Durations(
            heartbeat_ms=timings.heartbeat_ms, suspect_ms=timings.suspect_ms,
            secondary_delay_ms=timings.secondary_delay_ms, isolated_pause_ms=timings.isolated_pause_ms,
            liveness_ttl_ms=timings.liveness_ttl_s * 1000, leader_ttl_ms=timings.leader_ttl_s * 1000,
            reprotect_backoff_ms=timings.reprotect_backoff_s * 1000,
            etcd_heartbeat_ms=etcd.heartbeat_ms if etcd else None,
            etcd_election_ms=etcd.election_ms if etcd else None,
        )  # fmt: skip

    @property
    def api_url(self) -> str:
        """Where this agent's API is reached by the other hosts."""
        return f"https://{self.management.address}:{self.api_port}"


def _any_overlay(values: dict[str, Any]) -> str:
    """Some address inside the overlay; a witness has no interface there."""
    network = values.get("network")
    cidr = network.get("cidr") if isinstance(network, dict) else getattr(network, "cidr", None)
    return str(cidr or Network().cidr).partition("/")[0]


def load_config(path: Path, *, witness: bool = False) -> AgentConfig:
    """Read and validate the file; raises InvalidError with the first offending field in one line.

    `witness`: as if the file said `witness: true`.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidError(f"cannot read {path}: {error.strerror}", code="config-unreadable") from error
    return parse_config(text, path, witness=witness)


def parse_config(text: bytes, path: Path, *, witness: bool = False) -> AgentConfig:
    """Validate a configuration's text, read as strictly as a manifest; raises InvalidError that names `path`."""
    try:
        documents = parse_documents(text)
    except StrictError as error:
        raise InvalidError(f"{path} cannot be used: {error}", code="config-invalid") from error
    if len(documents) != 1:
        raise InvalidError(f"{path} has {len(documents)} documents instead of one", code="config-invalid")
    document = documents[0]
    if witness and isinstance(document, dict):
        document["witness"] = True
    try:
        return AgentConfig.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part)[:60] for part in first["loc"]) or "the file"
        raise InvalidError(f"{path}: {field}: {first['msg']}", code="config-invalid") from error
