"""What a lab consists of, worked out from its name and number of hosts. Pure: nothing is looked up or made.

Two labs use the same addresses: each has namespaces of its own, and no wire leads from one to the other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from pathlib import Path

from vdc.model.errors import InvalidError, NotFoundError
from vdc.model.network import Network

DEFAULT_LAB = "default"
DEFAULT_HOSTS = 3
MAX_HOSTS = 8
WITNESS = "w1"
WITNESS_INDEX = 9
CLIENT = "client"
CLIENT_OCTET = 200
MAX_STATE_DIR = 30  # of one host: the agent's unix sockets below it must fit into sun_path
BRIDGE = "br0"  # of a switch namespace
CLIENT_OVERLAY_LINK = "overlay0"

_LAB_NAME = re.compile(r"[a-z0-9]{1,8}")
_MEMBER = re.compile(r"h[1-8]|w1|client|mgmt|repl")


class Underlay(StrEnum):
    """The two networks between the hosts."""

    MANAGEMENT = "management"
    REPLICATION = "replication"

    @property
    def suffix(self) -> str:
        """The end of its switch's namespace name."""
        return "mgmt" if self is Underlay.MANAGEMENT else "repl"

    @property
    def interface(self) -> str:
        """What a host calls its leg on it."""
        return f"{self.suffix}0"

    def address(self, octet: int) -> IPv4Address:
        """The address of the member with this last octet; all prefixes are /24."""
        return IPv4Address(f"10.{self._number}.0.{octet}")

    def mac(self, octet: int) -> str:
        """The MAC of that member: a host that comes back after a power-off has the same NIC as before."""
        return f"02:76:64:63:{self._number:02x}:{octet:02x}"

    @property
    def _number(self) -> int:
        return 70 if self is Underlay.MANAGEMENT else 71


@dataclass(frozen=True, slots=True)
class HostPlan:
    """One host of a lab."""

    name: str
    index: int  # 1 to 8, or the witness's; also the last octet of all its addresses
    namespace: str
    state_dir: Path
    overlay: IPv4Address
    is_witness: bool = False

    def address(self, underlay: Underlay) -> IPv4Address:
        """Its address on that network."""
        return underlay.address(self.index)

    @property
    def config_file(self) -> Path:
        """The agent's configuration."""
        return self.state_dir / "agent.yaml"

    @property
    def agent_log(self) -> Path:
        """What the agent writes to its standard streams."""
        return self.state_dir / "log" / "agent.log"

    @property
    def process_file(self) -> Path:
        """Pid and start time of the agent that was started last; it survives a power-off, as on a disk."""
        return self.state_dir / "lab-agent.json"

    @property
    def api_socket(self) -> Path:
        """Where the agent serves its API for this machine."""
        return self.state_dir / "api.sock"


