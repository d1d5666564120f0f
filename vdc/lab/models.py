"""What the lab says of itself, and what it keeps about itself on disk."""

from __future__ import annotations

from enum import StrEnum

from vdc.model.base import Record


class LabState(StrEnum):
    """A lab as a whole."""

    DOWN = "down"
    UP = "up"  # every part is there; hosts may be under a fault that was asked for
    BROKEN = "broken"  # something is missing that no fault explains; `up` repairs it


class HostState(StrEnum):
    """A host, by the fault that weighs most."""

    UP = "up"
    OFF = "off"
    PAUSED = "paused"
    PARTITIONED = "partitioned"
    SLOW = "slow"


class FaultKind(StrEnum):
    """What can be done to a host."""

    POWER_OFF = "power-off"
    PARTITION = "partition"
    PAUSE = "pause"
    SLOW = "slow"
    FLAP = "flap"
    HEAL = "heal"


class Direction(StrEnum):
    """What a partition drops, as the host sees it."""

    IN = "in"  # nothing reaches the host
    OUT = "out"  # nothing leaves it
    BOTH = "both"


class HostStatus(Record):
    """One host of a lab."""

    name: str
    role: str = "host"  # or witness
    namespace: str
    state: HostState
    agent_pid: int | None
    etcd_pid: int | None
    management_address: str
    replication_address: str
    overlay_address: str
    api_socket: str
    faults: tuple[str, ...] = ()  # in words, for example `management: out dropped`


class ClientStatus(Record):
    """The client on the overlay."""

    namespace: str
    address: str


class LabStatus(Record):
    """`vdc lab status`."""

    name: str
    state: LabState
    hosts: tuple[HostStatus, ...] = ()
    client: ClientStatus | None = None
    context: str = ""
    problems: tuple[str, ...] = ()  # why it is broken


class LabRecord(Record):
    """`lab.json`. Written before anything is made, so that whatever exists can be found again."""

    name: str
    hosts: int
    witness: bool = False
    memory_bytes: int
    is_complete: bool = False
    made_netns_folder: bool = False
    context_file: str = ""
    made_context_file: bool = False


class AgentProcess(Record):
    """The agent that was started last on a host."""

    pid: int
    start_time: int  # clock ticks since boot, field 22 of /proc/PID/stat