@dataclass(frozen=True, slots=True)
class LabPlan:
    """A whole lab."""

    name: str
    folder: Path
    network: Network
    hosts: tuple[HostPlan, ...]

    @property
    def guest_hosts(self) -> tuple[HostPlan, ...]:
        """Those that run guests."""
        return tuple(host for host in self.hosts if not host.is_witness)

    @property
    def record_file(self) -> Path:
        """What exists, for idempotence and for `down` after a crash."""
        return self.folder / "lab.json"

    @property
    def admin_file(self) -> Path:
        """A context for programs inside the lab's namespaces, where the agents' sockets are not to be used."""
        return self.folder / "admin.yaml"

    @property
    def context(self) -> str:
        """The name of its command-line context."""
        return "lab" if self.name == DEFAULT_LAB else f"lab-{self.name}"

    @property
    def client_namespace(self) -> str:
        """Where test clients run."""
        return namespace_name(self.name, CLIENT)

    @property
    def client_overlay(self) -> IPv4Address:
        """The client's address on the overlay."""
        return self.network.cidr.network_address + CLIENT_OCTET

    @property
    def client_vtep(self) -> IPv4Address:
        """The client's tunnel endpoint on the management network."""
        return Underlay.MANAGEMENT.address(CLIENT_OCTET)

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Every namespace of the lab, switches first."""
        switches = [self.switch(underlay) for underlay in Underlay]
        return (*switches, self.client_namespace, *(host.namespace for host in self.hosts))

    @property
    def marker(self) -> str:
        """Written as the alias of the loopback of each namespace: whose it is."""
        return marker(self.name, self.folder)

    def switch(self, underlay: Underlay) -> str:
        """The namespace that plays the switch of an underlay."""
        return namespace_name(self.name, underlay.suffix)

    def host(self, name: str) -> HostPlan:
        """A host by its name; `NotFoundError` (`lab-host-not-found`)."""
        for host in self.hosts:
            if host.name == name:
                return host
        known = ", ".join(host.name for host in self.hosts)
        raise NotFoundError(
            f"the lab has no host {name[:40]!r}", hint=f"its hosts: {known}", code="lab-host-not-found"
        )


def check_lab_name(name: str) -> str:
    """Accept 1 to 8 lower-case letters and digits (the name becomes part of paths); else `InvalidError`."""
    if not _LAB_NAME.fullmatch(name):
        raise InvalidError(
            f"{name[:40]!r} is not a lab's name",
            hint="use 1 to 8 lower-case letters and digits",
            code="lab-name-invalid",
        )
    return name


def namespace_name(lab: str, member: str) -> str:
    """`vdc-h1` in the default lab, `vdc-NAME-h1` in another one."""
    return f"vdc-{member}" if lab == DEFAULT_LAB else f"vdc-{lab}-{member}"


def marker(lab: str, folder: Path) -> str:
    """What tells a lab's namespaces from those of one with the same name and another state folder."""
    return f"vdc-lab {lab} {folder}"


def lab_of_namespace(namespace: str) -> str | None:
    """The lab whose naming scheme a namespace follows, if any."""
    prefix, *rest = namespace.split("-")
    if prefix != "vdc" or len(rest) not in (1, 2) or not _MEMBER.fullmatch(rest[-1]):
        return None
    if len(rest) == 1:
        return DEFAULT_LAB
    return rest[0] if _LAB_NAME.fullmatch(rest[0]) and rest[0] != DEFAULT_LAB else None


def lab_folder(state_root: Path, name: str) -> Path:
    """The lab's state folder."""
    return state_root / "lab" / name


def make_plan(name: str, hosts: int, state_root: Path, *, witness: bool = False) -> LabPlan:
    """Work a lab out, the witness as its last host.

    Raises `InvalidError` for a bad name or number of hosts, or too long a state folder.
    """
    check_lab_name(name)
    if not 1 <= hosts <= MAX_HOSTS:
        raise InvalidError(f"a lab has 1 to {MAX_HOSTS} hosts, not {hosts}", code="lab-hosts-invalid")
    folder = lab_folder(state_root, name)
    if (excess := len(str(folder / "h1")) - MAX_STATE_DIR) > 0:
        raise InvalidError(
            f"the state folder {folder} is {excess} characters too long for unix sockets below it",
            hint="set VDC_STATE_DIR to a shorter absolute path",
            code="state-dir-too-long",
        )
    network = Network(external_vteps=(str(Underlay.MANAGEMENT.address(CLIENT_OCTET)),))
    named = [(f"h{index}", index) for index in range(1, hosts + 1)]
    members = tuple(
        HostPlan(
            name=member,
            index=index,
            namespace=namespace_name(name, member),
            state_dir=folder / member,
            overlay=network.cidr.network_address + index,
            is_witness=member == WITNESS,
        )
        for member, index in (*named, *([(WITNESS, WITNESS_INDEX)] if witness else []))
    )
    return LabPlan(name=name, folder=folder, network=network, hosts=members)
